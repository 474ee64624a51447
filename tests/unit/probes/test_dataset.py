import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragself.adapters.protocol import normalise
from ragself.adapters.ranking import Ranking
from ragself.adapters.residual import Residual
from ragself.config import GateConfig, TeacherConfig
from ragself.corpus.words import words
from ragself.encoders.cache import VectorCache
from ragself.encoders.spread import unit
from ragself.encoders.vectors import BaseVectors
from ragself.evaluation.calibration import CAREFUL
from ragself.evaluation.judge import judge
from ragself.evaluation.metrics import utility
from ragself.lexical.hybrid_score import Query, match, stands_out
from ragself.lexical.terms import term_keys
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.lm.ngram import NgramScorer
from ragself.probes.dataset import Dataset, _quotes, build_dataset, without
from ragself.probes.filters import judge_probes
from ragself.probes.targets import TAU, target_distribution
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Probe
from tests.unit.datasets import by_hand

CONFIG = TeacherConfig(dense=4, lexical=4, random=3)


class BagOfWords:
    """An encoder in a line: the sum of fixed random directions of words."""

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        seed = lambda word: int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
        rows = [sum((np.random.default_rng(seed(w)).normal(size=16) for w in words(t)), np.zeros(16)) for t in texts]
        return normalise(np.array(rows, dtype=np.float32))

    queries = documents


@pytest.fixture
def base(tmp_path: Path) -> Iterator[BaseVectors]:
    cache = VectorCache(tmp_path / "cache.db")
    yield BaseVectors(BagOfWords, "print", 16, cache)  # type: ignore[arg-type, return-value]
    cache.close()


def probe(kind: str, text: str, source: str | None, split: str = "confirm") -> Probe:
    return Probe(f"{kind}-{text}", text, text, kind, source, split)  # type: ignore[arg-type]


def look(base: BaseVectors, probes: list[Probe], chunks: list[Chunk], **more: object) -> Dataset:
    return build_dataset(
        probes, chunks, base, more.pop("live", Ranking()), NgramScorer, more.pop("config", CONFIG), 0, **more
    )  # type: ignore[arg-type]


BODY = "the sun warms the stones of the old harbour wall until late in the evening"
CHUNKS = [
    Chunk("own", f"# Harbour wall\n\n{BODY}"),
    Chunk("copy", f"# Harbour wall\n\n{BODY} again"),
    Chunk("untitled copy", BODY),
    Chunk("other", "Harbour wall is said here too, but nothing else of it is the same as there"),
    *[Chunk(f"c{number}", f"filler{number} text{number} about nothing{number % 3}") for number in range(40)],
]
WIDE = TeacherConfig(dense=44, lexical=0, random=0)


def row_of(found: Dataset, row: int, document: int) -> float:
    """The gain of a probe from a document."""
    (column,) = np.flatnonzero(found.candidates[row] == document)
    return float(found.gains[row, column])


def test_the_source_and_copies_that_hold_the_title_leak_and_others_do_not(base: BaseVectors) -> None:
    more = [Chunk("far", "zebra")]  # so that the passage takes this one's place
    found = look(base, [probe("title", "Harbour wall", "own")], [*CHUNKS, *more], config=WIDE)
    assert row_of(found, 0, 0) == row_of(found, 0, 1) == -np.inf
    assert np.isfinite([row_of(found, 0, 2), row_of(found, 0, 3), row_of(found, 0, found.positive[0])]).all()
    assert np.isneginf(found.gains).sum() == 2


def test_all_copies_of_a_span_leak_but_its_passage_does_not(base: BaseVectors) -> None:
    found = look(base, [probe("span", "the sun warms the stones", "own")], [*CHUNKS, Chunk("far", "z")], config=WIDE)
    assert [document for document in range(4) if row_of(found, 0, document) == -np.inf] == [0, 1, 2]
    assert np.isfinite(row_of(found, 0, found.positive[0]))


def test_a_passage_does_not_leak_though_it_is_nearly_all_of_its_source(base: BaseVectors) -> None:
    rest = " ".join(f"more{number}" for number in range(40))
    found = look(base, [probe("span", "The sun sets.", "own")], [Chunk("own", f"The sun sets. {rest}"), *CHUNKS[1:]])
    assert found.texts[found.positive[0]] == rest
    assert np.isfinite(row_of(found, 0, found.positive[0]))
    assert row_of(found, 0, 0) == -np.inf


