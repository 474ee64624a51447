"""Students: adapters in training, that say how near a query and a document are, with a gradient to what is trained.

One works on vectors and word weights that are cached, where no transformer runs; the other reads texts with LoRA in
the encoder, under an adapter that stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import normalize

from ragself.learn.reader import Reader
from ragself.models.adapter import Adapter
from ragself.models.encoder import Encoder
from ragself.models.hybrid import Hybrid
from ragself.models.lexicon import Lexicon
from ragself.models.lora import Sides
from ragself.models.residual import Residual

FloatArray = NDArray[np.float32]
Rows = NDArray[np.int64]
Side = tuple[Sequence[str], FloatArray]
"""Texts and their (count, base) base vectors."""

SHARPER = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # factors of all logits that are tried before anything is learned


class Student(Protocol):
    """An adapter in training."""

    @property
    def rates(self) -> Sequence[tuple[Sequence[str], float]]:
        """Names of weights that are trained, and their learning rate, by group."""
        ...

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """All that is trained, by name."""
        ...

    def logits(self, rows: Rows, used: Rows) -> tuple[Tensor, Tensor]:
        """How near queries and documents are, (len(rows), len(used)) float32; and what keeps it close to the base."""
        ...

    def sharpen(self, factor: float) -> None:
        """Multiply all logits."""
        ...

    def draw(self, *seed: int) -> None:
        """Make chance, if there is any in it, depend on this alone."""
        ...


def sharpen(student: Student, losses: Sequence[float], factors: Sequence[float]) -> float:
    """Multiply all logits by the factor whose loss is the lowest, and return it; without losses nothing is changed."""
    best = factors[int(np.argmin(losses))] if len(losses) else 1.0
    student.sharpen(best)
    return best


@dataclass(frozen=True, slots=True)
class Words:
    """The two sides of the lexical score, as of `Lexicon`.

    Attributes:
        queries: (P, V) float32 CSR, factors of words in the probes.
        documents: (N, V) float32 CSR, factors of words in the documents.
        query_level: (P,) float32, what depends on the length of the probe.
        document_level: (N,) float32, the same of the documents.
        balance: (V,) float32, how the sketch divides a word between both.
    """

    queries: csr_matrix
    documents: csr_matrix
    query_level: FloatArray
    document_level: FloatArray
    balance: FloatArray

    @classmethod
    def of(cls, lexicon: Lexicon, queries: Sequence[str], documents: Sequence[str]) -> Words:
        """Of P queries and N documents."""
        return cls(
            lexicon.weigh(queries, "query"),
            lexicon.weigh(documents, "document"),
            lexicon.levels(queries, "query"),
            lexicon.levels(documents, "document"),
            lexicon.balance,
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a student on vectors learns, and how it is held.

    Attributes:
        rank: Of the residual.
        anchor: Weight of the squared distance to the base vectors, both sides.
        anchor_words: Weight of the mean square of the logarithms of the word weights.
        rate, rate_words, rate_scale: Learning rates of the residual, the word weights, and strength and temperature.
        strength: Weight of the lexical score against the dense one, in nats, to begin with.
        width: Dimensions of the sketch that will be served; its noise is added while training.
        seed: Of initialisation and noise.
    """

    rank: int = 64
    anchor: float = 0.3
    anchor_words: float = 1e-2
    rate: float = 4e-3
    rate_words: float = 3e-2
    rate_scale: float = 3e-2
    strength: float = 2.5
    width: int = 2560
    seed: int = 0


