"""The retriever in LangChain: what it returns, what it is asked with, and in what it is used."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_ragself import RagselfRetriever
from pydantic import ValidationError

from ragself import KnowledgeBase
from ragself.errors import StoreError


@pytest.fixture
def retriever(filled: KnowledgeBase) -> RagselfRetriever:
    return RagselfRetriever(knowledge_base=filled, k=3)


def ids(found: list[Document]) -> list[str | None]:
    return [document.id for document in found]


def test_documents_come_back_as_they_were(
    retriever: RagselfRetriever, documents: list[Document], asked: list[str]
) -> None:
    by_id = {document.id: document for document in documents}
    for query in asked[::50]:
        for found in retriever.invoke(query):
            assert found == by_id[found.id]


def test_what_is_given_to_invoke_beats_what_was_given_before(
    retriever: RagselfRetriever, documents: list[Document], asked: list[str]
) -> None:
    assert len(retriever.invoke(asked[0])) == 3
    assert len(retriever.invoke(asked[0], k=7)) == 7
    assert len(retriever.invoke(asked[0], k=len(documents) + 50)) == len(documents)
    narrow = RagselfRetriever(knowledge_base=retriever.knowledge_base, filter={"topic": "t3"})
    assert {found.metadata["topic"] for found in narrow.invoke(asked[0])} == {"t3"}
    assert {found.metadata["topic"] for found in narrow.invoke(asked[0], filter={"topic": "t4"})} == {"t4"}
    assert narrow.invoke(asked[0], filter={"nowhere": 1}) == []


def test_a_threshold_cuts_off_what_is_less_alike(retriever: RagselfRetriever, asked: list[str]) -> None:
    hits = retriever.knowledge_base.search(asked[0], 10)
    middle = (hits[4].score + hits[5].score) / 2
    assert ids(retriever.invoke(asked[0], k=10, score_threshold=middle)) == [hit.id for hit in hits[:5]]
    strict = RagselfRetriever(knowledge_base=retriever.knowledge_base, k=10, score_threshold=9.0)
    assert strict.invoke(asked[0]) == []


async def test_both_modes(learned: KnowledgeBase, filled: KnowledgeBase, asked: list[str]) -> None:
    for kb in (learned, filled):
        usual, near = RagselfRetriever(knowledge_base=kb), RagselfRetriever(knowledge_base=kb, mode="vector")
        differ = 0
        for query in asked[::40]:
            best, nearest = ([hit.id for hit in kb.search(query, 4, mode=mode)] for mode in ("hybrid", "vector"))
            assert ids(usual.invoke(query)) == ids(await usual.ainvoke(query)) == best
            assert ids(near.invoke(query)) == ids(await near.ainvoke(query)) == nearest
            assert ids(usual.invoke(query, mode="vector")) == ids(await usual.ainvoke(query, mode="vector")) == nearest
            assert ids(near.invoke(query, mode="hybrid")) == best
            differ += best != nearest
        assert differ
    with pytest.raises(ValidationError, match="'hybrid' or 'vector'"):
        RagselfRetriever(knowledge_base=filled, mode="fused")
    with pytest.raises(ValueError, match="The mode is 'fused', expected 'hybrid' or 'vector'"):
        usual.invoke("x", mode="fused")


def test_what_cannot_be_asked_is_refused(retriever: RagselfRetriever) -> None:
    for k in (0, -1):
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            RagselfRetriever(knowledge_base=retriever.knowledge_base, k=k)
        with pytest.raises(ValueError, match=f"k is {k}, expected a whole number, 1 or more"):
            retriever.invoke("x", k=k)
    with pytest.raises(ValueError, match="The query is empty"):
        retriever.invoke(" ")
    with pytest.raises(ValueError, match="Chroma refuses the filter"):
        retriever.invoke("x", filter={"a": {"$nonsense": 1}})


def test_a_closed_knowledge_base_is_told(retriever: RagselfRetriever) -> None:
    retriever.close()
    retriever.close()
    with pytest.raises(StoreError, match=r"was closed\. Open it again"):
        retriever.invoke("x")


def test_it_opens_a_knowledge_base_by_its_path_and_makes_none(filled: KnowledgeBase, tmp_path: Path) -> None:
    retriever = RagselfRetriever(knowledge_base=str(filled.path))
    assert len(retriever.invoke("x")) == 4
    retriever.close()
    with pytest.raises(StoreError, match="holds no knowledge base"):
        RagselfRetriever(knowledge_base=tmp_path / "nothing")


async def test_it_works_in_an_event_loop_without_holding_it_up(retriever: RagselfRetriever, asked: list[str]) -> None:
    expected = retriever.batch(asked[:20])  # sync, though a loop is running
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert await retriever.abatch(asked[:20]) == expected
    assert await asyncio.gather(*(retriever.ainvoke(query) for query in asked[:20])) == expected
    ticking.cancel()
    assert ticks > 20


def test_callbacks_are_told_once_with_tags_and_metadata(retriever: RagselfRetriever, asked: list[str]) -> None:
    told: list[Any] = []

    class Heard(BaseCallbackHandler):
        def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
            told.append((query, kwargs["tags"], kwargs["metadata"], kwargs["name"]))

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            told.append(ids(documents))

    tagged = retriever.model_copy(update={"tags": ["mine"], "metadata": {"for": "test"}})
    found = tagged.invoke(asked[0], {"callbacks": [Heard()]})
    query, tags, metadata, name = told[0]
    assert (query, tags, name) == (asked[0], ["mine"], "RagselfRetriever")
    assert metadata["for"] == "test"
    assert metadata["ls_retriever_name"] == "ragself"
    assert metadata["ls_vector_store_provider"] == "chroma"
    assert metadata["ls_embedding_model"] == retriever.knowledge_base.encoder
    assert told[1:] == [ids(found)]


def test_in_a_chain(retriever: RagselfRetriever, asked: list[str]) -> None:
    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")
    together = RunnableLambda(lambda found: "\n".join(document.page_content for document in found))
    answer = RunnableLambda(lambda value: value.to_string().removeprefix("Human: "))
    chain = {"context": retriever | together, "question": RunnablePassthrough()} | prompt | answer | StrOutputParser()
    expected = "\n".join(document.page_content for document in retriever.invoke(asked[0]))
    assert chain.invoke(asked[0]) == f"{expected}\n\n{asked[0]}"


async def test_as_a_tool(retriever: RagselfRetriever, asked: list[str]) -> None:
    tool = create_retriever_tool(retriever, "search", "all there is")
    expected = "\n\n".join(document.page_content for document in retriever.invoke(asked[0]))
    assert tool.invoke({"query": asked[0]}) == expected
    assert await tool.ainvoke({"query": asked[0]}) == expected


# documents ----------------------------------------------------------------------------------------


def test_documents_are_added_replaced_and_deleted(retriever: RagselfRetriever) -> None:
    before = retriever.status().chunks
    made = retriever.add_documents([Document("a b c"), Document("a text", id="own")])
    assert made[1] == "own"
    assert len(made[0]) == 36
    assert retriever.add_documents([Document("x y z")], ids=["t0-0"]) == ["t0-0"]
    assert retriever.invoke("x y z", k=1)[0] == Document("x y z", id="t0-0")
    assert retriever.delete([*made, "nothing"]) == 2
    assert retriever.status().chunks == before


@pytest.mark.parametrize("bad", [{"a": None}, {"a": {"b": 1}}, {"a": []}, {"a": [1, "x"]}, {"a": float("nan")}])
def test_metadata_that_chroma_cannot_hold_is_refused_whole(retriever: RagselfRetriever, bad: dict[str, Any]) -> None:
    before = retriever.status().chunks
    with pytest.raises(ValueError, match=r"1 of 2 chunks cannot be stored; nothing was written.*metadata 'a' is"):
        retriever.add_documents([Document("fine"), Document("bad", metadata=bad)])
    assert retriever.status().chunks == before


def test_ids_must_be_as_many_as_documents_and_different(retriever: RagselfRetriever) -> None:
    with pytest.raises(ValueError, match="1 ids for 2 documents"):
        retriever.add_documents([Document("a"), Document("b")], ids=["one"])
    with pytest.raises(ValueError, match="occurs 2 times"):
        retriever.add_documents([Document("a"), Document("b")], ids=["one", "one"])


def test_documents_without_an_id_are_added_once(retriever: RagselfRetriever) -> None:
    before = retriever.status().chunks
    alike = [Document("a text", metadata={"a": 1, "b": 2}), Document("a text", metadata={"b": 2, "a": 1})]
    first = retriever.add_documents([*alike, Document("a text"), Document("another", metadata={"a": 1})])
    assert first[0] == first[1]
    assert len(set(first)) == 3
    assert retriever.add_documents(alike) == first[:2]
    assert retriever.status().chunks == before + 3


def test_from_texts(settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retriever = RagselfRetriever.from_texts(
        ["a b c", "x y z"],
        tmp_path / "kb",
        settings.encoder.model,
        metadatas=[{"a": 1}, {"a": 2}],
        k=1,
        show_progress=True,
    )
    assert "encode documents: 2 done" in capsys.readouterr().err
    assert retriever.invoke("x y z")[0].metadata == {"a": 2}
    retriever.close()


async def test_it_learns_while_it_serves(filled: KnowledgeBase, asked: list[str]) -> None:
    retriever = RagselfRetriever(knowledge_base=filled)
    assert not retriever.adapting().running
    retriever.start_adapting(asked)
    end = time.monotonic() + 60
    while retriever.adapting().passes == 0:
        assert len(await retriever.ainvoke(asked[0])) == 4
        assert time.monotonic() < end
    report = retriever.adapting().report
    assert report is not None
    assert report.decision == "promote"
    assert retriever.status().live.number == 1
    assert await retriever.astop_adapting(10)
    await retriever.aadd_documents([Document("more")])


def test_what_is_no_argument_is_refused_before_anything_is_made(
    settings: Any, tmp_path: Path, vectorstore: Any
) -> None:
    model, kb, text = settings.encoder.model, tmp_path / "kb", [Document("a")]
    wrong: dict[str, Any] = {
        "top_k: no such argument": lambda: RagselfRetriever.from_documents(text, kb, model, top_k=3),
        "search_kwargs: no such": lambda: RagselfRetriever.from_vectorstore(vectorstore, kb, model, search_kwargs={}),
        "1 ids for 2 documents": lambda: RagselfRetriever.from_texts(["a", "b"], kb, model, ids=["1"]),
        "1 metadatas for 2 texts": lambda: RagselfRetriever.from_texts(["a", "b"], kb, model, metadatas=[{}]),
        "The texts are one string": lambda: RagselfRetriever.from_texts("a b", kb, model),
        "Expected a list of Documents": lambda: RagselfRetriever.from_documents(["a"], kb, model),
        "occurs 2 times": lambda: RagselfRetriever.from_texts(["a", "b"], kb, model, ids=["1", "1"]),
    }
    for said, call in wrong.items():
        with pytest.raises(ValueError, match=said):
            call()
    assert not kb.exists()
    retriever = RagselfRetriever.from_texts(["a b c", "x y z"], kb, model, metadatas=[{"n": 1}, None], ids=["i1", "i2"])
    with retriever:
        assert {found.id: found.metadata for found in retriever.invoke("x")} == {"i1": {"n": 1}, "i2": {}}
        with pytest.raises(ValueError, match=r"score_threshold is '0\.1', expected a number"):
            retriever.invoke("x", score_threshold="0.1")
        with pytest.raises(ValueError, match="The filter is 'n=1', expected a dict"):
            retriever.invoke("x", filter="n=1")
    with pytest.raises(StoreError, match="was closed"):
        retriever.invoke("x")
