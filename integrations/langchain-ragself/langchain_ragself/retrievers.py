"""LangChain retriever: a thin wrapper of `ragself.KnowledgeBase`."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.vectorstores import VectorStore
from pydantic import Field, field_validator

from langchain_ragself.encoder import config_for
from ragself import Chunk, Hit, KnowledgeBase
from ragself.retriever import RetrieverMixin, check_arguments, progress_bars


class RagselfRetriever(RetrieverMixin, BaseRetriever):
    """Retriever on a ragself knowledge base, which trains in the background and switches versions without a pause.

    `k`, `filter`, `score_threshold` and `mode` may also be given to `invoke`.

    Example:
        ```python
        retriever = RagselfRetriever.from_vectorstore(vectorstore, "my-kb")
        documents = retriever.invoke("how are retries configured?")
        retriever.start_adapting(queries=["how do I set a timeout?"])
        ```
    """

    knowledge_base: KnowledgeBase
    """The knowledge base, or its path."""

    k: int = Field(default=4, ge=1)
    """Maximum number of documents to return."""

    filter: dict[str, Any] | None = None
    """Chroma metadata filter; None searches everything."""

    score_threshold: float | None = None
    """Minimum score. In mode ``vector`` a score is the cosine in the space of the live version. Mode ``hybrid`` adds
    the lexical scores, and the sum may exceed 1. The meaning of a threshold changes with each switch."""

    mode: Literal["hybrid", "vector"] = "hybrid"
    """``hybrid`` ranks by vector and by words, ``vector`` by vector only."""

    @field_validator("knowledge_base", mode="before")
    @classmethod
    def _open(cls, value: Any) -> Any:
        return KnowledgeBase(value, create=False) if isinstance(value, str | Path) else value

    # constructors ----------------------------------------------------------------------------------

    @classmethod
    def from_vectorstore(
        cls,
        vectorstore: VectorStore,
        knowledge_base: str | Path,
        embedding: Embeddings | str | None = None,
        *,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> RagselfRetriever:
        """Adopt the documents of a `langchain_chroma.Chroma`, whichever framework filled it. Never writes to it.

        Args:
            vectorstore: The store. `sync` applies later additions to it and deletions from it.
            knowledge_base: Folder of the knowledge base: a new one, or one created from this store before.
            embedding: Model that the store was filled with. None takes the model of the store if it can be loaded,
                else the settings.
            show_progress: Show progress bars on a terminal, lines elsewhere.
            kwargs: Arguments of the retriever.

        Raises:
            ValueError: The store is not a Chroma store, is empty or was filled with another model.
            ragself.StoreError: The collection is missing, or the knowledge base has adopted another one.
        """
        cls._check(kwargs)
        collection = getattr(vectorstore, "_collection", None)
        if collection is None:
            raise ValueError(f"The vector store is a {type(vectorstore).__name__}, expected a langchain_chroma.Chroma.")
        config = config_for(embedding if embedding is not None else vectorstore.embeddings, knowledge_base)
        with progress_bars(show_progress) as progress:
            kb = KnowledgeBase.adopt(knowledge_base, collection, config=config, progress=progress)
        return cls._made(kb, kwargs)

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        knowledge_base: str | Path,
        embedding: Embeddings | str | None = None,
        *,
        ids: Sequence[str] | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> RagselfRetriever:
        """Add documents to a knowledge base, created if it does not exist. Raises the errors of `add_documents`."""
        cls._check(kwargs)
        chunks, config = _as_chunks(list(documents), ids)[1], config_for(embedding, knowledge_base)
        with progress_bars(show_progress) as progress:
            kb = KnowledgeBase.from_chunks(knowledge_base, chunks, config=config, progress=progress)
        return cls._made(kb, kwargs)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        knowledge_base: str | Path,
        embedding: Embeddings | str | None = None,
        metadatas: Iterable[dict[str, Any] | None] | None = None,
        **kwargs: Any,
    ) -> RagselfRetriever:
        """Like `from_documents`, from texts with their metadata."""
        if isinstance(texts, str):
            raise ValueError("The texts are one string, expected a list of them.")
        held = list(texts)
        described = [{} for _ in held] if metadatas is None else list(metadatas)
        if len(described) != len(held):
            raise ValueError(f"{len(described)} metadatas for {len(held)} texts; expected one each.")
        documents = [Document(text, metadata=metadata or {}) for text, metadata in zip(held, described, strict=True)]
        return cls.from_documents(documents, knowledge_base, embedding, **kwargs)

    @classmethod
    def _check(cls, kwargs: dict[str, Any]) -> None:
        """Reject arguments that the retriever does not have, before anything is created."""
        check_arguments(kwargs, set(cls.model_fields) - {"knowledge_base"})

    @classmethod
    def _made(cls, kb: KnowledgeBase, kwargs: dict[str, Any]) -> RagselfRetriever:
        try:
            return cls(knowledge_base=kb, **kwargs)
        except BaseException:
            kb.close()
            raise

    # retrieving -----------------------------------------------------------------------------------

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "chroma"
        params["ls_embedding_provider"] = "ragself"
        params["ls_embedding_model"] = self.knowledge_base.encoder
        return params

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        mode: Literal["hybrid", "vector"] | None = None,
    ) -> list[Document]:
        return self._search(query, k, filter, score_threshold, mode)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
        mode: Literal["hybrid", "vector"] | None = None,
    ) -> list[Document]:
        return await asyncio.to_thread(self._search, query, k, filter, score_threshold, mode)

    def _search(
        self,
        query: str,
        k: int | None,
        filter: Mapping[str, Any] | None,
        score_threshold: float | None,
        mode: Literal["hybrid", "vector"] | None,
    ) -> list[Document]:
        least = self.score_threshold if score_threshold is None else score_threshold
        if least is not None and not isinstance(least, int | float):
            raise ValueError(f"score_threshold is {least!r}, expected a number.")
        hits = self.knowledge_base.search(
            query,
            self.k if k is None else k,
            self.filter if filter is None else filter,
            mode=self.mode if mode is None else mode,
        )
        return [_as_document(hit) for hit in hits if least is None or hit.score >= least]

    # documents ------------------------------------------------------------------------------------

    def add_documents(self, documents: Sequence[Document], ids: Sequence[str] | None = None) -> list[str]:
        """Add documents. A document replaces an earlier one with the same id.

        Args:
            documents: Documents whose metadata Chroma can store: flat values, or lists of values of one type.
            ids: Ids of the documents; None takes their own. A document without an id gets one from its content, so
                that adding it again changes nothing.

        Returns:
            The ids.

        Raises:
            ValueError: Metadata is nested or None, an id occurs twice or a text is empty. Nothing was written.
        """
        given, chunks = _as_chunks(documents, ids)
        self.knowledge_base.add(chunks)
        return given

    async def aadd_documents(self, documents: Sequence[Document], ids: Sequence[str] | None = None) -> list[str]:
        """Like `add_documents`, without blocking the event loop."""
        return await asyncio.to_thread(self.add_documents, documents, ids)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents and return how many were deleted. Unknown ids are ignored."""
        return self.knowledge_base.delete(ids)


def _as_chunks(documents: Sequence[Document], ids: Sequence[str] | None) -> tuple[list[str], list[Chunk]]:
    """Id of each document, and the chunks. Equal documents without an id become one chunk."""
    if not all(isinstance(document, Document) for document in documents):
        raise ValueError("Expected a list of Documents; for texts use from_texts. Nothing was written.")
    named = [document.id for document in documents] if ids is None else list(ids)
    if isinstance(ids, str) or len(named) != len(documents):
        raise ValueError(f"{len(named)} ids for {len(documents)} documents; expected one each. Nothing was written.")
    given = [name or _content_id(document) for name, document in zip(named, documents, strict=True)]
    made: set[str] = set()
    chunks = []
    for name, id, document in zip(named, given, documents, strict=True):
        if name or id not in made:
            chunks.append(Chunk(id, document.page_content, document.metadata))
        if not name:
            made.add(id)
    return given, chunks


def _content_id(document: Document) -> str:
    content = [document.page_content, sorted(document.metadata.items(), key=str)]
    return str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, default=str)))


def _as_document(hit: Hit) -> Document:
    return Document(id=hit.id, page_content=hit.text, metadata=dict(hit.metadata))