def test_nothing_leaks_to_traffic_which_has_no_positive(base: BaseVectors) -> None:
    found = look(base, [probe("traffic", "Harbour wall", None)], CHUNKS, config=WIDE)
    assert np.isfinite(found.gains).all()
    assert (found.positive.tolist(), found.source.tolist()) == ([-1], [-1])
    assert np.isnan(found.overlap).all()
    assert len(found.texts) == found.size == 44


def test_a_known_item_always_meets_its_own_passage_once(base: BaseVectors) -> None:
    chunks = [Chunk(f"c{n}", f"title{n} word{n}\nbody{n} says much{n} of thing{n % 5}") for n in range(60)]
    probes = [probe("title", f"title{n} word{n}", f"c{n}") for n in range(60)]
    found = look(base, probes, chunks)
    assert found.candidates.shape == (60, 11)
    assert found.source.tolist() == list(range(60))
    assert found.positive.tolist() == list(range(60, 120))
    assert found.texts[60:] == tuple(f"body{n} says much{n} of thing{n % 5}" for n in range(60))
    assert ((found.candidates == found.positive[:, None]).sum(axis=1) == 1).all()
    assert all(len(set(row)) == 11 for row in found.candidates.tolist())


def test_a_source_that_does_not_hold_its_title_is_its_own_passage(base: BaseVectors) -> None:
    chunks = [Chunk(f"c{n}", f"body{n} says much{n} of thing{n % 5}") for n in range(60)]
    found = look(base, [probe("title", "Quite another title", "c7")], chunks)
    assert found.positive.tolist() == [7]
    assert len(found.texts) == 60
    assert np.isfinite(row_of(found, 0, 7))


def test_gains_are_the_scorers_and_scores_are_those_of_the_law(base: BaseVectors) -> None:
    probes = [probe("traffic", "filler3 text3", None, "train"), probe("title", "Harbour wall", "own")]
    found = look(base, probes, CHUNKS)
    expected = NgramScorer(found.texts, 44).gains(probes, found.candidates)
    finite = np.isfinite(found.gains)
    np.testing.assert_allclose(found.gains[finite], expected[finite], rtol=1e-6)
    cosines = np.take_along_axis(base.queries([p.text for p in probes]) @ found.documents.T, found.candidates, 1)
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-6)
    assert found.gains.dtype == found.cosines.dtype == found.untrained.dtype == np.float32
    np.testing.assert_allclose(found.untrained, by_law(base, found, Ranking()), atol=1e-5)
    assert found.tau == pytest.approx(TAU * unit(base))


def by_law(base: BaseVectors, found: Dataset, ranking: Ranking) -> NDArray[np.float64]:
    """Scores of the candidates, one by one, as search would have them."""
    corpus, everything = View.of([chunk.text for chunk in CHUNKS]), View.of(found.texts)
    queries, documents = found.queries, found.documents
    if ranking.adapter is not None:
        queries = ranking.adapter.queries(queries, [p.text for p in found.probes])
        documents = ranking.adapter.documents(documents, found.texts)
    out = np.empty(found.candidates.shape)
    for row, rows in enumerate(found.candidates):
        query = Query.of(found.probes[row].text, corpus)
        alone = match(query, everything, rows)
        scale = stands_out(query, alone.bm25[~found.leaks[row]])
        out[row] = documents[rows] @ queries[row] + unit(base) * sum(alone.parts(query, ranking.weights, scale))
    return out


def some_residual() -> Residual:
    draw = np.random.default_rng(0)
    return Residual(draw.normal(size=(16, 4)).astype(np.float32), draw.normal(size=(4, 16)).astype(np.float32))


WORDS_LEARNED = Weights(
    0.3, 0.01, np.sort(term_keys(["harbour", "wall", "filler3"])), np.array([0.9, -1, 0.5], np.float32)
)