class VectorStudent(nn.Module):
    """A residual, and with words a hybrid, on cached vectors."""

    def __init__(self, queries: FloatArray, documents: FloatArray, words: Words | None, tau: float, pace: Pace) -> None:
        """Begin at the base vectors.

        Args:
            queries: (P, base) base vectors.
            documents: (N, base) base vectors.
            words: What the texts are made of; None to train no sketch.
            tau: Temperature of the cosines to begin with.
            pace: How it learns.
        """
        super().__init__()
        self.queries, self.documents, self.words, self.pace = queries, documents, words, pace
        self.random = torch.Generator().manual_seed(pace.seed)
        base = queries.shape[1]
        self.down = nn.Parameter(torch.randn(base, pace.rank, generator=self.random) / math.sqrt(base))
        self.up = nn.Parameter(torch.zeros(pace.rank, base))  # so that training begins at the base vectors
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau)))
        self.log_weight = nn.Parameter(torch.zeros(len(words.balance) if words else 0))
        self.log_strength = nn.Parameter(torch.tensor(math.log(pace.strength)))

    @property
    def rates(self) -> Sequence[tuple[Sequence[str], float]]:
        """Of the residual, of words, and of the two scales."""
        pace = self.pace
        scales = ("log_tau", "log_strength") if self.words else ("log_tau",)
        groups = [(("down", "up"), pace.rate), (scales, pace.rate_scale)]
        return [*groups, (("log_weight",), pace.rate_words)] if self.words else groups

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """Down, up, and the rest, by name."""
        return dict(self.named_parameters())

    def logits(self, rows: Rows, used: Rows) -> tuple[Tensor, Tensor]:
        """Cosine over temperature, plus strength times the lexical score; and the anchor, a scalar.

        Args:
            rows: n of the queries.
            used: m of the documents.

        Returns:
            (n, m) float32, and a scalar.
        """
        pace = self.pace
        queries, documents = torch.from_numpy(self.queries[rows]), torch.from_numpy(self.documents[used])
        new_queries, new_documents = self._residual(queries), self._residual(documents)
        scores = (new_queries @ new_documents.T) / self.log_tau.exp()
        penalty = pace.anchor * (_distance(new_queries, queries) + _distance(new_documents, documents))
        if self.words is not None:
            scores = scores + self.log_strength.exp() * self._lexical(self.words, rows, used)
            penalty = penalty + pace.anchor_words * (self.log_weight**2).mean()
        return scores, penalty

    def sharpen(self, factor: float) -> None:
        """Multiply all logits."""
        with torch.no_grad():
            self.log_tau.sub_(math.log(factor))
            self.log_strength.add_(math.log(factor))

    def draw(self, *seed: int) -> None:
        """Make the noise depend on this alone."""
        self.random.manual_seed(int(np.random.default_rng(seed).integers(1 << 62)))

    def found(self) -> tuple[FloatArray, FloatArray, FloatArray | None, float]:
        """Down and up, logarithms of the word weights or None, and strength in cosine per nat; 0 without words."""
        words = self.words is not None
        return (
            self.down.detach().numpy(),
            self.up.detach().numpy(),
            self.log_weight.detach().numpy() if words else None,
            float((self.log_strength + self.log_tau).exp().detach()) if words else 0.0,
        )

    def _residual(self, vectors: Tensor) -> Tensor:
        return normalize(vectors + vectors @ self.down @ self.up, dim=-1)

    def _lexical(self, words: Words, rows: Rows, used: Rows) -> Tensor:
        """Exact lexical scores of the batch, (rows, used), with the noise that the sketch will add."""
        queries, documents = words.queries[rows], words.documents[used]
        columns = np.unique(queries.indices)  # words of no query in the batch meet nothing
        at = torch.from_numpy(columns.astype(np.int64))
        asked = torch.from_numpy(queries[:, columns].toarray()) * self.log_weight[at].exp()
        exact = asked @ torch.from_numpy(documents[:, columns].toarray()).T
        exact = exact + torch.from_numpy(np.outer(words.query_level[rows], words.document_level[used]))

        # What was learned is divided between both sides; the documents' lengths hardly change by it.
        halved = asked * (torch.from_numpy(words.balance[columns]) * (-self.log_weight[at] / 2).exp())
        lengths = torch.from_numpy(_lengths(documents, words.balance))
        noise = torch.randn(exact.shape, generator=self.random) / math.sqrt(self.pace.width)
        noisy: Tensor = exact + noise * halved.norm(dim=1)[:, None] * lengths[None, :]
        return noisy


