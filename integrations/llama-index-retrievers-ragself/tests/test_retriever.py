"""The retriever in LlamaIndex: what it returns, what it is asked with, and in what it is used."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from llama_index.core import QueryBundle, get_response_synthesizer
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever, RouterRetriever
from llama_index.core.schema import MetadataMode, NodeRelationship, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import RetrieverTool
from llama_index.retrievers.ragself import RagselfRetriever

from ragself import Chunk, KnowledgeBase
from ragself.adapters.ranking import Ranking
from ragself.adapters.residual import Residual
from ragself.errors import StoreError
from tests.integration.helpers import promote


@pytest.fixture
def retriever(filled: KnowledgeBase) -> RagselfRetriever:
    return RagselfRetriever(filled, similarity_top_k=3)


def ids(found: list[Any]) -> list[str]:
    return [node.node_id for node in found]


def test_it_is_a_retriever() -> None:
    assert "BaseRetriever" in [parent.__name__ for parent in RagselfRetriever.__mro__]
    assert issubclass(RagselfRetriever, BaseRetriever)


def test_nodes_come_back_as_they_were(retriever: RagselfRetriever, nodes: list[TextNode], asked: list[str]) -> None:
    for found in retriever.retrieve(asked[0]):
        node = next(node for node in nodes if node.node_id == found.node_id)
        assert found.node.metadata == node.metadata
        assert found.node.get_content() == node.get_content()
        assert found.node.get_content(MetadataMode.EMBED) == node.get_content(MetadataMode.EMBED)
        assert found.node.relationships == node.relationships
        assert found.node.ref_doc_id == node.ref_doc_id
        assert NodeRelationship.SOURCE in found.node.relationships
        assert -1 <= found.score <= 3


def test_scores_fall_and_k_is_kept(retriever: RagselfRetriever, nodes: list[TextNode], asked: list[str]) -> None:
    scores = [found.score for found in retriever.retrieve(asked[0])]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    retriever.similarity_top_k = len(nodes) + 50
    assert len(retriever.retrieve(asked[0])) == len(nodes)


async def test_both_modes(learned: KnowledgeBase, filled: KnowledgeBase, asked: list[str]) -> None:
    for kb in (learned, filled):
        near, differ = RagselfRetriever(kb, mode="vector"), 0
        for query in asked[::40]:
            best, nearest = ([hit.id for hit in kb.search(query, 2, mode=mode)] for mode in ("hybrid", "vector"))
            assert ids(near.retrieve(query)) == ids(await near.aretrieve(query)) == nearest
            assert ids(RagselfRetriever(kb).retrieve(query)) == best
            differ += best != nearest
        assert differ


def test_words_are_those_that_were_embedded(filled: KnowledgeBase, asked: list[str]) -> None:
    bundle = QueryBundle("?", custom_embedding_strs=[asked[0], asked[1]])
    expected = [hit.id for hit in filled.search([asked[0], asked[1]], 2)]
    assert ids(RagselfRetriever(filled).retrieve(bundle)) == expected


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(filled: KnowledgeBase, k: int) -> None:
    with pytest.raises(ValueError, match=f"similarity_top_k is {k}, expected a whole number, 1 or more"):
        RagselfRetriever(filled, k)


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(retriever: RagselfRetriever, query: str) -> None:
    with pytest.raises(ValueError, match="The query is empty"):
        retriever.retrieve(query)


async def test_it_works_in_an_event_loop_without_holding_it_up(retriever: RagselfRetriever, asked: list[str]) -> None:
    expected = [ids(retriever.retrieve(query)) for query in asked[:20]]  # sync, though a loop is running
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    found = await asyncio.gather(*(retriever.aretrieve(query) for query in asked[:20]))
    ticking.cancel()
    assert [ids(nodes) for nodes in found] == expected
    assert ticks > 20


def test_a_closed_knowledge_base_is_told(retriever: RagselfRetriever) -> None:
    retriever.close()
    retriever.close()
    with pytest.raises(StoreError, match=r"was closed\. Open it again"):
        retriever.retrieve("x")


def test_it_opens_a_knowledge_base_by_its_path_and_makes_none(filled: KnowledgeBase, tmp_path: Any) -> None:
    retriever = RagselfRetriever(str(filled.path))
    assert len(retriever.retrieve("x")) == 2
    retriever.close()
    with pytest.raises(StoreError, match="holds no knowledge base"):
        RagselfRetriever(tmp_path / "nothing")


def test_chunks_of_other_sources_become_text_nodes(filled: KnowledgeBase) -> None:
    filled.add([Chunk("plain", "quite plain words", {"source": "a.md"})])
    found = RagselfRetriever(filled, 1).retrieve("quite plain words")[0]
    assert (found.node_id, found.text, found.metadata) == ("plain", "quite plain words", {"source": "a.md"})


# what is asked ------------------------------------------------------------------------------------


def test_an_embedding_of_the_live_version_saves_encoding(
    learned: KnowledgeBase, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = RagselfRetriever(learned, 5, mode="vector")
    expected, embedding = ids(retriever.retrieve(asked[0])), retriever.embed(asked[0])
    encoder = learned.engine.store.base.encoder
    monkeypatch.setattr(encoder, "queries", lambda texts: pytest.fail("encoded"))
    assert ids(retriever.retrieve(QueryBundle("something else", embedding=embedding))) == expected


def test_an_embedding_of_another_version_is_not_used(learned: KnowledgeBase, asked: list[str]) -> None:
    draw = np.random.default_rng(0)
    down, up = (draw.normal(size=shape).astype(np.float32) for shape in ((32, 4), (4, 32)))
    number = promote(learned, Ranking(Residual(down, up))).number
    retriever = RagselfRetriever(learned, 5)
    of_one, expected = retriever.embed(asked[0]), ids(retriever.retrieve(asked[1]))
    learned.rollback(0)
    of_zero = retriever.embed(asked[0])
    at_zero = ids(retriever.retrieve(asked[1]))
    assert ids(retriever.retrieve(QueryBundle(asked[1], embedding=of_one))) == at_zero
    learned.rollback(number)
    for embedding in (of_zero, list(of_zero), [0.1] * 5):
        assert ids(retriever.retrieve(QueryBundle(asked[1], embedding=embedding))) == expected


def test_an_embedding_of_the_base_model_is_used_while_that_is_live(
    retriever: RagselfRetriever, model: Any, asked: list[str]
) -> None:
    embedding, retriever.mode = model.get_query_embedding(asked[0]), "vector"
    expected = ids(retriever.retrieve(asked[0]))
    bundle = QueryBundle("something else", embedding=embedding)
    assert ids(retriever.retrieve(bundle)) == expected
    assert bundle.embedding is embedding
    assert ids(retriever.retrieve(QueryBundle("", embedding=embedding))) == expected


def test_what_stands_for_the_query_is_embedded_in_its_place(retriever: RagselfRetriever, asked: list[str]) -> None:
    expected = ids(retriever.retrieve(asked[0]))
    assert ids(retriever.retrieve(QueryBundle("x", custom_embedding_strs=[asked[0], asked[0]]))) == expected
    mixed = ids(retriever.retrieve(QueryBundle("x", custom_embedding_strs=[asked[0], asked[300]])))
    assert mixed != expected


# documents ----------------------------------------------------------------------------------------


def test_nodes_are_added_replaced_and_deleted(retriever: RagselfRetriever, nodes: list[TextNode]) -> None:
    changed = nodes[0].model_copy(update={"text": "quite another text"})
    new = TextNode(text="a new text", id_="new", metadata={"a": 1})
    done = retriever.add([nodes[1], changed, new])
    assert (done.added, done.unchanged) == (2, 1)
    assert retriever.retrieve(changed.get_content(MetadataMode.EMBED))[0].text == "quite another text"
    assert retriever.delete("document-0") == 4
    assert retriever.delete_nodes(["new", "nothing"]) == 1
    assert retriever.delete("document-0") == 0
    assert retriever.status().chunks == len(nodes) - 4


def test_metadata_that_chroma_cannot_hold_is_refused_whole(retriever: RagselfRetriever, nodes: list[TextNode]) -> None:
    for bad in ({"a": {"b": 1}}, {"a": [1]}):
        with pytest.raises(ValueError, match="Value for metadata a must be one of"):
            retriever.add([TextNode(text="fine", id_="fine"), TextNode(text="bad", metadata=bad)])
    with pytest.raises(ValueError, match="the text is empty"):
        retriever.add([TextNode(text="fine", id_="fine"), TextNode(text="")])
    with pytest.raises(ValueError, match="occurs 2 times"):
        retriever.add([TextNode(text="a", id_="twice"), TextNode(text="b", id_="twice")])
    assert retriever.status().chunks == len(nodes)


async def test_adding_in_a_loop(retriever: RagselfRetriever) -> None:
    assert (await retriever.aadd([TextNode(text="a new text", id_="new")])).added == 1


# in what it is used -------------------------------------------------------------------------------


def test_events_are_told_once(retriever: RagselfRetriever, asked: list[str]) -> None:
    events: list[BaseEvent] = []

    class Heard(BaseEventHandler):
        def handle(self, event: BaseEvent, **kwargs: Any) -> None:
            events.append(event)

    heard, dispatcher = Heard(), get_dispatcher()
    dispatcher.add_event_handler(heard)
    try:
        found = retriever.retrieve(asked[0])
        asyncio.run(retriever.aretrieve(asked[0]))
    finally:
        dispatcher.event_handlers.remove(heard)
    starts = [event for event in events if isinstance(event, RetrievalStartEvent)]
    ends = [event for event in events if isinstance(event, RetrievalEndEvent)]
    assert (len(starts), len(ends)) == (2, 2)
    assert ids(ends[0].nodes) == ids(found)


def test_in_a_query_engine(retriever: RagselfRetriever, asked: list[str]) -> None:
    engine = RetrieverQueryEngine(retriever, get_response_synthesizer(llm=MockLLM()))
    response = engine.query(asked[0])
    assert ids(response.source_nodes) == ids(retriever.retrieve(asked[0]))
    assert ids(asyncio.run(engine.aquery(asked[0])).source_nodes) == ids(response.source_nodes)


def test_in_a_fusion(retriever: RagselfRetriever, filled: KnowledgeBase, asked: list[str]) -> None:
    fusion = QueryFusionRetriever(
        [retriever, RagselfRetriever(filled, 5)],
        llm=MockLLM(),
        num_queries=1,
        similarity_top_k=5,
        mode="reciprocal_rerank",
    )
    assert ids(fusion.retrieve(asked[0]))[:3] == ids(retriever.retrieve(asked[0]))


def test_behind_a_router(retriever: RagselfRetriever, asked: list[str]) -> None:
    class Selects(MockLLM):
        def complete(self, prompt: str, **kwargs: Any) -> Any:
            response = super().complete(prompt, **kwargs)
            response.text = '[{"choice": 1, "reason": "it is the only one"}]'
            return response

    tool = RetrieverTool.from_defaults(retriever, description="all there is")
    router = RouterRetriever(
        selector=LLMSingleSelector.from_defaults(llm=Selects()), retriever_tools=[tool], llm=Selects()
    )
    assert ids(router.retrieve(asked[0])) == ids(retriever.retrieve(asked[0]))


def test_as_a_tool(retriever: RagselfRetriever, asked: list[str]) -> None:
    output = RetrieverTool.from_defaults(retriever, description="all there is").call(asked[0])
    assert ids(output.raw_output) == ids(retriever.retrieve(asked[0]))


def test_in_a_chat(retriever: RagselfRetriever, asked: list[str]) -> None:
    chat = CondensePlusContextChatEngine.from_defaults(retriever, llm=MockLLM(max_tokens=8))
    assert ids(chat.chat(asked[0]).source_nodes) == ids(retriever.retrieve(asked[0]))


def test_every_way_to_make_one_takes_the_mode(nodes: list[TextNode], settings: Any, tmp_path: Any) -> None:
    with RagselfRetriever.from_nodes(nodes, tmp_path / "kb", settings.encoder.model, mode="vector") as retriever:
        assert retriever.mode == "vector"
        assert ids(retriever.retrieve("x")) == [
            hit.id for hit in retriever.knowledge_base.search("x", 2, mode="vector")
        ]


def test_what_is_no_argument_is_refused_before_anything_is_made(
    nodes: list[TextNode], filled: KnowledgeBase, settings: Any, tmp_path: Any
) -> None:
    model, kb = settings.encoder.model, tmp_path / "kb"
    engine: Any = RetrieverQueryEngine(RagselfRetriever(filled), get_response_synthesizer(llm=MockLLM()))
    wrong: dict[str, Any] = {
        "k: no such argument": lambda: RagselfRetriever.from_nodes(nodes, kb, model, k=5),
        "similarity_top_k is '5', expected": lambda: RagselfRetriever.from_nodes(
            nodes, kb, model, similarity_top_k="5"
        ),
        "The mode is 'both', expected": lambda: RagselfRetriever.from_nodes(nodes, kb, model, mode="both"),
        "The filters are a dict, expected": lambda: RagselfRetriever.from_nodes(nodes, kb, model, filters={"a": 1}),
        "The index is a RetrieverQueryEngine": lambda: RagselfRetriever.from_index(engine, kb),
        "The knowledge base is a RetrieverQueryEngine": lambda: RagselfRetriever(engine),
        "occurs 2 times": lambda: RagselfRetriever.from_nodes([nodes[0], nodes[0]], kb, model),
        "ref_doc_id is a list": lambda: RagselfRetriever(filled).delete(["document-1"]),  # type: ignore[arg-type]
        "expected a list of strings": lambda: RagselfRetriever(filled).delete_nodes("t0-0"),
    }
    for said, call in wrong.items():
        with pytest.raises(ValueError, match=said):
            call()
    assert not kb.exists()
    assert filled.status().chunks == len(nodes)