@pytest.mark.parametrize(
    "ranking",
    [Ranking(), Ranking(None, WORDS_LEARNED), Ranking(some_residual()), Ranking(some_residual(), WORDS_LEARNED)],
    ids=["untrained", "weights", "residual", "both"],
)
def test_scores_of_a_ranking_are_those_that_search_would_have(base: BaseVectors, ranking: Ranking) -> None:
    probes = [
        probe("traffic", "filler3 text3", None),
        probe("title", "Harbour wall", "own"),
        probe("span", BODY, "own"),
    ]
    found = look(base, probes, CHUNKS)
    rows = np.array([2, 0, 1])
    np.testing.assert_allclose(found.scores(rows, ranking), by_law(base, found, ranking)[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.scores(np.arange(3), Ranking()), found.untrained)
    assert found.scores(rows[:0], ranking).shape == (0, found.candidates.shape[1])


def test_ranks_are_those_among_the_candidates_that_do_not_leak(base: BaseVectors) -> None:
    probes = [probe("title", "Harbour wall", "own"), probe("span", BODY, "own"), probe("question", "filler3?", "c3")]
    found, ahead = look(base, probes, CHUNKS), 0
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=found.candidates.shape).astype(np.float32)
        ranks = found.ranks(np.arange(3), scores)
        assert ranks.dtype == np.int64
        for row in range(3):
            own = int(np.flatnonzero(found.candidates[row] == found.positive[row])[0])
            better = scores[row] > scores[row, own]
            assert ranks[row] == 1 + (better & ~found.leaks[row]).sum()
            ahead += (better & found.leaks[row]).any()
    assert ahead  # the source, with the probe still in it, is before what is sought, and does not count
    alike = np.zeros(found.candidates.shape, np.float32)
    assert found.ranks(np.array([1, 2]), alike[:2]).tolist() == [1, 1]
    assert found.ranks(np.array([], dtype=np.int64), alike[:0]).tolist() == []


def test_what_leaks_does_not_count_for_how_far_a_query_singles_documents_out(base: BaseVectors) -> None:
    found = look(base, [probe("span", "the sun warms the stones", "own")], CHUNKS, config=WIDE)
    leaks = found.leaks[0]
    assert leaks.any()
    query = found.words.queries[0]
    alone = match(query, found.words.documents, found.candidates[0])
    scale = found.matches.bm25[0][alone.bm25 > 0] / alone.bm25[alone.bm25 > 0] / unit(base)
    np.testing.assert_allclose(scale, stands_out(query, alone.bm25[~leaks]), rtol=1e-5)
    assert stands_out(query, alone.bm25[~leaks]) != pytest.approx(stands_out(query, alone.bm25))


def test_a_generator_is_asked_about_few_candidates_and_the_others_are_ranked_all_the_same(base: BaseVectors) -> None:
    probes = [probe("traffic", "filler3 text3", None), probe("title", "Harbour wall", "own")]
    few = TeacherConfig(dense=3, lexical=1, random=1)
    found = look(base, probes, CHUNKS, asked=few)
    assert found.candidates.shape == (2, 11)
    asked = np.isfinite(found.gains) | found.leaks
    assert asked[:, :5].all()
    assert not np.isfinite(found.gains[:, 5:]).any()
    assert found.depth(10) == 1  # an eighth of those that were scored
    narrow = look(base, probes, CHUNKS, config=few)
    np.testing.assert_array_equal(found.candidates[0, :5], narrow.candidates[0])
    np.testing.assert_array_equal(found.gains[0, :5], narrow.gains[0])
    assert found.positive[1] in found.candidates[1, :5]  # what is sought is always scored
    assert all(len(set(row)) == 11 for row in found.candidates.tolist())
    whole = look(base, probes, CHUNKS)
    assert set(found.candidates[0]) >= set(whole.candidates[0][:4].tolist())
    assert np.isfinite(found.scores(np.arange(2), Ranking())).all()


def test_candidates_are_those_that_the_live_version_finds(base: BaseVectors) -> None:
    live = some_residual()
    probes, config = [probe("traffic", "filler3 text3", None)], TeacherConfig(dense=4, lexical=0, random=0)
    found = build_dataset(probes, CHUNKS, base, Ranking(live), NgramScorer, config, 0)
    texts = [chunk.text for chunk in CHUNKS]
    scores = live.queries(base.queries(["filler3 text3"]), [""]) @ live.documents(base.documents(texts), texts).T
    assert set(found.candidates[0]) == set(np.argsort(-scores[0])[:4])
    np.testing.assert_array_equal(found.documents, base.documents(texts))  # those stay the base model's


def test_overlap_is_the_share_of_the_words_by_rarity_that_the_passage_holds(base: BaseVectors) -> None:
    chunks = [Chunk("own", "# Red harbour\n\nthe red boats lie there"), Chunk("b", "red red"), Chunk("c", "blue")]
    found = look(base, [probe("title", "Red harbour", "own")], [*chunks, *CHUNKS[4:]])
    red, harbour = (np.log(44 / (frequency + 1)) for frequency in (2, 1))
    assert found.overlap.tolist() == pytest.approx([red / (red + harbour)], abs=1e-5)


