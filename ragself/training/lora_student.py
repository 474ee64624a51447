"""Distillation into LoRA: training data, settings, and the student with its loss.

With side ``query`` a step encodes queries only, and documents keep their cached vectors. With ``both`` it also encodes
a few candidates of each probe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ragself.adapters.lora import Sides
from ragself.adapters.protocol import Adapter
from ragself.encoders.encoder import Encoder
from ragself.probes.targets import TAU
from ragself.training.student import under
from ragself.training.token_reader import BUDGET, Reader

FloatArray = NDArray[np.float32]
Rows = NDArray[np.int64]
_TAUS = tuple(TAU * 2.0 ** (step / 4) for step in range(-12, 21))  # initial temperatures to try
_WATCHED = 32  # held-out probes to evaluate if documents are encoded


@dataclass(frozen=True, slots=True)
class Probed:
    """Probes of one split, with the teacher's distribution over their candidates.

    Attributes:
        texts: Texts of P probes.
        queries: (P, base) float32 base vectors.
        candidates: (P, K) int64 rows of the documents.
        target: (P, K) float32 teacher's distribution: rows sum to 1, or to 0 where every candidate is excluded.
        leaks: (P, K) True where a candidate would leak the target: it is excluded from the loss.
        weights: (P,) float32 weight of each probe.
        lexical: (P, K) float32 lexical scores of the candidates, which are not trained.
    """

    texts: Sequence[str]
    queries: FloatArray
    candidates: NDArray[np.int64]
    target: FloatArray
    leaks: NDArray[np.bool_]
    weights: FloatArray
    lexical: FloatArray


@dataclass(frozen=True, slots=True)
class LoraData:
    """Training data.

    Attributes:
        train: Probes to train on; P must be at least 1.
        held: Held-out probes for early stopping; without any, training runs to the end.
        texts: Texts of the N documents that are a candidate of any probe.
        documents: (N, base) float32 base vectors.
    """

    train: Probed
    held: Probed
    texts: Sequence[str]
    documents: FloatArray


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Settings of the training of LoRA.

    Attributes:
        sides: Side or sides whose texts are encoded with LoRA.
        steps: Maximum number of optimiser steps.
        rank: Rank of LoRA.
        batch: Probes per step.
        candidates: Candidates of each probe that a step encodes, if documents are encoded.
        anchor: Weight of the squared distance to the base vectors.
        rate, rate_tau: Learning rates of LoRA and the temperature.
        every: Steps between two evaluations on the held-out probes.
        patience: Evaluations without a gain after which training stops.
        seed: Seed of initialisation and order.
    """

    sides: Sides = "query"
    steps: int = 160
    rank: int = 16
    batch: int = 32
    candidates: int = 8
    anchor: float = 1.0
    rate: float = 5e-4
    rate_tau: float = 1e-2
    every: int = 20
    patience: int = 3
    seed: int = 0

    @property
    def alpha(self) -> float:
        """Numerator of the scale alpha / rank."""
        return 2.0 * self.rank


