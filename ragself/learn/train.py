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
        trust: (P,) float32, weight of the gain against the base similarity in the teacher's law.
        tau: Temperature of the base cosines.
        words: What the texts are made of; None to train no sketch.
    """

    queries: FloatArray
    documents: FloatArray
    candidates: NDArray[np.int64]
    gains: FloatArray
    weights: FloatArray
    trust: FloatArray
    tau: float = TAU
    words: Words | None = None


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


@dataclass(frozen=True, slots=True)
class Schedule:
    """How it is learned. The defaults are the measured best and the same for every collection.

    Attributes:
        steps: Of the optimiser, so that few probes are seen more often.
        batch: Probes a step.
        rank: Of the residual.
        anchor: Weight of the squared distance to the base vectors, both sides.
        anchor_words: Weight of the mean square of the logarithms of the word weights.
        rate, rate_words, rate_scale: Learning rates of the residual, the word weights, and strength and temperature.
        strength: Weight of the lexical score against the dense one, in the teacher's units, to begin with.
        width: Dimensions of the sketch that will be served; its noise is added while training.
        seed: Of initialisation, order and noise.
    """

    steps: int = 100
    batch: int = 64
    rank: int = 64
    anchor: float = 0.3
    anchor_words: float = 1e-2
    rate: float = 4e-3
    rate_words: float = 3e-2
    rate_scale: float = 3e-2
    strength: float = 2.5
    width: int = 2560
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned.

    Attributes:
        down, up: The residual, (base, rank) and (rank, base) float32.
        log_weight: (V,) float32, what each word's importance is multiplied by, as a logarithm; None without sketch.
        strength: Of the lexical score, in cosine per nat; 0 without sketch.
        loss: KL divergence of each step.
    """

    down: FloatArray
    up: FloatArray
    log_weight: FloatArray | None
    strength: float
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
        self.log_tau = nn.Parameter(torch.tensor(math.log(lesson.tau)))
        self.log_weight = nn.Parameter(torch.zeros(len(lesson.words.balance) if lesson.words else 0))
        self.log_strength = nn.Parameter(torch.tensor(math.log(schedule.strength)))

    def groups(self, schedule: Schedule) -> list[dict[str, object]]:
        return [
            {"params": [self.down, self.up], "lr": schedule.rate},
            {"params": [self.log_weight], "lr": schedule.rate_words},
            {"params": [self.log_tau, self.log_strength], "lr": schedule.rate_scale},
        ]

    def loss(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """KL divergence and anchor of one batch of probes, both scalars."""
        lesson, schedule = self.lesson, self.schedule
        used, inverse = np.unique(lesson.candidates[rows], return_inverse=True)
        at = torch.from_numpy(inverse.reshape(len(rows), -1))
        queries, documents = torch.from_numpy(lesson.queries[rows]), torch.from_numpy(lesson.documents[used])
        new_queries, new_documents = self._residual(queries), self._residual(documents)

        base = (queries @ documents.T).gather(1, at).numpy()
        target = torch.from_numpy(law(lesson.gains[rows], base, lesson.trust[rows], lesson.tau))
        scores = (new_queries @ new_documents.T) / self.log_tau.exp()
        penalty = schedule.anchor * (_distance(new_queries, queries) + _distance(new_documents, documents))
        if lesson.words is not None:
            scores = scores + self.log_strength.exp() * self._lexical(lesson.words, rows, used)
            penalty = penalty + schedule.anchor_words * (self.log_weight**2).mean()
        logits = scores.gather(1, at)
        # What would leak the target is out of both laws: it is neither pulled nor pushed.
        leaks = torch.from_numpy(np.isneginf(lesson.gains[rows]))
        logs = log_softmax(logits.masked_fill(leaks, -1e4), dim=-1)
        weights = torch.from_numpy(lesson.weights[rows])
        divergence = (target * (torch.log(target + 1e-12) - logs)).sum(dim=1) @ weights / weights.sum()
        return divergence, penalty

    def learned(self, losses: tuple[float, ...]) -> Learned:
        words = self.lesson.words is not None
        return Learned(
            down=self.down.detach().numpy(),
            up=self.up.detach().numpy(),
            log_weight=self.log_weight.detach().numpy() if words else None,
            strength=float((self.log_strength + self.log_tau).exp().detach()) if words else 0.0,
            loss=losses,
        )

    def _residual(self, vectors: Tensor) -> Tensor:
        return normalize(vectors + vectors @ self.down @ self.up, dim=-1)

    def _lexical(self, words: Words, rows: NDArray[np.int64], used: NDArray[np.int64]) -> Tensor:
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
        noise = torch.randn(exact.shape, generator=self.random) / math.sqrt(self.schedule.width)
        noisy: Tensor = exact + noise * halved.norm(dim=1)[:, None] * lengths[None, :]
        return noisy


def _distance(new: Tensor, old: Tensor) -> Tensor:
    return ((new - old) ** 2).sum(dim=1).mean()


def _lengths(documents: csr_matrix, balance: FloatArray) -> FloatArray:
    """Length of each document's factors, divided by the balance, (rows,)."""
    squares = np.square(documents.data / balance[documents.indices])
    rows = np.repeat(np.arange(documents.shape[0]), np.diff(documents.indptr))
    return np.sqrt(np.bincount(rows, squares, documents.shape[0])).astype(np.float32)
