"""A collection, what the base model makes of it, and the rankings that need no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.cli.bench import Collection, Law, bm25, linear, rrf
from ragself.config import EncoderConfig
from ragself.encoders.cache import VectorCache
from ragself.encoders.encoder import Encoder
from ragself.encoders.spread import unit
from ragself.encoders.vectors import BaseVectors
from ragself.progress import Progress
from tests.benchmarks.languages import nonenglish
from tests.benchmarks.trainers import Clock

TRAFFIC = {
    "scifact": "train", "nfcorpus": "train", "cosqa": "dev", "cranfield": None, "med": None,
    "xquad": None, "xquad-de": None, "xquad-es": None, "xquad-zh": None,
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

    def __init__(self, collection: Collection, cache: VectorCache, say: Progress) -> None:
        """Nothing is encoded yet.

        Args:
            collection: What is measured.
            cache: Where vectors of the base model are kept.
            say: Told of texts encoded.
        """
        self.collection = collection
        self.texts = [chunk.text for chunk in collection.chunks]
        self.ids = np.array([chunk.id for chunk in collection.chunks])
        self.asked = list(collection.queries.values())
        self.seconds = 0.0  # of processor time, encoding with the base model
        self._cache, self._say = cache, say

    @cached_property
    def vectors(self) -> BaseVectors:
        """The encoder and its cache."""
        encoder = Encoder(EncoderConfig())
        return BaseVectors(lambda: encoder, encoder.fingerprint, encoder.dimension, self._cache)

    def base(self, texts: Sequence[str], side: Literal["documents", "queries"]) -> NDArray[np.float32]:
        """Vectors of the base model, (len(texts), dimension) float32."""
        vectors, clock = self.vectors, Clock()
        missing = bool(vectors.missing(texts, "document" if side == "documents" else "query"))
        out: NDArray[np.float32] = getattr(vectors, side)(texts, self._say)
        self.seconds += clock.seconds if missing else 0.0
        return out

    @cached_property
    def dense(self) -> NDArray[np.float32]:
        """Cosines, (queries, documents)."""
        return np.asarray(self.base(self.asked, "queries") @ self.base(self.texts, "documents").T)

    @cached_property
    def lexical(self) -> NDArray[np.float32]:
        """Scores of bm25s, (queries, documents)."""
        return bm25(self.texts, self.asked)

    @cached_property
    def law(self) -> Law:
        """What hybrid search ranks by."""
        return Law(self.texts, self.asked, unit(self.vectors))


def free(subject: Subject, method: str) -> NDArray[Any]:
    """Scores of every document for every query by a ranker that needs no training: one of `rivals.FREE`."""
    rankers: dict[str, Callable[[], NDArray[Any]]] = {
        "bm25": lambda: subject.lexical,
        "dense": lambda: subject.dense,
        "rrf": lambda: rrf(subject.lexical, subject.dense),
        "linear": lambda: linear(subject.lexical, subject.dense),
        "untrained": lambda: subject.law.scores(subject.dense, Ranking()),
    }
    return rankers[method]()


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
