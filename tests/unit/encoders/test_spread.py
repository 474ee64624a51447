"""The unit of the lexical scores: how widely an encoder spreads its cosines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.adapters.protocol import normalise
from ragself.config import EncoderConfig
from ragself.encoders.cache import VectorCache
from ragself.encoders.encoder import Encoder
from ragself.encoders.spread import DOCUMENTS, QUERIES, REFERENCE, spread, unit
from ragself.encoders.vectors import BaseVectors


class Made:
    """Random vectors of texts; `constant` presses them together, as E5 does."""

    def __init__(self, constant: float = 0.0, width: int = 64) -> None:
        self.read: list[str] = []
        self.constant, self.width = constant, width

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.read.extend(texts)
        rows = [np.random.default_rng(list(text.encode())).normal(size=self.width) for text in texts]
        vectors = normalise(np.array(rows, dtype=np.float32).reshape(-1, self.width))
        held = np.full((len(texts), 1), self.constant, np.float32)
        return normalise(np.hstack([vectors, held]))

    queries = documents


@pytest.fixture
def base(tmp_path: Path) -> Iterator[object]:
    caches = []

    def make(encoder: Made) -> BaseVectors:
        caches.append(VectorCache(tmp_path / f"cache-{len(caches)}.db"))
        return BaseVectors(lambda: encoder, "print", encoder.width + 1, caches[-1])  # type: ignore[arg-type, return-value]

    yield make
    for cache in caches:
        cache.close()


def test_the_spread_is_the_mean_deviation_of_the_cosines_of_a_query(base) -> None:
    made = base(Made())
    deviations = []
    for query in made.queries(QUERIES):
        cosines = [float(query @ document) for document in made.documents(DOCUMENTS)]
        mean = sum(cosines) / len(cosines)
        deviations.append(math.sqrt(sum((each - mean) ** 2 for each in cosines) / len(cosines)))
    assert spread(made) == pytest.approx(sum(deviations) / len(deviations), rel=1e-4)
    assert unit(made) == pytest.approx(spread(made) / REFERENCE)


@pytest.mark.parametrize("constant", [1.0, 2.0])
def test_cosines_that_a_constant_presses_together_have_as_much_smaller_a_unit(base, constant: float) -> None:
    plain, pressed = unit(base(Made())), unit(base(Made(constant)))
    assert pressed == pytest.approx(plain / (1 + constant**2), rel=1e-3)


def test_a_narrower_encoder_spreads_more(base) -> None:
    assert unit(base(Made(width=16))) > 1.5 * unit(base(Made(width=64)))


def test_the_unit_does_not_depend_on_any_corpus_and_is_read_once(base) -> None:
    encoder = Made()
    made = base(encoder)
    first = unit(made)
    made.documents(["a corpus of its own"])
    read = len(encoder.read)
    assert unit(made) == first
    assert encoder.read[read:] == [] or set(encoder.read[read:]) <= set(QUERIES)  # queries are never kept
    assert encoder.read.count(DOCUMENTS[0]) == 1


def test_the_texts_are_general_and_none_comes_twice() -> None:
    assert len({*DOCUMENTS, *QUERIES}) == len(DOCUMENTS) + len(QUERIES)


def test_the_reference_is_the_default_encoder(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig())
    cache = VectorCache(tmp_path / "cache.db")
    found = unit(BaseVectors(lambda: encoder, encoder.fingerprint, encoder.dimension, cache))
    cache.close()
    assert found == pytest.approx(1.0, abs=0.01)
