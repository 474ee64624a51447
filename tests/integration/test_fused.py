"""Search in mode fused: through a real knowledge base, against scoring every document word by word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragself import Chunk, Config, Embedding, KnowledgeBase
from ragself.errors import InputError
from ragself.models.fusion import count, lexical_scores
from ragself.models.hybrid import STRENGTH, Hybrid
from ragself.models.lexicon import Lexicon
from ragself.schema import Hit
from ragself.serve import fused

Expected = Callable[[Sequence[str]], dict[str, float]]


def exactly(kb: KnowledgeBase) -> Expected:
    """Dense cosine + strength * lexical score of every chunk of the journal, in the live version."""
    store = kb.store()
    adapter = store.adapter(store.registry.version(store.registry.live()))
    chunks = store.journal.chunks()
    texts = [chunk.text for chunk in chunks]
    counted, vectors = [count(text) for text in texts], store.base.documents(texts)
    lexicon, strength, map = Lexicon.fit(texts), STRENGTH, (lambda given: given)
    if isinstance(adapter, Hybrid):
        lexicon, strength = adapter.lexicon, adapter.strength
        map = lambda given: adapter.residual.documents(given, [])

    def score(queries: Sequence[str]) -> dict[str, float]:
        middle = map(store.base.encoder.queries(queries)).mean(axis=0)
        if adapter is None:  # compared by cosine
            middle /= np.linalg.norm(middle)
        dense = map(vectors) @ middle
        lexical = np.mean([lexical_scores(lexicon, query, counted) for query in queries], axis=0)
        return dict(zip([chunk.id for chunk in chunks], (dense + strength * lexical).tolist(), strict=True))

    return score


def best(scores: dict[str, float], k: int) -> list[str]:
    return sorted(scores, key=scores.__getitem__, reverse=True)[:k]


def same(hits: list[Hit], scores: dict[str, float], k: int) -> None:
    """The hits are the best by these scores, in their order, ties aside."""
    assert len(hits) == min(k, len(scores))
    assert [hit.score for hit in hits] == pytest.approx([scores[id] for id in best(scores, k)], abs=1e-4)
    assert [hit.score for hit in hits] == pytest.approx([scores[hit.id] for hit in hits], abs=1e-4)


@pytest.fixture(params=["filled", "promoted"])
def kb(request: pytest.FixtureRequest, settings: Config) -> Any:
    with KnowledgeBase(request.getfixturevalue(request.param), config=settings) as kb:
        assert kb.status().live.kind == {"filled": "base", "promoted": "hybrid"}[request.param]
        yield kb


def test_with_all_as_candidates_the_ranking_is_that_of_exact_scores(kb: KnowledgeBase, asked: list[str]) -> None:
    expected, everything = exactly(kb), kb.status().chunks
    for query in asked[::97]:
        hits = kb.search(query, everything, mode="fused")
        same(hits, expected([query]), everything)
        assert {hit.version for hit in hits} == {kb.status().live.number}
    assert [hit.id for hit in kb.search(asked[0], 50)] != best(expected([asked[0]]), 50)  # else it would say nothing


def test_the_candidates_are_the_hundred_nearest(kb: KnowledgeBase, asked: list[str]) -> None:
    expected = exactly(kb)
    for query in asked[::97]:
        near = {hit.id: hit for hit in kb.search(query, 100)}
        scores = {id: score for id, score in expected([query]).items() if id in near}
        hits = kb.search(query, 7, mode="fused")
        same(hits, scores, 7)
        assert [(hit.text, hit.metadata) for hit in hits] == [
            (near[hit.id].text, near[hit.id].metadata) for hit in hits
        ]


def test_filters_and_several_queries(kb: KnowledgeBase, asked: list[str]) -> None:
    expected = exactly(kb)
    hits = kb.search([asked[0], asked[25]], 40, {"topic": {"$in": ["t0", "t1"]}}, mode="fused")
    scores = {id: score for id, score in expected([asked[0], asked[25]]).items() if id.split("-")[0] in ("t0", "t1")}
    assert len(hits) == 32
    same(hits, scores, 40)


def test_an_embedding_brings_the_dense_part_and_the_query_its_words(kb: KnowledgeBase, asked: list[str]) -> None:
    usual = kb.search(asked[0], 10, mode="fused")
    assert kb.search(asked[0], 10, mode="fused", embedding=kb.embed(asked[0])) == usual
    everything, expected = kb.status().chunks, exactly(kb)
    hits = kb.search(asked[0], everything, mode="fused", embedding=kb.embed(asked[40]))
    there, here = expected([asked[40]]), expected([asked[0]])
    assert best(there, 20) != [hit.id for hit in hits[:20]] != best(here, 20)
    foreign = Embedding([1.0, 0.0], "another version")
    assert kb.search(asked[0], 10, mode="fused", embedding=foreign) == usual
    with pytest.raises(InputError, match="query is empty"):
        kb.search(" ", mode="fused", embedding=kb.embed(asked[0]))


def test_without_the_cache_of_vectors_scores_are_the_same(promoted: Path, settings: Config, asked: list[str]) -> None:
    with KnowledgeBase(promoted, config=settings) as kb:
        before = kb.search(asked[0], 30, mode="fused")
        for some in (before[::3], before):
            texts = [hit.text for hit in some]
            kb.store().cache.drop(f"{kb.store().manifest.fingerprint}/document", texts)
            assert kb.store().base.missing(texts, "document") == texts
            after = kb.search(asked[0], 30, mode="fused")
            assert [hit.id for hit in after] == [hit.id for hit in before]
            assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], abs=1e-5)
            assert kb.store().base.missing(texts, "document") == texts  # nothing was encoded


@pytest.mark.parametrize("mode", ["Fused", "", None, 1, ["fused"]])
def test_another_mode_is_refused(tmp_path: Path, settings: Config, mode: Any) -> None:
    with (
        KnowledgeBase(tmp_path / "kb", config=settings) as kb,
        pytest.raises(InputError, match=r"The mode is .*, expected 'vector' or 'fused'"),
    ):
        kb.search("word", mode=mode)


def test_an_empty_knowledge_base_and_queries_without_a_word(tmp_path: Path, settings: Config) -> None:
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        assert kb.search("anything", mode="fused") == []
        kb.add([Chunk("a", "notulu zonodo"), Chunk("b", "?!")])
        assert len(kb.search("anything", mode="fused")) == 2
        near = kb.search("?!", 2)
        assert [(hit.id, pytest.approx(hit.score)) for hit in near] == [
            (hit.id, hit.score) for hit in kb.search("?!", 2, mode="fused")
        ]
        with pytest.raises(InputError, match="query is empty"):
            kb.search("", mode="fused")


def test_the_text_that_was_embedded_counts_and_what_is_shown_is_returned(tmp_path: Path, settings: Config) -> None:
    alike = "veludo mezono banono lurino"
    hidden = Chunk("hidden", f"notulu notulu notulu {alike}", document="something else")
    shown = Chunk("shown", f"{alike} banono banono banono", document="notulu notulu notulu")
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([hidden, shown, Chunk("plain", alike), *(Chunk(f"{n}", "zonodo nozoba " * 9) for n in range(9))])
        hits = kb.search("notulu notulu", 20, mode="fused")
        same(hits, exactly(kb)(["notulu notulu"]), 20)
        near, ranked = ({hit.id: hit for hit in each} for each in (kb.search("notulu notulu", 20), hits))
    gain = {id: ranked[id].score - near[id].score for id in ranked}
    assert gain["hidden"] > gain["plain"] + 0.01 > gain["shown"] + 0.01
    assert ranked["hidden"].text == "something else"


def test_words_are_counted_anew_once_a_tenth_of_the_corpus_has_changed(
    filled: Path, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    original = Lexicon.count
    monkeypatch.setattr(Lexicon, "count", lambda texts: counted.append(1) or original(texts))
    with KnowledgeBase(filled, config=settings) as kb:
        chunks = kb.status().chunks
        for step, new in enumerate((0, chunks // 11, 0, chunks // 11, 0)):
            kb.add([Chunk(f"new {step} {number}", f"zebra {number}") for number in range(new)])
            kb.search("notulu zebra", mode="fused")
        assert len(counted) == 2
        same(kb.search("zebra", 1000, mode="fused"), exactly(kb)(["zebra"]), 1000)
        kb.search("notulu")
    assert len(counted) == 2


def test_many_threads_at_once_count_once_and_find_the_same(
    filled: Path, settings: Config, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_KEPT", 2000)
    counted = []
    original = Lexicon.count
    monkeypatch.setattr(Lexicon, "count", lambda texts: counted.append(1) or original(texts))
    found: dict[tuple[int, int], list[Hit]] = {}
    with KnowledgeBase(filled, config=settings) as kb:

        def search(thread: int) -> None:
            for number in range(6):
                found[thread, number] = kb.search(asked[number * 60], 5, mode="fused")

        threads = [threading.Thread(target=search, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(counted) == 1
    assert len(found) == 24
    for (_, number), hits in found.items():
        assert hits == found[0, number]


def test_counted_texts_are_kept_within_their_room() -> None:
    texts = fused._Texts(room=10)
    for number in range(8):
        (held,) = texts.of([f"one two three number{number}"])
        assert len(held) == 4
        assert texts.of(["one two three number0"])[0].tolist() == count("one two three number0").tolist()
    assert texts._size == 8
    assert len(texts._kept) == 2
    assert len(texts.of(["word " * 50])[0]) == 50
    assert (texts._size, len(texts._kept)) == (0, 0)
    first, second = texts.of(["a b", "a b"])
    assert first.tolist() == second.tolist()
    assert texts._size == 2
