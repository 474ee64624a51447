"""Students: rankings in training, whose scores have a gradient to the trained weights.

One works on cached vectors, without a transformer. The other encodes texts with LoRA, under a frozen residual or alone.
Both add the lexical scores of the ranking law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from ragself.adapters.lora import Sides
from ragself.adapters.protocol import Adapter
from ragself.adapters.residual import Residual
from ragself.encoders.encoder import Encoder
from ragself.lexical.weights import Weights
from ragself.probes.lexical_features import LexicalFeatures, LexicalScores
from ragself.training.token_reader import Reader

FloatArray = NDArray[np.float32]
Rows = NDArray[np.int64]
Side = tuple[Sequence[str], FloatArray]
"""Texts and their (count, base) base vectors."""

SHARPER = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # factors of all logits to try before training
_LEAST = 1e-4  # lower bound of a and b, for 0 has no logarithm


class Student(Protocol):
    """A ranking in training."""

    @property
    def rates(self) -> Sequence[tuple[Sequence[str], float]]:
        """Groups of trained weights: their names and their learning rate."""
        ...

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """All trained weights, by name."""
        ...

    def logits(self, rows: Rows, used: Rows) -> tuple[Tensor, Tensor]:
        """Scores divided by the temperature, (len(rows), len(used)) float32; and the penalty, a scalar."""
        ...

    def sharpen(self, factor: float) -> None:
        """Multiply all logits."""
        ...


def sharpen(student: Student, losses: Sequence[float], factors: Sequence[float]) -> float:
    """Multiply all logits by the factor with the lowest loss, and return it; without losses the factor is 1."""
    best = factors[int(np.argmin(losses))] if len(losses) else 1.0
    student.sharpen(best)
    return best


@dataclass(frozen=True, slots=True)
class Pace:
    """Size, penalties and learning rates of a student.

    Attributes:
        rank: Rank of the residual; 0 trains none.
        anchor: Weight of the squared distance to the base vectors, on both sides.
        anchor_words: Weight of the mean square of the logarithms of the word weights.
        rate, rate_words, rate_scale: Learning rates of the residual, the word weights, and of a, b and the temperature.
        seed: Seed of initialisation.
    """

    rank: int = 64
    anchor: float = 0.3
    anchor_words: float = 1e-2
    rate: float = 4e-3
    rate_words: float = 3e-2
    rate_scale: float = 3e-2
    seed: int = 0


class VectorStudent(nn.Module):
    """Student with a residual on cached vectors, and the weights of the lexical scores."""

    def __init__(
        self, queries: FloatArray, documents: FloatArray, words: LexicalFeatures, tau: float, pace: Pace, start: Weights
    ) -> None:
        """Start at the base vectors.

        Args:
            queries: (P, base) base vectors.
            documents: (N, base) base vectors.
            words: Lexical features of the same queries and documents.
            tau: Initial temperature of the scores.
            pace: Rank, penalties, rates and seed.
            start: Initial weights of the lexical scores.
        """
        super().__init__()
        self.queries, self.documents, self.words, self.pace = queries, documents, words, pace
        random, base = torch.Generator().manual_seed(pace.seed), queries.shape[1]
        self.down = nn.Parameter(torch.randn(base, pace.rank, generator=random) / math.sqrt(base))
        self.up = nn.Parameter(torch.zeros(pace.rank, base))  # so that training starts at the base vectors
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau)))
        self.log_weight = nn.Parameter(torch.from_numpy(words.log_weight(start).copy()))
        self.log_a = nn.Parameter(torch.tensor(math.log(max(start.language_model, _LEAST))))
        self.log_b = nn.Parameter(torch.tensor(math.log(max(start.bm25, _LEAST))))

    @property
    def rates(self) -> Sequence[tuple[Sequence[str], float]]:
        """Groups and rates: the residual, if one is trained, the scales, and the words."""
        pace = self.pace
        residual = [(("down", "up"), pace.rate)] if pace.rank else []
        return [*residual, (("log_tau", "log_a", "log_b"), pace.rate_scale), (("log_weight",), pace.rate_words)]

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """All trained weights, by name: ``down``, ``up`` and the rest."""
        return dict(self.named_parameters())

    def logits(self, rows: Rows, used: Rows) -> tuple[Tensor, Tensor]:
        """Scores divided by the temperature, and the penalty.

        Args:
            rows: Rows of n queries.
            used: Rows of m documents.

        Returns:
            (n, m) float32, and a scalar.
        """
        cosines, penalty = self.cosines(rows, used)
        return (cosines + self.lexical(self.words.crossed(rows, used))) / self.log_tau.exp(), penalty

    def cosines(self, rows: Rows, used: Rows) -> tuple[Tensor, Tensor]:
        """Cosines of n queries and m documents, (n, m) float32; and the penalty, a scalar."""
        pace = self.pace
        queries, documents = torch.from_numpy(self.queries[rows]), torch.from_numpy(self.documents[used])
        penalty = pace.anchor_words * (self.log_weight**2).mean() if len(self.log_weight) else torch.tensor(0.0)
        if not pace.rank:
            return queries @ documents.T, penalty
        new_queries, new_documents = self._residual(queries), self._residual(documents)
        moved = _distance(new_queries, queries) + _distance(new_documents, documents)
        return new_queries @ new_documents.T, penalty + pace.anchor * moved

    def lexical(self, block: LexicalScores) -> Tensor:
        """Lexical scores of a block, with a gradient to a, b and the word weights."""
        learned = torch.from_numpy(block.language_model)
        if len(block.gain):
            change = torch.from_numpy(block.gain) * torch.expm1(self.log_weight[torch.from_numpy(block.term)])
            at = (torch.from_numpy(block.row), torch.from_numpy(block.column))
            learned = learned.index_put(at, change, accumulate=True)
        return self.log_a.exp() * learned + self.log_b.exp() * torch.from_numpy(block.bm25)

    def sharpen(self, factor: float) -> None:
        """Multiply all logits."""
        with torch.no_grad():
            self.log_tau.sub_(math.log(factor))

    def learned(self) -> tuple[Residual | None, Weights]:
        """The residual, or None if none was trained; and the weights of the lexical scores."""
        a, b = (float(each.exp().detach()) for each in (self.log_a, self.log_b))
        logs = self.log_weight.detach().numpy()
        changed = np.flatnonzero(logs)  # words of held-out probes were not trained
        weights = Weights(a, b, self.words.keys[changed], logs[changed].astype(np.float32))
        if not self.pace.rank:
            return None, weights
        return Residual(self.down.detach().numpy(), self.up.detach().numpy()), weights

    def _residual(self, vectors: Tensor) -> Tensor:
        return normalize(vectors + vectors @ self.down @ self.up, dim=-1)


class TextStudent:
    """Student with LoRA in the encoder, under a frozen residual or alone; the lexical scores are not trained."""

    def __init__(
        self,
        encoder: Encoder,
        inner: Adapter | None,
        sides: Sides,
        queries: Side,
        documents: Side,
        words: LexicalFeatures,
        weights: Weights,
        tau: float,
        pace: Pace,
    ) -> None:
        """Start at the unchanged encoder.

        Args:
            encoder: The base encoder.
            inner: Frozen adapter of its vectors; None or a Residual.
            sides: Side or sides whose texts are encoded; documents that are not encoded keep their vectors.
            queries: P texts and their (P, base) base vectors.
            documents: N texts and their (N, base) base vectors.
            words: Lexical features of the same queries and documents.
            weights: Weights of the lexical scores.
            tau: Initial temperature.
            pace: Rank, anchor, rates and seed.

        Raises:
            EncoderError: The encoder has no module for LoRA.
        """
        assert inner is None or isinstance(inner, Residual)
        self._inner, self._queries, self._documents, self._pace = inner, queries, documents, pace
        self._words, self._weights, self._logs = words, weights, words.log_weight(weights)
        self.reader = Reader(encoder, pace.rank, 2.0 * pace.rank, pace.seed)
        self._asked = self.reader.tokens(queries[0], "query")
        self._searched = self.reader.tokens(documents[0], "document") if sides == "both" else None
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau)))
        self.rates = ((tuple(self.reader.weights), pace.rate), (("log_tau",), pace.rate_scale))

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """Weights of LoRA, and the temperature."""
        return {**self.reader.weights, "log_tau": self.log_tau}

    def logits(self, rows: Rows, used: Rows) -> tuple[Tensor, Tensor]:
        """Scores divided by the temperature, (n, m), and the penalty. See `VectorStudent.logits`."""
        old, stay = torch.from_numpy(self._queries[1][rows]), torch.from_numpy(self._documents[1][used])
        queries, documents = self.reader.read(self._asked, rows), stay
        moved = _distance(queries, old)
        if self._searched is not None:
            documents = self.reader.read(self._searched, used)
            moved = moved + _distance(documents, stay)
        lexical = torch.from_numpy(self._words.crossed(rows, used).scores(self._weights, self._logs))
        scores = under(self._inner, queries) @ under(self._inner, documents).T + lexical
        return scores / self.log_tau.exp(), self._pace.anchor * moved

    def sharpen(self, factor: float) -> None:
        """Multiply all logits."""
        with torch.no_grad():
            self.log_tau.sub_(math.log(factor))


def under(inner: Adapter | None, vectors: Tensor) -> Tensor:
    """Apply a residual to vectors of the encoder, (n, base); None returns them unchanged."""
    if inner is None:
        return vectors
    assert isinstance(inner, Residual)
    down, up = torch.from_numpy(inner.down), torch.from_numpy(inner.up)
    return normalize(vectors + vectors @ down @ up, dim=-1)


def _distance(new: Tensor, old: Tensor) -> Tensor:
    return ((new - old) ** 2).sum(dim=1).mean()
