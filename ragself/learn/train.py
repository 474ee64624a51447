"""The training step: an adapter learns a teacher's law, on vectors and word weights that are cached.

No transformer runs here. The cost of a step depends on the batch and its candidates, not on the corpus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from ragself.learn.teacher import TAU, law
from ragself.progress import Progress, silent

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What there is to learn from.

    Attributes:
        queries: (P, base) base vectors of the probes.
        documents: (N, base) base vectors of the documents that are a candidate of any probe.
        candidates: (P, K) int rows of `documents`.
        gains: (P, K) likelihood gain, nats per token; -inf where a candidate must not be learned from.
        weights: (P,) float32, how much each probe counts.
        query_words: (P, V) float32 CSR word weights of the probes, L2-normalised; None to train no sketch.
        document_words: (N, V) float32 CSR, the same of the documents; None to train no sketch.
    """

    queries: FloatArray
    documents: FloatArray
    candidates: NDArray[np.int64]
    gains: FloatArray
    weights: FloatArray
    query_words: csr_matrix | None = None
    document_words: csr_matrix | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """How it is learned. The defaults are the measured best and the same for every collection.

    Attributes:
        weight: Of the likelihood gain against the base similarity in the teacher's law.
        steps: Of the optimiser, so that few probes are seen more often.
        batch: Probes a step.
        rank: Of the residual.
        anchor: Weight of the squared distance to the base vectors, both sides.
        anchor_words: The same for the word weights.
        rate, rate_words, rate_mix: Learning rates of the residual, the word weights, and mix and temperature.
        mix: Share of the lexical part to begin with.
        width: Dimensions of the sketch that will be served; its noise is added while training.
        seed: Of initialisation, order and noise.
    """

    weight: float
    steps: int = 100
    batch: int = 64
    rank: int = 64
    anchor: float = 0.3
    anchor_words: float = 1.0
    rate: float = 4e-3
    rate_words: float = 3e-2
    rate_mix: float = 1e-1
    mix: float = 0.4
    width: int = 1024
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned.

    Attributes:
        down, up: The residual, (base, rank) and (rank, base) float32.
        log_weight: (V,) float32, what each word's importance is multiplied by, as a logarithm; None without sketch.
        mix: Share of the lexical part; 0 without sketch.
        loss: KL divergence of each step.
    """

    down: FloatArray
    up: FloatArray
    log_weight: FloatArray | None
    mix: float
    loss: tuple[float, ...]


def train(lesson: Lesson, schedule: Schedule, progress: Progress = silent, stage: str = "train") -> Learned:
    """Minimise KL(teacher || student) plus the distance to where it began. Deterministic on a CPU.

    Args:
        lesson: What to learn from; P must be at least 1.
        schedule: How.
        progress: Told of steps.
        stage: The name to tell it.
    """
    # One thread: the same bits on every machine, and threads that wait for a busy core cost ten times the step.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _minimise(_Student(lesson, schedule), schedule, progress, stage)
    finally:
        torch.set_num_threads(threads)


def _minimise(student: _Student, schedule: Schedule, progress: Progress, stage: str) -> Learned:
    optimiser = torch.optim.AdamW(student.groups(schedule), weight_decay=0.0)
    rates = [group["lr"] for group in optimiser.param_groups]
    losses = []
    for step, rows in enumerate(_batches(len(student.lesson.queries), schedule)):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / 5) * (1.0 - step / schedule.steps)  # warm up, decay to 0
        divergence, penalty = student.loss(rows)
        optimiser.zero_grad()
        (divergence + penalty).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(divergence.item())
        progress(stage, step + 1, schedule.steps)
    return student.learned(tuple(losses))


def _batches(count: int, schedule: Schedule) -> Iterator[NDArray[np.int64]]:
    """Rows of each step's probes: every probe once, in random order, then again."""
    random = np.random.default_rng(schedule.seed)
    left = np.empty(0, dtype=np.int64)
    for _ in range(schedule.steps):
        if not len(left):
            left = random.permutation(count)
        yield left[: schedule.batch]
        left = left[schedule.batch :]


