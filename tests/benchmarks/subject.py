"""A collection, what the base model makes of it, and the rankings that need no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ragself.cli.bench import RRF_DEPTH, _reciprocal_ranks, read
from ragself.config import EncoderConfig
from ragself.corpus.cache import VectorCache
from ragself.corpus.words import words
from ragself.learn.candidates import Bm25
from ragself.models.encoder import Encoder
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress
from tests.benchmarks.languages import nonenglish
from tests.benchmarks.trainers import Clock

TRAFFIC = {
    "scifact": "train", "nfcorpus": "train", "cosqa": "dev", "cranfield": None, "med": None,
    "xquad": None, "xquad-de": None, "xquad-es": None,
}  # fmt: skip
"""The collections, and the split of each whose queries are what users asked; None where there is none."""


def folder_of(data: Path, name: str, work: Path) -> Path:
    """The BEIR folder of a collection. A name such as xquad-de is XQuAD in another language, made in `work`."""
    folder, (plain, _, language) = data / name, name.partition("-")
    if language and not folder.exists():
        return nonenglish(data / plain, language, work / "data" / name)
    return folder


class Subject:
    """A collection, and what the base model makes of it."""

    def __init__(self, folder: Path, cache: VectorCache, say: Progress) -> None:
        self.collection = read(folder, "test")
        self.texts = [chunk.text for chunk in self.collection.chunks]
        self.ids = np.array([chunk.id for chunk in self.collection.chunks])
        self.asked = list(self.collection.queries.values())
        self.seconds = 0.0  # of processor time, encoding with the base model
        self._cache, self._say = cache, say

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(EncoderConfig())

    def base(self, texts: Sequence[str], side: str) -> NDArray[np.float32]:
        """Vectors of the base model, (len(texts), dimension) float32, side is documents or queries."""
        encoder = self.encoder
        vectors = BaseVectors(lambda: encoder, encoder.fingerprint, encoder.dimension, self._cache)
        clock = Clock()
        missing = bool(vectors.missing(texts, "document" if side == "documents" else "query"))
        out: NDArray[np.float32] = getattr(vectors, side)(texts, self._say)
        self.seconds += clock.seconds if missing else 0.0
        return out

    @cached_property
    def dense(self) -> NDArray[np.float32]:
        return np.asarray(self.base(self.asked, "queries") @ self.base(self.texts, "documents").T)

    @cached_property
    def lexical(self) -> NDArray[np.float32]:
        rows, scores = Bm25(self.texts).top(self.asked, len(self.texts))
        out = np.zeros((len(self.asked), len(self.texts)), dtype=np.float32)
        np.put_along_axis(out, rows, scores, axis=1)
        return out


def untrained(subject: Subject, method: str, seed: int = 0) -> NDArray[Any]:
    """Scores of every document for every query by bm25, dense, rrf, linear or sketch."""
    rankers: dict[str, Callable[[], NDArray[Any]]] = {
        "bm25": lambda: subject.lexical,
        "dense": lambda: subject.dense,
        "rrf": lambda: (
            _reciprocal_ranks(subject.lexical, subject.lexical > 0)
            + _reciprocal_ranks(subject.dense, np.isfinite(subject.dense))
            + 1e-9 * subject.dense
        ),
        "linear": lambda: linear(subject.lexical, subject.dense),
        "sketch": lambda: 0.8 * subject.dense + 0.2 * sketched(subject.asked, subject.texts, seed),
    }
    return rankers[method]()


def linear(lexical: NDArray[np.float32], dense: NDArray[np.float32], weight: float = 0.5) -> NDArray[np.float32]:
    """`weight` of the dense score and the rest of the lexical one, each scaled over its list of each query."""
    return weight * _scaled(dense, np.isfinite(dense)) + (1.0 - weight) * _scaled(lexical, lexical > 0)


def sketched(asked: Sequence[str], texts: Sequence[str], seed: int, width: int = 1024) -> NDArray[np.float32]:
    """Cosine of random projections of the words that queries and documents hold, by rarity, (queries, documents)."""
    held = [sorted(set(words(text))) for text in [*texts, *asked]]
    vocabulary = {word: column for column, word in enumerate(sorted({word for some in held for word in some}))}
    columns = np.array([vocabulary[word] for some in held for word in some], dtype=np.int64)
    starts = np.cumsum([0, *map(len, held)])
    frequency = np.bincount(columns[: starts[len(texts)]], minlength=len(vocabulary))
    rarity = np.maximum(np.log((len(texts) + 1) / (frequency + 0.5)), 0.0).astype(np.float32)
    bags = csr_matrix((rarity[columns], columns, starts), shape=(len(held), len(vocabulary)))
    random = np.random.default_rng(seed).normal(size=(len(vocabulary), width)).astype(np.float32)
    vectors = bags @ random
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return np.asarray(vectors[len(texts) :] @ vectors[: len(texts)].T, dtype=np.float32)


def _scaled(scores: NDArray[np.float32], listed: NDArray[np.bool_]) -> NDArray[np.float32]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :RRF_DEPTH]
    inside = np.zeros_like(listed)
    np.put_along_axis(inside, order, True, axis=1)
    inside &= listed
    low = np.where(inside, scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(inside, scores, -np.inf).max(axis=1, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    return np.where(inside, np.where(high > low, (scores - low) / span, 1.0), 0.0).astype(np.float32)


def encode(encoder: Encoder, texts: Sequence[str], say: Progress) -> NDArray[np.float32]:
    """Vectors of a changed model, like lengths together, (len(texts), dimension)."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    out = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    for start in range(0, len(order), 128):
        say("encode documents", start, len(order))
        rows = order[start : start + 128]
        out[rows] = encoder.documents([texts[row] for row in rows])
    say("encode documents", len(order), len(order))
    return out