def test_words_that_no_text_holds_count_as_not_held(base: BaseVectors) -> None:
    chunks = [Chunk("own", "the red boats lie in the harbour"), *CHUNKS[4:]]
    found = look(base, [probe("title", "Zebra crossing harbour", "own")], chunks)
    assert found.overlap[0] < 0.5


def test_rows_are_picked_by_split_and_kind(base: BaseVectors) -> None:
    probes = [probe("traffic", "filler3", None, "train"), probe("title", "Harbour wall", "own", "confirm")]
    found = look(base, probes, CHUNKS)
    assert found.rows("train").tolist() == [0]
    assert found.rows("confirm", ["traffic"]).tolist() == []
    assert found.rows("confirm", ["title", "span"]).tolist() == [1]
    assert found.rows("select").dtype == np.int64


def test_a_study_is_reproducible(base: BaseVectors) -> None:
    probes = [probe("traffic", "filler3", None), probe("title", "Harbour wall", "own")]
    one, two = look(base, probes, CHUNKS), look(base, probes, CHUNKS)
    np.testing.assert_array_equal(one.candidates, two.candidates)
    np.testing.assert_array_equal(one.gains, two.gains)


@pytest.mark.parametrize(
    ("kind", "asked", "text", "expected"),
    [
        ("title", "Red fox", "# Red fox\n\nIt runs.", "It runs."),
        ("title", "Red fox", "## Red fox ##\nIt runs.\n## Next\nMore.", "It runs.\n## Next\nMore."),
        ("title", "Red fox", "Red fox\n\n## Next\nMore.", "## Next\nMore."),
        ("title", "Red fox", "A Red fox runs. The Red fox eats.", "A  runs. The  eats."),
        ("title", "a.b (c)? [d]", "# a.b (c)? [d]\nIt runs.", "It runs."),
        ("title", "Red fox", "It runs.", "It runs."),
        ("title", "Red fox", "# Red fox\n\n?!", "# Red fox\n\n?!"),  # there would be nothing left to find
        ("title", "Red fox", "Red fox", "Red fox"),
        ("span", "It runs.", "It runs. It eats. It runs.", "It eats."),
        ("span", "It runs.", "It runs.", "It runs."),
    ],
)
def test_a_text_without_its_probe(kind: str, asked: str, text: str, expected: str) -> None:
    assert without(text, probe(kind, asked, "x")) == expected


# copies of a run of words -------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from("ab"), max_size=40)


def slow_quotes(target: list[str], document: list[str]) -> bool:
    runs = [target[start : start + 13] for start in range(len(target) - 12)]
    return any(document[start : start + 13] in runs for start in range(len(document) - 12))


@given(st.lists(st.sampled_from(["a", "b", "ab"]), min_size=11, max_size=30), WORDS, WORDS, st.integers(10, 15))
@settings(deadline=None)
def test_a_document_quotes_where_thirteen_words_in_a_row_are_the_targets(
    target: list[str], before: list[str], after: list[str], length: int
) -> None:
    documents = [[*before, *target[-length:], *after], [*before, *target[:length], *after], target, [], before]
    found = _quotes(target, documents)
    assert (found.dtype, found.shape) == (np.bool_, (5,))
    assert found.tolist() == [slow_quotes(target, document) for document in documents]


def test_half_a_word_is_no_quotation() -> None:
    target = [f"w{number}" for number in range(13)]
    documents = [target, [*target[:12], "w123"], ["xw0", *target[1:]], ["x", *target, "y"], target[:12]]
    assert _quotes(target, documents).tolist() == [True, False, False, True, False]


LONG = "the long sentence of the first chunk goes on and on for fifteen words or more"


def test_a_text_that_quotes_thirteen_words_of_a_span_leaks_and_one_that_quotes_twelve_does_not(
    base: BaseVectors,
) -> None:
    run = words(LONG)
    rest = [f"filler{number}" for number in range(60)]  # so that no text is a copy of another
    quoting = [" ".join([*rest[start : start + 20], *run[start : start + size], *rest[40:]]) for start, size in
               ((0, 12), (0, 13), (3, 13), (4, 12))]  # fmt: skip
    chunks = [Chunk("own", f"{LONG}. What follows it is something else."), *(Chunk(t, t) for t in quoting)]
    probes = [probe("span", f"{LONG}.", "own"), probe("traffic", LONG, None)]
    found = look(base, probes, [*chunks, *CHUNKS[5:]], config=WIDE)
    assert [row_of(found, 0, document) == -np.inf for document in range(5)] == [True, False, True, True, False]
    assert np.isfinite(found.gains[1]).all()