class _Student(nn.Module):
    def __init__(self, lesson: Lesson, schedule: Schedule) -> None:
        super().__init__()
        self.lesson, self.schedule = lesson, schedule
        self.random = torch.Generator().manual_seed(schedule.seed)
        base = lesson.queries.shape[1]
        self.down = nn.Parameter(torch.randn(base, schedule.rank, generator=self.random) / math.sqrt(base))
        self.up = nn.Parameter(torch.zeros(schedule.rank, base))  # so that training begins at the base vectors
        self.log_tau = nn.Parameter(torch.tensor(math.log(TAU)))
        self.words = lesson.query_words is not None
        vocabulary = lesson.query_words.shape[1] if lesson.query_words is not None else 0
        self.log_weight = nn.Parameter(torch.zeros(vocabulary))
        mix = schedule.mix if self.words else 0.5
        self.logit_mix = nn.Parameter(torch.tensor(math.log(mix / (1.0 - mix))))

    def groups(self, schedule: Schedule) -> list[dict[str, object]]:
        return [
            {"params": [self.down, self.up], "lr": schedule.rate},
            {"params": [self.log_weight], "lr": schedule.rate_words},
            {"params": [self.log_tau, self.logit_mix], "lr": schedule.rate_mix},
        ]

    def loss(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """KL divergence and anchor of one batch of probes, both scalars."""
        lesson, schedule = self.lesson, self.schedule
        used, inverse = np.unique(lesson.candidates[rows], return_inverse=True)
        at = torch.from_numpy(inverse.reshape(len(rows), -1))
        queries, documents = torch.from_numpy(lesson.queries[rows]), torch.from_numpy(lesson.documents[used])
        new_queries, new_documents = self._residual(queries), self._residual(documents)

        base = (queries @ documents.T).gather(1, at).numpy()
        target = torch.from_numpy(law(lesson.gains[rows], base, schedule.weight))
        scores = new_queries @ new_documents.T
        penalty = schedule.anchor * (_distance(new_queries, queries) + _distance(new_documents, documents))
        if lesson.query_words is not None and lesson.document_words is not None:
            lexical, moved = self._lexical(lesson.query_words[rows], lesson.document_words[used])
            mix = torch.sigmoid(self.logit_mix)
            scores = (1.0 - mix) * scores + mix * lexical
            penalty = penalty + schedule.anchor_words * moved
        logits = scores.gather(1, at) / self.log_tau.exp()
        # What would leak the target is out of both laws: it is neither pulled nor pushed.
        leaks = torch.from_numpy(np.isneginf(lesson.gains[rows]))
        logs = log_softmax(logits.masked_fill(leaks, -1e4), dim=-1)
        weights = torch.from_numpy(lesson.weights[rows])
        divergence = (target * (torch.log(target + 1e-12) - logs)).sum(dim=1) @ weights / weights.sum()
        return divergence, penalty

    def learned(self, losses: tuple[float, ...]) -> Learned:
        return Learned(
            down=self.down.detach().numpy(),
            up=self.up.detach().numpy(),
            log_weight=self.log_weight.detach().numpy() if self.words else None,
            mix=float(torch.sigmoid(self.logit_mix).detach()) if self.words else 0.0,
            loss=losses,
        )

    def _residual(self, vectors: Tensor) -> Tensor:
        return normalize(vectors + vectors @ self.down @ self.up, dim=-1)

    def _lexical(self, queries: csr_matrix, documents: csr_matrix) -> tuple[Tensor, Tensor]:
        """Exact lexical cosines of the batch, with the noise that the sketch will add; and how far words moved."""
        columns = np.unique(queries.indices)  # words of no query in the batch meet nothing
        at = torch.from_numpy(columns.astype(np.int64))
        scale = torch.exp(self.log_weight[at])
        query_norm, query_moved = self._moved(queries)
        document_norm, document_moved = self._moved(documents)
        query_part = torch.from_numpy(queries[:, columns].toarray()) * scale / query_norm[:, None]
        document_part = torch.from_numpy(documents[:, columns].toarray()) * scale / document_norm[:, None]
        cosines = query_part @ document_part.T
        noise = torch.randn(cosines.shape, generator=self.random) / math.sqrt(self.schedule.width)
        return cosines + noise, query_moved + document_moved

    def _moved(self, matrix: csr_matrix) -> tuple[Tensor, Tensor]:
        """Norm of each row after reweighting, (rows,), and the mean squared distance to the row before."""
        scale = torch.exp(self.log_weight[torch.from_numpy(matrix.indices.astype(np.int64))])
        squares = torch.from_numpy(matrix.data**2)
        row = torch.from_numpy(np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)))
        zeros = torch.zeros(matrix.shape[0])
        norm = (zeros.index_add(0, row, squares * scale * scale) + 1e-9).sqrt()
        before = zeros.index_add(0, row, squares)
        cosine = zeros.index_add(0, row, squares * scale) / (norm * (before + 1e-9).sqrt())
        return norm, ((2.0 - 2.0 * cosine) * (before > 0)).mean()


def _distance(new: Tensor, old: Tensor) -> Tensor:
    return ((new - old) ** 2).sum(dim=1).mean()
