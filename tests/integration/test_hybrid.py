"""Hybrid search through a real knowledge base, against the ranking law computed for every document."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragself import Chunk, Config, Embedding, KnowledgeBase
from ragself.adapters.lora import Lora
from ragself.adapters.ranking import Ranking
from ragself.adapters.residual import Residual
from ragself.errors import InputError
from ragself.index import hybrid_search as hybrid
from ragself.lexical.terms import term_keys
from ragself.lexical.weights import Weights
from ragself.schema import Hit
from tests.integration.helpers import by_law, promote

DRAW = np.random.default_rng(0)
RESIDUAL = Residual(*(DRAW.normal(size=shape).astype(np.float32) / 4 for shape in ((32, 4), (4, 32))))


def weights(words: Sequence[str] = ("notulu", "zonodo", "veludo")) -> Weights:
    keys = np.sort(term_keys(words))
    return Weights(0.2, 0.01, keys, np.linspace(-1, 1, len(keys), dtype=np.float32))


def lora(kb: KnowledgeBase, sides: Any, inner: Residual | None = None) -> Lora:
    """One that changes an attention layer of the tiny model."""
    name = "0.model.encoder.layer.0.attention.self.query"
    pair = (DRAW.normal(size=(2, 32)).astype(np.float32), DRAW.normal(size=(32, 2)).astype(np.float32))
    return Lora({name: pair}, 2.0, 32, sides, inner)


RANKINGS: dict[str, Callable[[KnowledgeBase], Ranking | None]] = {
    "base": lambda kb: None,
    "weights": lambda kb: Ranking(None, weights()),
    "residual": lambda kb: Ranking(RESIDUAL, weights()),
}


@pytest.fixture(params=RANKINGS)
def kb(request: pytest.FixtureRequest, filled: Path, settings: Config) -> Iterator[KnowledgeBase]:
    with KnowledgeBase(filled, config=settings) as kb:
        ranking = RANKINGS[request.param](kb)
        if ranking is not None:
            promote(kb, ranking)
        assert kb.status().live.kind == request.param
        yield kb


def wait_for(condition: Callable[[], bool], patience: float = 30.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def total(parts: dict[str, dict[str, float]]) -> dict[str, float]:
    return {id: sum(each.values()) for id, each in parts.items()}


def best(scores: dict[str, float], k: int) -> list[str]:
    return sorted(scores, key=lambda each: (-scores[each], each))[:k]


def same(hits: Sequence[Hit], scores: dict[str, float], k: int) -> None:
    """The hits are the best by these scores, in their order, ties aside."""
    assert len(hits) == min(k, len(scores))
    assert [hit.score for hit in hits] == pytest.approx([scores[id] for id in best(scores, k)], abs=1e-4)
    assert [hit.score for hit in hits] == pytest.approx([scores[hit.id] for hit in hits], abs=1e-4)


def test_with_all_as_candidates_the_ranking_is_that_of_the_law(kb: KnowledgeBase, asked: list[str]) -> None:
    law, everything = by_law(kb), kb.status().chunks
    for query in asked[::97]:
        parts, hits = law([query]), kb.search(query, everything)
        same(hits, total(parts), everything)
        assert {hit.version for hit in hits} == {kb.status().live.number}
        for hit in hits:
            assert hit.parts == pytest.approx(parts[hit.id], abs=1e-4)
            assert sum(hit.parts.values()) == hit.score


def test_the_best_are_found_among_a_hundred_of_each_kind(kb: KnowledgeBase, asked: list[str]) -> None:
    law, chunks = by_law(kb), {chunk.id: chunk for chunk in kb.engine.store.journal.chunks()}
    for query in asked[::97]:
        hits = kb.search(query, 7)
        same(hits, total(law([query])), 7)
        assert [(hit.text, hit.metadata) for hit in hits] == [
            (chunks[hit.id].text, chunks[hit.id].metadata) for hit in hits
        ]


def test_mode_vector_is_the_cosine_alone(kb: KnowledgeBase, asked: list[str]) -> None:
    parts = by_law(kb)([asked[0]])
    hits = kb.search(asked[0], 20, mode="vector")
    same(hits, {id: each["vector"] for id, each in parts.items()}, 20)
    assert all(hit.parts == {"vector": hit.score} for hit in hits)
    assert [hit.id for hit in kb.search(asked[0], 20)] != [hit.id for hit in hits]


@pytest.mark.parametrize("sides", ["query", "both"])
def test_a_tuned_encoder(sides: str, filled: Path, settings: Config, asked: list[str]) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        version = promote(kb, Ranking(lora(kb, sides), weights()))
        assert version.index == (0 if sides == "query" else 1)
        law = by_law(kb)
        for query in asked[::97]:
            same(kb.search(query, 7), total(law([query])), 7)


def test_a_tuned_encoder_with_a_residual_shares_the_collection_of_that(
    filled: Path, settings: Config, asked: list[str]
) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        assert promote(kb, Ranking(RESIDUAL)).index == 1
        assert promote(kb, Ranking(lora(kb, "query", RESIDUAL))).index == 1
        same(kb.search(asked[0], 400), total(by_law(kb)([asked[0]])), 400)


def test_several_queries(kb: KnowledgeBase, asked: list[str]) -> None:
    both = [asked[0], asked[25]]
    same(kb.search(both, 400), total(by_law(kb)(both)), 400)


@pytest.mark.parametrize("depth", [100, 3])
def test_filters_hold_for_both_kinds_of_candidates(
    kb: KnowledgeBase, asked: list[str], depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "DEPTH", depth)
    found = []
    filters: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
        ({"topic": {"$in": ["t0", "t1"]}}, lambda one: one.split("-")[0] in ("t0", "t1")),
        ({"topic": {"$ne": "t0"}}, lambda one: not one.startswith("t0-")),
        ({"title": kb.engine.store.journal.chunks()[77].metadata["title"]}, lambda one: one == "t4-13"),
        ({"topic": "nowhere"}, lambda one: False),
    ]
    for where, allows in filters:
        for query in (asked[0], asked[200], "nothing known"):
            hits = kb.search(query, 3, where)
            assert all(allows(hit.id) for hit in hits)
            parts = {id: each for id, each in by_law(kb)([query]).items() if allows(id)}
            assert len(hits) == min(3, len(parts))
            found.append(len(hits))
            if depth == 100 and len(parts) < 100:  # all are candidates; s(q) is of those that are allowed
                everything = kb.search(query, 400, where)
                assert {hit.id for hit in everything} == set(parts)
                assert [hit.parts["vector"] for hit in everything] == pytest.approx(
                    [parts[hit.id]["vector"] for hit in everything], abs=1e-4
                )
    assert set(found) == {0, 1, 3}


def test_a_rare_filter_finds_what_the_words_of_many_others_would_hide(tmp_path: Path, settings: Config) -> None:
    draw = random.Random(0)
    common = ["notulu", "zonodo", "veludo", "mezono"]
    chunks = [Chunk(f"{n}", " ".join(draw.choices(common, k=12)), {"kind": "common"}) for n in range(500)]
    rare = [Chunk(f"rare{n}", f"notulu {'lurino ' * (n + 3)}", {"kind": "rare"}) for n in range(5)]
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([*chunks, *rare])
        hits = kb.search("notulu zonodo veludo", 5, {"kind": "rare"})
        assert {hit.id for hit in hits} == {chunk.id for chunk in rare}
        assert all(hit.parts["language_model"] != 0 for hit in hits)


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_filters_that_chroma_refuses(kb: KnowledgeBase, mode: Any) -> None:
    with pytest.raises(InputError, match="refuses the filter"):
        kb.search("notulu", 3, {"topic": {"$nonsense": 1}}, mode=mode)
    with pytest.raises(InputError, match="more values than SQLite takes"):
        kb.search("notulu", 3, {"topic": {"$in": [f"t{n}" for n in range(40_000)]}}, mode=mode)


def test_an_embedding_brings_the_cosine_and_the_query_its_words(kb: KnowledgeBase, asked: list[str]) -> None:
    usual = kb.search(asked[0], 10)
    assert kb.search(asked[0], 10, embedding=kb.embed(asked[0])) == usual
    hits = {hit.id: hit.parts for hit in kb.search(asked[0], 400, embedding=kb.embed(asked[40]))}
    here, there = by_law(kb)([asked[0]]), by_law(kb)([asked[40]])
    for id, parts in hits.items():
        assert parts == pytest.approx(here[id] | {"vector": there[id]["vector"]}, abs=1e-4)
    foreign = Embedding([1.0, 0.0], "another version")
    assert kb.search(asked[0], 10, embedding=foreign) == usual
    near = kb.search(asked[0], 10, mode="vector")
    without = kb.search(" ", 10, embedding=kb.embed(asked[0]))
    assert [(hit.id, pytest.approx(hit.score)) for hit in near] == [(hit.id, hit.score) for hit in without]
    with pytest.raises(InputError, match="query is empty"):
        kb.search(" ", embedding=foreign)


@contextmanager
def indexed_again(kb: KnowledgeBase) -> Iterator[KnowledgeBase]:
    """The knowledge base opened once more, with an index of words that was written just now."""
    shutil.rmtree(kb.path / "lexical", ignore_errors=True)
    with KnowledgeBase(kb.path, config=kb.config) as other:
        assert other.engine.store.lexical.checkpoint(1)
        yield other


def test_without_the_cache_of_vectors_scores_are_the_same(kb: KnowledgeBase, asked: list[str]) -> None:
    before = kb.search(asked[0], 30)
    for some in (before[::3], before):
        texts = [hit.text for hit in some]
        kb.engine.store.cache.drop(f"{kb.engine.store.manifest.fingerprint}/document", texts)
        with indexed_again(kb) as other:
            view = other.engine.store.lexical.view()
            assert np.isnan(view.vectors(view.rows([hit.id for hit in some]), 32)).all()
            after = other.search(asked[0], 30)
            assert other.engine.store.base.missing(texts, "document") == texts  # nothing was encoded
        assert [hit.id for hit in after] == [hit.id for hit in before]
        assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], abs=1e-5)


def test_vectors_of_candidates_by_words_come_from_the_index(
    kb: KnowledgeBase, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kb.search(asked[0], 30)
    with indexed_again(kb) as other:
        view = other.engine.store.lexical.view()
        assert not np.isnan(view.vectors(np.arange(view.documents), 32)).any()
        monkeypatch.setattr(other.engine.store.cache, "named", None)  # is not called
        after = other.search(asked[0], 30)
    assert [hit.id for hit in after] == [hit.id for hit in before]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], abs=1e-5)


@pytest.mark.parametrize("mode", ["Hybrid", "fused", "", None, 1, ["hybrid"]])
def test_another_mode_is_refused(tmp_path: Path, settings: Config, mode: Any) -> None:
    with (
        KnowledgeBase(tmp_path / "kb", config=settings) as kb,
        pytest.raises(InputError, match=r"The mode is .*, expected 'hybrid' or 'vector'"),
    ):
        kb.search("word", mode=mode)


def test_an_empty_knowledge_base_and_queries_without_a_known_word(tmp_path: Path, settings: Config) -> None:
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        assert kb.search("anything") == []
        assert kb.search("anything", 5, {"a": 1}) == []
        kb.add([Chunk("a", "notulu zonodo"), Chunk("b", "?!")])
        for query in ("anything", "?!", "🙂", "zebra " * 5000, "the of and"):
            near = kb.search(query, 2, mode="vector")
            assert [(hit.id, pytest.approx(hit.score)) for hit in near] == [
                (hit.id, hit.score) for hit in kb.search(query, 2)
            ]
        assert kb.search("zonodo " * 5000, 1)[0].id == "a"
        with pytest.raises(InputError, match="query is empty"):
            kb.search("")


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
@pytest.mark.parametrize("where", [None, {"topic": {"$ne": "t0"}}])
def test_more_hits_than_there_are_chunks(kb: KnowledgeBase, mode: Any, where: Any) -> None:
    hits = kb.search("notulu", 100_000, where, mode=mode)
    assert len({hit.id for hit in hits}) == len(hits) == kb.status().chunks - (16 if where else 0)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_the_text_that_was_embedded_counts_and_what_is_shown_is_returned(tmp_path: Path, settings: Config) -> None:
    alike = "veludo mezono banono lurino"
    hidden = Chunk("hidden", f"notulu notulu notulu {alike}", document="something else")
    shown = Chunk("shown", f"{alike} banono banono banono", document="notulu notulu notulu")
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([hidden, shown, Chunk("plain", alike), *(Chunk(f"{n}", "zonodo nozoba " * 9) for n in range(9))])
        hits = kb.search("notulu notulu", 20)
        same(hits, total(by_law(kb)(["notulu notulu"])), 20)
    ranked = {hit.id: hit for hit in hits}
    assert ranked["hidden"].parts["bm25"] > 0 == ranked["shown"].parts["bm25"]
    assert ranked["hidden"].text == "something else"


def test_chunks_are_found_and_gone_at_once(kb: KnowledgeBase, asked: list[str]) -> None:
    kb.add([Chunk("new", "zebra zebra quagga")])
    assert kb.search("zebra", 1)[0].id == "new"
    kb.add([Chunk("new", "okapi")])
    assert kb.search("okapi", 1)[0].id == "new"
    assert all(hit.parts["bm25"] == 0 for hit in kb.search("zebra", 400))
    kb.delete(["new"])
    assert "new" not in {hit.id for hit in kb.search("okapi", 1000)}
    same(kb.search(asked[0], 1000), total(by_law(kb)([asked[0]])), 1000)


def test_what_another_process_adds_and_deletes_is_seen_at_once(
    filled: Path, settings: Config, spawn: Callable[..., Any]
) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        kb.search("zebra")
        gone = kb.search("notulu", 1)[0].id
        writer = spawn("change", kb=filled, documents={"new": "zebra quagga"}, ids=[gone])
        wait_for(lambda: "added" in writer.lines())
        assert kb.search("zebra", 1)[0].id == "new"
        writer.go("delete")
        wait_for(lambda: "deleted" in writer.lines())
        assert gone not in {hit.id for hit in kb.search("notulu", 1000)}
        writer.go("end")
        writer.result()


def test_error_codes_are_found(tmp_path: Path, settings: Config) -> None:
    parts = ["pump", "valve", "gasket", "rotor", "bearing", "filter", "hose", "clamp", "sensor", "relay"]
    codes = random.Random(1).sample(range(1000, 9999), 300)
    chunks = [
        Chunk(
            str(row),
            f"Error {code}: the {parts[row % 10]} of unit {row % 12} does not answer. Switch it off, wait a minute, "
            f"check the {parts[(row * 3 + 1) % 10]} and start again.",
        )
        for row, code in enumerate(codes)
    ]
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add(chunks)
        found = [kb.search(f"what does error {code} mean", 1)[0].id for code in codes[:100]]
    assert sum(id == str(row) for row, id in enumerate(found)) >= 95


def test_many_threads_at_once_find_the_same(kb: KnowledgeBase, asked: list[str]) -> None:
    found: dict[tuple[int, int], list[Hit]] = {}

    def search(thread: int) -> None:
        for number in range(6):
            found[thread, number] = kb.search(asked[number * 60], 5)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 36
    for (_, number), hits in found.items():
        assert hits == found[0, number]


def test_a_long_write_of_another_thread_holds_up_no_search(kb: KnowledgeBase) -> None:
    kb.add([Chunk("new", "zebra")])  # it is this process that writes
    kb.search("notulu")
    answered = threading.Event()

    def search() -> None:
        kb.search("notulu")
        answered.set()

    with kb.engine.store.journal._db.write():
        thread = threading.Thread(target=search)
        thread.start()
        assert answered.wait(20)
    thread.join()