def test_a_title_of_thirteen_words_leaks_where_its_words_are_quoted_though_not_letter_by_letter(
    base: BaseVectors,
) -> None:
    other = Chunk("other", LONG.upper().replace(" ", "-") + " " + " ".join(f"more{number}" for number in range(40)))
    chunks = [Chunk("own", f"# {LONG}\n\n{BODY}"), other, *CHUNKS[3:]]
    found = look(base, [probe("title", LONG, "own")], [*chunks, Chunk("far", "zebra")], config=WIDE)
    assert [row_of(found, 0, document) == -np.inf for document in range(3)] == [True, True, False]
    assert np.isfinite(row_of(found, 0, found.positive[0]))


def test_nothing_leaks_to_a_question_not_even_its_source_and_copies_of_it(base: BaseVectors) -> None:
    asked = f"{BODY} is what?"  # thirteen words of it
    probes = [probe("question", asked, "own"), probe("question", "Wall of what?", "copy")]
    found = look(base, probes, CHUNKS, config=WIDE)
    assert np.isfinite(found.gains).all()
    assert found.positive.tolist() == found.source.tolist() == [0, 1]
    assert (found.candidates == found.positive[:, None]).sum(axis=1).tolist() == [1, 1]
    assert found.overlap[0] > 0.7


# what the teacher has something to say about ------------------------------------------------------


def told(gains: list[list[float]], kinds: str) -> Dataset:
    """A study of five documents, each a direction of its own; kind t is traffic, k a known item whose source is 0."""
    source = np.array([-1 if kind == "t" else 0 for kind in kinds])
    probes = [
        Probe(f"{row}", "x", "x", "traffic" if kind == "t" else "title", None, "select")
        for row, kind in enumerate(kinds)
    ]
    queries = np.random.default_rng(0).normal(size=(len(kinds), 5))
    scores = np.array(gains, dtype=np.float32)
    return by_hand(probes, ("y",) * 5, queries, np.eye(5), gains=scores, positive=source, source=source)


TELLING, MUTE, SILENT = [1.0, 0.5, 0.0, -0.5, 0.1], [0.01, 0.0, -0.5, 0.0, 0.0], [-np.inf] * 5


def test_a_study_says_which_probes_can_teach_and_why_the_others_cannot(base: BaseVectors) -> None:
    found = told([TELLING, MUTE, SILENT, TELLING], "ttkk")
    assert found.judged[0].tolist() == [True, False, False, True]
    assert sum(found.judged[1].values()) == 2
    real = look(base, [probe("traffic", "filler3 text3", None), probe("traffic", "unheardof", None)], CHUNKS)
    assert real.judged[0].tolist() == judge_probes(real.gains)[0].tolist() == [True, False]


def of(found: Dataset, rows: list[int], min_probes: int) -> NDArray[np.float64]:
    """The utility of probes of the untrained ranking, as a loop finds it."""
    config = GateConfig(k=2, min_probes=min_probes)
    values = judge(found, np.arange(len(found.probes)), [Ranking()], 1.0, config)[0]["utility"]
    mass = target_distribution(found.gains[rows], found.untrained[rows], 1.0, found.tau)
    assert found.depth(2) == 1
    np.testing.assert_allclose(values, utility(mass, found.queries[rows], 1), rtol=1e-5)
    return values


def test_probes_that_the_teacher_has_nothing_to_say_about_do_not_judge_the_utility() -> None:
    found = told([TELLING, MUTE, TELLING, TELLING, TELLING, MUTE], "ttttkk")
    assert len(of(found, [0, 2, 3], 4)) == 3  # queries of the user's own, where there are enough of them
    assert len(of(found, [0, 2, 3, 4], 5)) == 4  # else all that tell something


def test_known_items_are_judged_though_the_teacher_has_nothing_to_say_about_them() -> None:
    found = told([MUTE, SILENT, TELLING, TELLING], "kkkt")
    values = judge(found, np.arange(4), [Ranking()], 1.0, GateConfig(k=2, min_probes=1))[0]
    assert {name: len(value) for name, value in values.items()} == {
        "utility": 1,
        "careful utility": 1,
        "ndcg": 3,
        "mrr": 3,
        "recall": 3,
    }


