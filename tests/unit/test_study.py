import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.config import TeacherConfig
from ragself.corpus.cache import VectorCache
from ragself.corpus.words import words
from ragself.learn.study import Study, study, without
from ragself.models.adapter import normalise
from ragself.models.ngram import NgramScorer
from ragself.models.residual import Residual
from ragself.models.vectors import BaseVectors
from ragself.schema import Chunk, Probe

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


def look(base: BaseVectors, probes: list[Probe], chunks: list[Chunk], **more: object) -> Study:
    return study(probes, chunks, base, None, NgramScorer, more.pop("config", CONFIG), 0, **more)  # type: ignore[arg-type]


BODY = "the sun warms the stones of the old harbour wall until late in the evening"
CHUNKS = [
    Chunk("own", f"# Harbour wall\n\n{BODY}"),
    Chunk("copy", f"# Harbour wall\n\n{BODY} again"),
    Chunk("untitled copy", BODY),
    Chunk("other", "Harbour wall is said here too, but nothing else of it is the same as there"),
    *[Chunk(f"c{number}", f"filler{number} text{number} about nothing{number % 3}") for number in range(40)],
]
WIDE = TeacherConfig(dense=44, lexical=0, random=0)


def row_of(found: Study, row: int, document: int) -> float:
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


def test_gains_are_the_scorers_and_base_is_the_cosine(base: BaseVectors) -> None:
    probes = [probe("traffic", "filler3 text3", None, "train"), probe("title", "Harbour wall", "own")]
    found = look(base, probes, CHUNKS)
    expected = NgramScorer(found.texts, 44).gains(probes, found.candidates)
    finite = np.isfinite(found.gains)
    np.testing.assert_allclose(found.gains[finite], expected[finite], rtol=1e-6)
    cosines = np.take_along_axis(base.queries([p.text for p in probes]) @ found.documents.T, found.candidates, 1)
    np.testing.assert_allclose(found.base, cosines, atol=1e-6)
    assert found.gains.dtype == found.base.dtype == np.float32


def test_candidates_are_those_that_the_live_version_finds(base: BaseVectors) -> None:
    draw = np.random.default_rng(0)
    live = Residual(draw.normal(size=(16, 4)).astype(np.float32), draw.normal(size=(4, 16)).astype(np.float32))
    probes, config = [probe("traffic", "filler3 text3", None)], TeacherConfig(dense=4, lexical=0, random=0)
    found = study(probes, CHUNKS, base, live, NgramScorer, config, 0)
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
        ("span", "It runs.", "It runs. It eats. It runs.", "It eats. It runs."),
        ("span", "It runs.", "It runs.", "It runs."),
    ],
)
def test_a_text_without_its_probe(kind: str, asked: str, text: str, expected: str) -> None:
    assert without(text, probe(kind, asked, "x")) == expected
