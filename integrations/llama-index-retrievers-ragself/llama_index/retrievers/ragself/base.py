"""The retriever: a thin face of `ragself.KnowledgeBase` that LlamaIndex knows how to use."""

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
    """A query's vector that knows which version of the index it belongs to."""

    def __init__(self, embedding: Embedding) -> None:
        """Take over what `KnowledgeBase.embed` made."""
        super().__init__(embedding.vector)
        self.embedding = embedding


class RagselfRetriever(RetrieverMixin, BaseRetriever):
    """Retrieves from a ragself knowledge base, which trains itself in the background and switches without a pause.

    In mode ``vector`` scores are cosines in the space of the version that answers. Mode ``hybrid`` adds two lexical
    scores in units of cosine. A cutoff means something else after each switch: prefer `similarity_top_k`.

    Examples:
        `pip install llama-index-retrievers-ragself`

        ```python
        retriever = RagselfRetriever.from_vector_store(vector_store, "my-kb")
        nodes = retriever.retrieve("how are retries configured?")
        retriever.start_adapting(queries=["what users asked"])
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
        """Serve a knowledge base.

        Args:
            knowledge_base: It, or the path of one.
            similarity_top_k: How many nodes to return, at most.
            filters: Metadata filters, all that `ChromaVectorStore` supports.
            callback_manager: As for any retriever.
            object_map: As for any retriever.
            objects: As for any retriever.
            verbose: As for any retriever.
            mode: ``hybrid`` ranks by vector and by words, ``vector`` by the plain vector query.

        Raises:
            ValueError: `similarity_top_k` is below 1, or a filter or the mode is not supported.
            ragself.StoreError: There is no knowledge base at the path.
        """
        self._check({"similarity_top_k": similarity_top_k, "filters": filters, "mode": mode})
        if not isinstance(knowledge_base, KnowledgeBase | str | Path):
            raise ValueError(
                f"The knowledge base is a {type(knowledge_base).__name__}, expected a ragself.KnowledgeBase or the "
                "path of one. Of an index or a store one is made by from_index and from_vector_store."
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
        """Follow what a `ChromaVectorStore` holds, whichever framework filled it, and never write to it.

        Args:
            vector_store: The store. Nodes that are added to or deleted from it are taken over by `sync`.
            knowledge_base: Folder for the knowledge base that is made, or was made from this store before.
            embed_model: What the store was filled with; None takes the settings, all-MiniLM-L6-v2 by default.
            show_progress: Show bars on a terminal, lines elsewhere.
            kwargs: For the retriever.

        Raises:
            ValueError: The store is no Chroma store, is empty or was filled with another model.
            ragself.StoreError: Its collection is missing, or the knowledge base follows another one.
        """
        cls._check(kwargs)
        if not isinstance(vector_store, ChromaVectorStore):
            raise ValueError(f"The vector store is a {type(vector_store).__name__}, expected a ChromaVectorStore.")
        config = config_for(embed_model, knowledge_base)
        with progress_bars(show_progress) as told:
            kb = KnowledgeBase.adopt(knowledge_base, vector_store.client, config=config, progress=told)
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
        """Add nodes to a knowledge base, which is made where there is none. Raises what `add` does."""
        cls._check(kwargs)
        chunks, config = as_chunks(nodes), config_for(embed_model, knowledge_base)
        with progress_bars(show_progress) as told:
            kb = KnowledgeBase.from_chunks(knowledge_base, chunks, config=config, progress=told)
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
        """Follow an index that keeps its vectors in Chroma, or take the nodes of one that keeps them elsewhere.

        Args:
            index: The index.
            knowledge_base: Folder of the knowledge base that is made.
            embed_model: None takes that of the index.
            show_progress: Show bars on a terminal, lines elsewhere.
            kwargs: For the retriever.
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
        """Refuse what is none of the retriever's before anything is made."""
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
        """The vector of a query, to be put into `QueryBundle.embedding` where it is asked more than once."""
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
        """An embedding that came with the query; one without a mark is of the base model, as for any retriever."""
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
        """Add nodes; those whose id exists are replaced.

        Raises:
            ValueError: Metadata is nested, ids occur twice or texts are empty. Nothing was written.
        """
        return self.knowledge_base.add(as_chunks(nodes))

    async def aadd(self, nodes: Sequence[BaseNode]) -> Added:
        """As `add`, without holding up the event loop."""
        return await asyncio.to_thread(self.add, nodes)

    def delete(self, ref_doc_id: str) -> int:
        """Delete all nodes of a document, as vector stores do. Returns how many there were.

        Raises:
            ValueError: It is no string, or the nodes belong to the store that is followed. Nothing was deleted.
        """
        if not isinstance(ref_doc_id, str):
            raise ValueError(f"ref_doc_id is a {type(ref_doc_id).__name__}, expected the id of one document.")
        return self.knowledge_base.delete(self.knowledge_base.ids({"ref_doc_id": ref_doc_id}))

    def delete_nodes(self, node_ids: Sequence[str]) -> int:
        """Delete nodes; ids that are not there are passed over. Returns how many were."""
        return self.knowledge_base.delete(node_ids)