UNASKED = [np.nan] * 5


def test_probes_that_nobody_was_asked_about_are_known_items_and_nothing_else() -> None:
    found = told([TELLING, UNASKED, TELLING, UNASKED], "tkkk")
    assert found.judged[0].tolist() == [True, False, True, False]
    assert not found.judged[1]
    values = judge(found, np.arange(4), [Ranking()], 1.0, GateConfig(k=2, min_probes=30))[0]
    assert {name: len(value) for name, value in values.items()} == {
        "utility": 2,
        "careful utility": 2,
        "ndcg": 3,
        "mrr": 3,
        "recall": 3,
    }
    assert all(np.isfinite(value).all() for value in values.values())


@pytest.mark.parametrize(("candidates", "k", "depth"), [(80, 10, 10), (79, 10, 9), (16, 10, 2), (5, 10, 1), (80, 3, 3)])
def test_the_utility_counts_an_eighth_of_the_candidates_at_most(candidates: int, k: int, depth: int) -> None:
    found = replace(told([TELLING], "t"), gains=np.zeros((1, candidates), np.float32))
    assert found.depth(k) == depth


class Keeping(NgramScorer):
    """Keeps the probes that it was asked about."""

    asked: ClassVar[list[str]] = []

    def gains(
        self, probes: Sequence[Probe], candidates: NDArray[np.int64], progress: Progress = silent
    ) -> NDArray[np.float32]:
        assert len(probes) == len(candidates)
        self.asked.extend(probe.id for probe in probes)
        return super().gains(probes, candidates, progress)


def test_a_probe_that_is_not_scored_costs_nothing_and_changes_nothing_else(base: BaseVectors) -> None:
    probes = [probe("title", "Harbour wall", "own"), probe("traffic", "filler3", None), probe("span", BODY, "own")]
    whole = look(base, probes, CHUNKS)
    some = [replace(probes[0], scored=False), *probes[1:]]
    del Keeping.asked[:]
    found = build_dataset(some, CHUNKS, base, Ranking(), Keeping, CONFIG, 0)
    assert Keeping.asked == [probes[1].id, probes[2].id]
    assert np.isnan(found.gains[0]).all()  # what would leak is not told apart
    np.testing.assert_array_equal(found.gains[1:], whole.gains[1:])
    for name in ("candidates", "positive", "source", "overlap", "queries", "documents"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


def test_where_the_teacher_says_nothing_at_all_there_is_no_utility() -> None:
    found = told([MUTE, SILENT], "kt")
    values = judge(found, np.arange(2), [Ranking()], 1.0, GateConfig(k=2, min_probes=1))[0]
    assert (values["utility"].shape, values["ndcg"].shape) == ((0,), (1,))


def test_rankings_are_judged_alike_whoever_is_judged_beside_them(base: BaseVectors) -> None:
    probes = [probe("title", "Harbour wall", "own"), probe("span", BODY, "own"), probe("traffic", "filler3", None)]
    found = look(base, probes, CHUNKS)
    some = [Ranking(), Ranking(some_residual()), Ranking(None, WORDS_LEARNED), Ranking(some_residual(), WORDS_LEARNED)]
    rows, config, told = np.arange(3), GateConfig(k=100, min_probes=1), list[tuple[str, int, int]]()
    together = judge(found, rows, some, 1.0, config, lambda *what: told.append(what))
    assert told == [("judge", done, 4) for done in range(5)]
    for ranking, values in zip(some, together, strict=True):
        scores = found.scores(rows, ranking)
        np.testing.assert_allclose(values["mrr"], 1 / found.ranks(rows[:2], scores[:2]))
        alone = judge(found, rows, [ranking], 1.0, config)[0]
        for name in values:
            np.testing.assert_array_equal(values[name], alone[name])
    assert len({tuple(values["mrr"]) + tuple(values["utility"]) for values in together}) > 1


def test_a_careful_teacher_weighs_no_more_than_the_careful_weight() -> None:
    found = told([TELLING, TELLING[::-1]], "tt")
    for weight, alike in ((0.5, True), (CAREFUL, True), (4.0, False)):
        values = judge(found, np.arange(2), [Ranking()], weight, GateConfig(k=2, min_probes=1))[0]
        assert np.allclose(values["utility"], values["careful utility"]) is alike