class LoraStudent:
    """The encoder in training, its temperature, and the fixed vectors of documents."""

    def __init__(self, data: LoraData, encoder: Encoder, inner: Adapter | None, settings: LoraSettings) -> None:
        self.data, self.settings = data, settings
        self.reader = Reader(encoder, settings.rank, settings.alpha, settings.seed)
        self.inner = inner
        self.documents = under(inner, torch.from_numpy(data.documents))
        splits = (data.train, data.held)
        self.asked = {id(split): self.reader.tokens(split.texts, "query") for split in splits}
        reads = settings.sides == "both"
        self.searched = self.reader.tokens(data.texts, "document") if reads else None
        self.log_tau = nn.Parameter(torch.tensor(math.log(self._temperature())))
        self.weights = {**self.reader.weights, "log_tau": self.log_tau}

    def _temperature(self) -> float:
        """Temperature closest to the teacher before training, so that LoRA need not compensate for it."""
        split = self.data.train
        queries = under(self.inner, torch.from_numpy(split.queries))
        pairs = zip(queries, torch.from_numpy(split.candidates), strict=True)
        cosines = torch.stack([self.documents[row] @ query for query, row in pairs])
        scores = cosines + torch.from_numpy(split.lexical)
        weighted = torch.from_numpy(split.target * split.weights[:, None])

        def cross_entropy(tau: float) -> float:
            logits = (scores / tau).masked_fill(torch.from_numpy(split.leaks), -1e4)
            return -(weighted * log_softmax(logits, dim=-1)).sum().item()

        return float(min(_TAUS, key=cross_entropy))

    def groups(self, split: Probed, rows: Rows, columns: Rows) -> Iterator[Rows]:
        """Positions in `rows` whose gradients fit into memory together, grouped by length."""
        cost = self.asked[id(split)].lengths[rows]
        if self.searched is not None:
            cost = cost + self.searched.lengths[np.take_along_axis(split.candidates[rows], columns, axis=1)].sum(axis=1)
        order = np.argsort(-cost, kind="stable")
        start = 0
        for at in range(1, len(order) + 1):
            if at == len(order) or cost[order[start : at + 1]].sum() > BUDGET:
                yield order[start:at]
                start = at

    def loss(self, split: Probed, rows: Rows, columns: Rows) -> tuple[Tensor, Tensor]:
        """KL divergence of each probe, (n,), and squared distance of the new vectors to the base vectors, a scalar.

        Args:
            split: Probes of one split.
            rows: n rows of the split.
            columns: (n, k) columns of their candidates.
        """
        data = self.data
        found = np.take_along_axis(split.candidates[rows], columns, axis=1)
        new = self.reader.read(self.asked[id(split)], rows)
        moved = _distance(new, split.queries[rows])
        queries = under(self.inner, new)
        if self.searched is None:
            documents = self.documents[torch.from_numpy(found)]
        else:
            used, inverse = np.unique(found, return_inverse=True)
            read = self.reader.read(self.searched, used)
            moved = moved + _distance(read, data.documents[used])
            documents = under(self.inner, read)[torch.from_numpy(inverse.reshape(found.shape))]
        scores = torch.einsum("nd,nkd->nk", queries, documents)
        scores = scores + torch.from_numpy(np.take_along_axis(split.lexical[rows], columns, axis=1))
        leaks = torch.from_numpy(np.take_along_axis(split.leaks[rows], columns, axis=1))
        logs = log_softmax((scores / self.log_tau.exp()).masked_fill(leaks, -1e4), dim=-1)
        mass = np.take_along_axis(split.target[rows], columns, axis=1)
        target = torch.from_numpy(mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12))
        return (target * (torch.log(target + 1e-12) - logs)).sum(dim=1), moved

    def columns(self, split: Probed, rows: Rows, random: np.random.Generator) -> Rows:
        """Candidates of each probe to use: all if cached or few, else half the teacher's best, half random others."""
        count = split.candidates.shape[1]
        if self.searched is None or count <= self.settings.candidates:
            return np.tile(np.arange(count), (len(rows), 1))
        best = self.settings.candidates // 2
        rank = np.argsort(np.argsort(-split.target[rows], axis=1, kind="stable"), axis=1)
        draw = random.random(rank.shape)
        draw[rank < best] = -1.0
        draw[split.leaks[rows]] += 2.0  # excluded from the loss, so encoded last
        return np.sort(np.argsort(draw, axis=1, kind="stable")[:, : self.settings.candidates], axis=1)

    def divergence(self) -> float:
        """Mean KL divergence of the held-out probes."""
        split = self.data.held
        rows = np.arange(len(split.texts))[: None if self.searched is None else _WATCHED]
        columns = self.columns(split, rows, np.random.default_rng(self.settings.seed))
        total = 0.0
        with torch.no_grad():
            for group in self.groups(split, rows, columns):
                found = self.loss(split, rows[group], columns[group])[0].numpy()
                total += float(found @ split.weights[rows[group]])
        return total / max(float(split.weights[rows].sum()), 1e-12)


def _distance(new: Tensor, old: FloatArray) -> Tensor:
    return ((new - torch.from_numpy(old)) ** 2).sum(dim=1).mean()
