"""Collections that LangChain filled: the same is found as with its own retriever, and changes are followed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_ragself import RagselfRetriever

from ragself import Config
from tests.integration.stored import Stored

FILTERS: list[dict[str, Any]] = [
    {"topic": "t3"},
    {"topic": {"$ne": "t3"}},
    {"number": {"$gt": 100}},
    {"number": {"$gte": 100}},
    {"part": {"$lt": 20.5}},
    {"part": {"$lte": 20.5}},
    {"even": True},
    {"topic": {"$in": ["t1", "t5"]}},
    {"topic": {"$nin": ["t1", "t5"]}},
    {"nowhere": 1},
    {"$and": [{"topic": "t3"}, {"number": {"$gt": 52}}]},
    {"$or": [{"topic": "t3"}, {"number": {"$gt": 370}}]},
]


@pytest.fixture
def adopted(vectorstore: Chroma, settings: Config, tmp_path: Path) -> Iterator[RagselfRetriever]:
    retriever = RagselfRetriever.from_vectorstore(vectorstore, tmp_path / "kb", settings.encoder.model, k=10)
    yield retriever
    retriever.close()


def ids(found: list[Document]) -> list[str]:
    return [str(document.id) for document in found]


def test_the_same_is_found_as_with_the_framework_itself(
    vectorstore: Chroma, adopted: RagselfRetriever, model: Any, documents: list[Document], asked: list[str]
) -> None:
    theirs, exact = vectorstore.as_retriever(search_kwargs={"k": 10}), Stored(vectorstore._collection)
    by_id = {document.id: document for document in documents}
    alike = []
    for query in asked[::10]:
        found = adopted.invoke(query, mode="vector")
        exact.check(ids(found), model.embed_query(query), 10)
        assert found == [by_id[document.id] for document in found]
        alike.append(found == theirs.invoke(query))
    assert sum(alike) > 0.9 * len(alike)


def test_filters_give_the_same_answers(
    vectorstore: Chroma, adopted: RagselfRetriever, model: Any, asked: list[str]
) -> None:
    exact = Stored(vectorstore._collection)
    for filter in FILTERS:
        among = vectorstore.get(where=filter)["ids"]
        for query in asked[::100]:
            exact.check(ids(adopted.invoke(query, filter=filter, mode="vector")), model.embed_query(query), 10, among)


def test_changes_through_the_framework_are_followed(
    vectorstore: Chroma, adopted: RagselfRetriever, documents: list[Document]
) -> None:
    vectorstore.delete(["t0-0", "t0-1"])
    vectorstore.add_documents([Document("a new document", id="new", metadata={"a": 1})])
    vectorstore.update_document("t0-2", Document("quite another text", metadata={"b": 2}))
    done = adopted.sync()
    assert (done.added, done.unchanged, done.removed) == (2, len(documents) - 3, 2)
    assert adopted.invoke("a new document")[0] == Document("a new document", id="new", metadata={"a": 1})
    assert adopted.invoke("quite another text")[0].id == "t0-2"
    with pytest.raises(ValueError, match="belong to the collection 'langchain'"):
        adopted.delete(["t0-5"])


def test_what_cannot_be_adopted_is_told(
    vectorstore: Chroma, client: chromadb.ClientAPI, model: Any, settings: Config, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"a InMemoryVectorStore, expected a langchain_chroma\.Chroma"):
        RagselfRetriever.from_vectorstore(InMemoryVectorStore(model), tmp_path / "kb")
    with pytest.raises(ValueError, match="The embedding model is a SameModel, expected"):
        RagselfRetriever.from_vectorstore(vectorstore, tmp_path / "kb")
    empty = Chroma("empty", model, client=client)
    with pytest.raises(ValueError, match=r"'empty' in .* is empty"):
        RagselfRetriever.from_vectorstore(empty, tmp_path / "kb", settings.encoder.model)
    other = Chroma.from_texts(
        ["one", "two"], DeterministicFakeEmbedding(size=32), client=client, collection_name="other",
        collection_configuration={"hnsw": {"space": "cosine"}},
    )  # fmt: skip
    with pytest.raises(ValueError, match="does not reproduce the vectors of the collection 'other': their cosine is"):
        RagselfRetriever.from_vectorstore(other, tmp_path / "kb", settings.encoder.model)
    assert not (tmp_path / "kb").exists()
