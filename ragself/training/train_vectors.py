"""Distillation of the teacher into a ranking, on cached vectors and lexical scores.

No transformer runs here. The cost of a step depends on the batch and its candidates, not on the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from ragself.adapters.ranking import Ranking
from ragself.lexical.weights import Weights
from ragself.probes.lexical_features import LexicalFeatures, LexicalScores
from ragself.probes.targets import TAU
from ragself.progress import Progress, silent
from ragself.training.student import Pace, VectorStudent

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorData:
    """Training data.

    Attributes:
        queries: (P, base) base vectors of the probes.
        documents: (N, base) base vectors of the documents.
        candidates: (P, K) int rows of `documents`.
        target: (P, K) float32 teacher's distribution: rows sum to 1, or to 0 where every candidate is excluded.
        out: (P, K) True where a candidate is excluded from the loss.
        weights: (P,) float32 weight of each probe.
        words: Lexical features of the same queries and documents.
        matches: Lexical scores of the candidates.
        tau: Initial temperature of the scores.
        start: Initial weights of the lexical scores.
    """

    queries: FloatArray
    documents: FloatArray
    candidates: NDArray[np.int64]
    target: FloatArray
    out: NDArray[np.bool_]
    weights: FloatArray
    words: LexicalFeatures
    matches: LexicalScores
    tau: float = TAU
    start: Weights = field(default_factory=Weights)


@dataclass(frozen=True, slots=True)
class VectorSettings(Pace):
    """Settings of the training on vectors. The defaults measured best, and are the same for every collection.

    Attributes:
        steps: Number of optimiser steps, not of epochs: few probes are seen more often.
        batch: Probes per step.
    """

    steps: int = 100
    batch: int = 64


@dataclass(frozen=True, slots=True)
class TrainedVectors:
    """Result of the training on vectors.

    Attributes:
        ranking: The residual, if one was trained, and the weights of the lexical scores.
        loss: KL divergence of each step.
    """

    ranking: Ranking
    loss: tuple[float, ...]


def train(
    data: VectorData, settings: VectorSettings, progress: Progress = silent, stage: str = "train"
) -> TrainedVectors:
    """Minimise KL(teacher || student) plus the penalties of the student. Deterministic on a CPU.

    Args:
        data: Training data; P must be at least 1.
        settings: Steps, batch, penalties and rates.
        progress: Called with `stage`, steps done and total.
        stage: Name of the stage.
    """
    # One thread: the same bits on every machine, and threads that wait for a busy core make a step ten times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _minimize(_Student(data, settings), settings, progress, stage)
    finally:
        torch.set_num_threads(threads)


def _minimize(student: _Student, settings: VectorSettings, progress: Progress, stage: str) -> TrainedVectors:
    groups = [{"params": [student.weights[name] for name in names], "lr": rate} for names, rate in student.rates]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    rates = [rate for _, rate in student.rates]
    losses = []
    for step, rows in enumerate(_batches(len(student.data.queries), settings)):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / 5) * (1.0 - step / settings.steps)  # warm up, decay to 0
        divergence, penalty = student.loss(rows)
        optimiser.zero_grad()
        (divergence + penalty).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(divergence.item())
        progress(stage, step + 1, settings.steps)
    return TrainedVectors(Ranking(*student.learned()), tuple(losses))


def _batches(count: int, settings: VectorSettings) -> Iterator[NDArray[np.int64]]:
    """Rows of each step's probes: each epoch visits every probe once, in random order."""
    random = np.random.default_rng(settings.seed)
    left = np.empty(0, dtype=np.int64)
    for _ in range(settings.steps):
        if not len(left):
            left = random.permutation(count)
        yield left[: settings.batch]
        left = left[settings.batch :]


class _Student(VectorStudent):
    """Student with the distillation loss."""

    def __init__(self, data: VectorData, settings: VectorSettings) -> None:
        super().__init__(data.queries, data.documents, data.words, data.tau, settings, data.start)
        self.data = data

    def loss(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """KL divergence and penalty of one batch of probes, both scalars."""
        data = self.data
        used, inverse = np.unique(data.candidates[rows], return_inverse=True)
        at = torch.from_numpy(inverse.reshape(len(rows), -1))
        cosines, penalty = self.cosines(rows, used)
        scores = cosines.gather(1, at) + self.lexical(data.matches.take(rows))
        # Candidates that would leak the target are excluded from both distributions.
        out = torch.from_numpy(data.out[rows])
        logs = log_softmax((scores / self.log_tau.exp()).masked_fill(out, -1e4), dim=-1)
        target, weights = torch.from_numpy(data.target[rows]), torch.from_numpy(data.weights[rows])
        divergence = (target * (torch.log(target + 1e-12) - logs)).sum(dim=1) @ weights / weights.sum()
        return divergence, penalty