class TextStudent:
    """LoRA in the encoder, under a residual or a hybrid that stays as it is, or alone."""

    def __init__(
        self,
        encoder: Encoder,
        inner: Adapter | None,
        sides: Sides,
        queries: tuple[Sequence[str], FloatArray],
        documents: tuple[Sequence[str], FloatArray],
        tau: float,
        pace: Pace,
    ) -> None:
        """Begin at the encoder as it is.

        Args:
            encoder: The base.
            inner: Around its vectors; None, a Residual or a Hybrid.
            sides: Whose texts are read; documents that are not keep their vectors.
            queries: P texts and their (P, base) base vectors.
            documents: N texts and their (N, base) base vectors.
            tau: Temperature to begin with.
            pace: Rank, anchor, rates and seed.

        Raises:
            EncoderError: The encoder has no module for LoRA.
        """
        assert inner is None or isinstance(inner, Residual | Hybrid)
        self._inner, self._queries, self._documents, self._pace = inner, queries, documents, pace
        self.reader = Reader(encoder, pace.rank, 2.0 * pace.rank, pace.seed)
        self._asked = self.reader.tokens(queries[0], "query")
        self._searched = self.reader.tokens(documents[0], "document") if sides == "both" else None
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau)))
        self.rates = ((tuple(self.reader.weights), pace.rate), (("log_tau",), pace.rate_scale))

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """LoRA's, and the temperature."""
        return {**self.reader.weights, "log_tau": self.log_tau}

    def logits(self, rows: Rows, used: Rows) -> tuple[Tensor, Tensor]:
        """Score of the vectors that will be served, over temperature; and the anchor. See `VectorStudent.logits`."""
        old, stay = self._queries[1][rows], self._documents[1][used]
        asked = self.reader.read(self._asked, rows)
        moved = _distance(asked, torch.from_numpy(old))
        found = torch.from_numpy(stay)
        if self._searched is not None:
            found = self.reader.read(self._searched, used)
            moved = moved + _distance(found, torch.from_numpy(stay))
        scores = self._around(asked, old, rows, "query") @ self._around(found, stay, used, "document").T
        return scores / self.log_tau.exp(), self._pace.anchor * moved

    def sharpen(self, factor: float) -> None:
        """Multiply all logits."""
        with torch.no_grad():
            self.log_tau.sub_(math.log(factor))

    def draw(self, *seed: int) -> None:
        """There is no chance in it."""

    def _around(self, dense: Tensor, old: FloatArray, rows: Rows, side: str) -> Tensor:
        """The inner adapter's vectors, with new ones in the place of their dense part."""
        inner = self._inner
        if inner is None:
            return dense
        residual = inner.residual if isinstance(inner, Hybrid) else inner
        down, up = torch.from_numpy(residual.down), torch.from_numpy(residual.up)
        mapped = normalize(dense + dense @ down @ up, dim=-1)
        texts = [(self._queries if side == "query" else self._documents)[0][row] for row in rows]
        made = inner.queries(old, texts) if side == "query" else inner.documents(old, texts)
        return torch.cat([mapped, torch.from_numpy(made[:, dense.shape[1] :])], dim=1)


def _distance(new: Tensor, old: Tensor) -> Tensor:
    return ((new - old) ** 2).sum(dim=1).mean()


def _lengths(documents: csr_matrix, balance: FloatArray) -> FloatArray:
    """Length of each document's factors, divided by the balance, (rows,)."""
    squares = np.square(documents.data / balance[documents.indices])
    rows = np.repeat(np.arange(documents.shape[0]), np.diff(documents.indptr))
    return np.sqrt(np.bincount(rows, squares, documents.shape[0])).astype(np.float32)
