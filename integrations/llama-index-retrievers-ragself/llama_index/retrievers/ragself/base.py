"""LlamaIndex retriever: a thin wrapper of `ragself.KnowledgeBase`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.indices.vector_store.base import VectorStoreIndex
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import BasePydanticVectorStore, MetadataFilters
from llama_index.retrievers.ragself.encoder import config_for
from llama_index.retrievers.ragself.nodes import as_chunks, as_node
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index.vector_stores.chroma.base import _to_chroma_filter

from ragself import Added, Embedding, KnowledgeBase
from ragself.retriever import RetrieverMixin, check_arguments, progress_bars


class VersionedEmbedding(list[float]):
    """Vector of a query, with the index version that it belongs to."""

    def __init__(self, embedding: Embedding) -> None:
        """Wrap the result of `KnowledgeBase.embed`."""
        super().__init__(embedding.vector)
        self.embedding = embedding


class RagselfRetriever(RetrieverMixin, BaseRetriever):
    """Retriever on a ragself knowledge base, which trains in the background and switches versions without a pause.

    In mode ``vector`` scores are cosines in the space of the version that answers. Mode ``hybrid`` adds two lexical
    scores in units of cosine. The meaning of a cutoff changes with each switch: prefer `similarity_top_k`.

    Examples:
        `pip install llama-index-retrievers-ragself`

        ```python
        retriever = RagselfRetriever.from_vector_store(vector_store, "my-kb")
        nodes = retriever.retrieve("how are retries configured?")
        retriever.start_adapting(queries=["how do I set a timeout?"])
        ```
    """

    def __init__(
        self,
        knowledge_base: KnowledgeBase | str | Path,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
        mode: Literal["hybrid", "vector"] = "hybrid",
    ) -> None:
        """Create a retriever on a knowledge base.

        Args:
            knowledge_base: The knowledge base, or its path.
            similarity_top_k: Maximum number of nodes to return.
            filters: Metadata filters, with all operators that `ChromaVectorStore` supports.
            callback_manager: As for any retriever.
            object_map: As for any retriever.
            objects: As for any retriever.
            verbose: As for any retriever.
            mode: ``hybrid`` ranks by vector and by words, ``vector`` by vector only.

        Raises:
            ValueError: `similarity_top_k` is below 1, or a filter or the mode is not supported.
            ragself.StoreError: The path holds no knowledge base.
        """
        self._check({"similarity_top_k": similarity_top_k, "filters": filters, "mode": mode})
        if not isinstance(knowledge_base, KnowledgeBase | str | Path):
            raise ValueError(
                f"The knowledge base is a {type(knowledge_base).__name__}, expected a ragself.KnowledgeBase or the "
                "path of one. To create one from an index or a store, use from_index or from_vector_store."
            )
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self.mode: Literal["hybrid", "vector"] = mode
        if not isinstance(knowledge_base, KnowledgeBase):
            knowledge_base = KnowledgeBase(knowledge_base, create=False)
        self.knowledge_base: KnowledgeBase = knowledge_base
        super().__init__(callback_manager=callback_manager, object_map=object_map, objects=objects, verbose=verbose)

    @classmethod
    def from_vector_store(
        cls,
        vector_store: BasePydanticVectorStore,
        knowledge_base: str | Path,
        embed_model: BaseEmbedding | str | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> RagselfRetriever:
        """Adopt the nodes of a `ChromaVectorStore`, whichever framework filled it. Never writes to it.

        Args:
            vector_store: The store. `sync` applies later additions to it and deletions from it.
            knowledge_base: Folder of the knowledge base: a new one, or one created from this store before.
            embed_model: Model that the store was filled with; None takes the settings, all-MiniLM-L6-v2 by default.
            show_progress: Show progress bars on a terminal, lines elsewhere.
            kwargs: Arguments of the retriever.

        Raises:
            ValueError: The store is not a Chroma store, is empty or was filled with another model.
            ragself.StoreError: The collection is missing, or the knowledge base has adopted another one.
        """
        cls._check(kwargs)
        if not isinstance(vector_store, ChromaVectorStore):
            raise ValueError(f"The vector store is a {type(vector_store).__name__}, expected a ChromaVectorStore.")
        config = config_for(embed_model, knowledge_base)
        with progress_bars(show_progress) as progress:
            kb = KnowledgeBase.adopt(knowledge_base, vector_store.client, config=config, progress=progress)
        return cls._closing(kb, kwargs)

    @classmethod
    def from_nodes(
        cls,
        nodes: Sequence[BaseNode],
        knowledge_base: str | Path,
        embed_model: BaseEmbedding | str | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> RagselfRetriever:
        """Add nodes to a knowledge base, created if it does not exist. Raises the errors of `add`."""
        cls._check(kwargs)
        chunks, config = as_chunks(nodes), config_for(embed_model, knowledge_base)
        with progress_bars(show_progress) as progress:
            kb = KnowledgeBase.from_chunks(knowledge_base, chunks, config=config, progress=progress)
        return cls._closing(kb, kwargs)

    @classmethod
    def from_index(
        cls,
        index: VectorStoreIndex,
        knowledge_base: str | Path,
        embed_model: BaseEmbedding | str | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> RagselfRetriever:
        """Adopt an index that stores its vectors in Chroma, or add the nodes of an index that stores them elsewhere.

        Args:
            index: The index.
            knowledge_base: Folder of the knowledge base.
            embed_model: Model that the index was filled with; None takes the model of the index.
            show_progress: Show progress bars on a terminal, lines elsewhere.
            kwargs: Arguments of the retriever.
        """
        if not isinstance(index, VectorStoreIndex):
            raise ValueError(f"The index is a {type(index).__name__}, expected a VectorStoreIndex.")
        model = embed_model if embed_model is not None else index._embed_model
        like_its_own = {"object_map": index._object_map, "callback_manager": index._callback_manager, **kwargs}
        if isinstance(index.vector_store, ChromaVectorStore):
            return cls.from_vector_store(index.vector_store, knowledge_base, model, show_progress, **like_its_own)
        ids = list(index.index_struct.nodes_dict.values())
        if not ids:
            raise ValueError("The index keeps no nodes itself. Give the nodes: RagselfRetriever.from_nodes.")
        nodes = index.docstore.get_nodes(ids)
        return cls.from_nodes(nodes, knowledge_base, model, show_progress, **like_its_own)

    @classmethod
    def _check(cls, kwargs: dict[str, Any]) -> None:
        """Reject wrong arguments of the retriever before anything is created."""
        check_arguments(kwargs, set(signature(cls).parameters) - {"knowledge_base"})
        top_k = kwargs.get("similarity_top_k", DEFAULT_SIMILARITY_TOP_K)
        if not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"similarity_top_k is {top_k!r}, expected a whole number, 1 or more.")
        if kwargs.get("mode", "hybrid") not in ("hybrid", "vector"):
            raise ValueError(f"The mode is {kwargs['mode']!r:.60}, expected 'hybrid' or 'vector'.")
        cls._where(kwargs.get("filters"))

    @classmethod
    def _closing(cls, kb: KnowledgeBase, kwargs: dict[str, Any]) -> RagselfRetriever:
        try:
            return cls(kb, **kwargs)
        except BaseException:
            kb.close()
            raise

    # retrieving -----------------------------------------------------------------------------------

    def embed(self, query: str | QueryBundle) -> VersionedEmbedding:
        """Vector of a query. Put it into `QueryBundle.embedding` if the query is used more than once."""
        bundle = QueryBundle(query) if isinstance(query, str) else query
        return VersionedEmbedding(self.knowledge_base.embed(bundle.embedding_strs))

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self.knowledge_base.search(
            query_bundle.embedding_strs,
            self.similarity_top_k,
            self._where(self.filters),
            mode=self.mode,
            embedding=self._given(query_bundle.embedding),
        )
        return [as_node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _given(self, embedding: list[float] | None) -> Embedding | None:
        """Embedding that came with the query. A plain list belongs to the base model, as for any retriever."""
        if embedding is None:
            return None
        if isinstance(embedding, VersionedEmbedding):
            return embedding.embedding
        return Embedding(embedding, self.knowledge_base.base.fingerprint)

    @staticmethod
    def _where(filters: MetadataFilters | None) -> dict[str, Any] | None:
        if filters is None:
            return None
        if not isinstance(filters, MetadataFilters):
            raise ValueError(f"The filters are a {type(filters).__name__}, expected MetadataFilters.")
        return _to_chroma_filter(filters) or None

    # documents ------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode]) -> Added:
        """Add nodes. A node replaces an earlier one with the same id.

        Raises:
            ValueError: Metadata is nested, an id occurs twice or a text is empty. Nothing was written.
        """
        return self.knowledge_base.add(as_chunks(nodes))

    async def aadd(self, nodes: Sequence[BaseNode]) -> Added:
        """Like `add`, without blocking the event loop."""
        return await asyncio.to_thread(self.add, nodes)

    def delete(self, ref_doc_id: str) -> int:
        """Delete all nodes of a document, as vector stores do, and return how many were deleted.

        Raises:
            ValueError: The id is not a string, or the nodes belong to the adopted store. Nothing was deleted.
        """
        if not isinstance(ref_doc_id, str):
            raise ValueError(f"ref_doc_id is a {type(ref_doc_id).__name__}, expected the id of one document.")
        return self.knowledge_base.delete(self.knowledge_base.ids({"ref_doc_id": ref_doc_id}))

    def delete_nodes(self, node_ids: Sequence[str]) -> int:
        """Delete nodes and return how many were deleted. Unknown ids are ignored."""
        return self.knowledge_base.delete(node_ids)
