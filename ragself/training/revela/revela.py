"""Revela: chunks of a batch are predicted with the others in view, each as much as the student finds it near.

The first half of a chunk asks, the others are searched; the next-token loss of the chunk falls where the student looks
at what tells of it (Revela, arXiv 2506.16552, ICLR 2026: formulas and settings; no code of theirs). There is no teacher
and no query: raw documents are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ragself.errors import GeneratorError
from ragself.lm.cross_attention import Crossing, read
from ragself.lm.white_box import WhiteBox
from ragself.training.student import Student

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RevelaData:
    """What there is to learn from.

    Attributes:
        tokens: N chunks, as the language model reads them, cut to what it is to read.
        train: (steps, B) rows of the chunks of each step.
        held: (batches, B) those that tell when to stop.
    """

    tokens: Sequence[Sequence[int]]
    train: Rows
    held: Rows


@dataclass(frozen=True, slots=True)
class RevelaSettings:
    """How.

    Attributes:
        even: The paper's V-norm, which helps with prose.
        unit: Nats per token that count as 1 in the loss, so that what keeps the student close to the base weighs alike.
        rate_model: Learning rate of the language model's own LoRA.
        seed: Of the student's chance.
    """

    even: bool = True
    unit: float = 1.0
    rate_model: float = 1e-4
    seed: int = 0


class RevelaLoss:
    """The loss of a language model that sees other chunks, to be lowered by a student, and by LoRA in the model."""

    def __init__(
        self, data: RevelaData, box: WhiteBox, student: Student, settings: RevelaSettings, key: str,
        learns: dict[str, nn.Parameter] | None = None,
    ) -> None:  # fmt: skip
        """Name the parts.

        Args:
            lesson: What to learn from.
            box: What reads.
            student: Its queries are the first halves of the chunks, its documents the chunks.
            schedule: How.
            key: Hash of all that the bits depend on.
            learns: Weights of the language model that are trained along, by name; None keeps it frozen.
        """
        self.data, self.box, self.student, self.settings, self.key = data, box, student, settings, key
        self._learns = learns or {}
        own = [(tuple(self._learns), settings.rate_model)] if self._learns else []
        self.rates: Sequence[tuple[Sequence[str], float]] = (*student.rates, *own)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Those of the student, and of the language model where it learns."""
        return {**self.student.weights, **self._learns}

    def accumulate_gradient(self, step: int) -> float:
        """Add the gradient of a batch; its mean loss, nats per token."""
        losses, penalty = self._losses(self.data.train[step])
        loss = losses.mean()
        (loss.cpu() / self.settings.unit + penalty).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def evaluate(self) -> float | None:
        """Mean loss of the held-out batches."""
        return next(iter(self.tried((1.0,))), None)

    def tried(self, factors: Sequence[float]) -> list[float]:
        """The same if all logits were multiplied, for each factor; empty where nothing is held out."""
        if not len(self.data.held):
            return []
        with torch.no_grad():
            losses = [self._losses(rows, factors)[0].mean(dim=1) for rows in self.data.held]
        return [float(each) for each in torch.stack(losses).mean(dim=0)]

    def _losses(self, rows: Rows, factors: Sequence[float] = (1.0,)) -> tuple[Tensor, Tensor]:
        """Loss of each chunk by each factor of the logits, (F, B), and what keeps the student close to the base."""
        logits, penalty = self.student.logits(rows, rows)
        weights = torch.stack([looks(factor * logits) for factor in factors])
        chunks = [self.data.tokens[row] for row in rows]
        return nll(self.box, chunks, weights, self.settings.even, bool(self._learns)), penalty


def looks(logits: Tensor) -> Tensor:
    """How much each chunk takes from each other one, (B, B) float32: rows sum to 1, and nothing is its own."""
    return logits.float().masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf).softmax(dim=1)


def nll(box: WhiteBox, chunks: Sequence[Sequence[int]], weights: Tensor, even: bool, learns: bool = False) -> Tensor:
    """-log p of each chunk with the others in view, (..., B) float32, nats per token.

    Args:
        box: What reads.
        chunks: B, of at least two tokens each.
        weights: (..., B, B) float32, how much each takes from each other one.
        even: Whether chunks whose values are long have no louder voice.
        learns: Whether the language model has weights that are trained.

    Raises:
        GeneratorError: There is no memory for a batch.
    """
    batch = _Batch.of(chunks, box)
    losses = [batch.nll(states) for states in batch.read(weights.reshape(-1, *weights.shape[-2:]), even, learns)]
    return torch.stack(losses).reshape(weights.shape[:-1])


@dataclass(frozen=True, slots=True)
class _Batch:
    """Chunks side by side: (B, T) int64 tokens, and (B, T - 1) True where the next token is one of the chunk."""

    box: WhiteBox
    ids: Tensor
    lengths: Sequence[int]
    counted: Tensor

    @classmethod
    def of(cls, chunks: Sequence[Sequence[int]], box: WhiteBox) -> _Batch:
        lengths = [len(chunk) for chunk in chunks]
        ids = torch.tensor([[*chunk, *[0] * (max(lengths) - len(chunk))] for chunk in chunks], device=box.device)
        return cls(box, ids, lengths, _first([length - 1 for length in lengths], ids))

    def read(self, laws: Tensor, even: bool, learns: bool) -> Iterator[Tensor]:
        """States of the tokens by each of (L, B, B) laws; alone they are read once."""
        try:
            alone = read(self.box, self.ids, self.lengths, learns)
            for weights in laws.to(self.box.device):
                yield self.box.states(self.ids, Crossing(alone, weights, even))[:, :-1]
        except torch.OutOfMemoryError as error:
            raise GeneratorError(
                f"{self.box.device} has no memory for {len(self.lengths)} chunks of {max(self.lengths)} tokens. Set "
                "train.revela_chunks or train.tokens lower, or generator.device to cpu."
            ) from error

    def nll(self, states: Tensor, counted: Tensor | None = None) -> Tensor:
        """-log p of each chunk, (B,): of the tokens that count, or of all."""
        return self.box.nll(states, self.ids[:, 1:], self.counted if counted is None else counted)


def gap(box: WhiteBox, chunks: Sequence[Sequence[int]], even: bool) -> NDArray[np.float64]:
    """What there is to learn: how much lower the loss is with the best other chunk than with all alike, (B,).

    Which one is best is found on the first half of the tokens, and told on the second, so that chance gains nothing.
    """
    count, batch = len(chunks), _Batch.of(chunks, box)
    first = batch.counted & _first([max(length // 2, 1) for length in batch.lengths], batch.ids)
    laws = torch.stack(
        [looks(torch.zeros(count, count)), *(torch.eye(count).roll(shift, dims=1) for shift in range(1, count))]
    )
    with torch.no_grad():
        halves = [
            torch.stack([batch.nll(states, part) for part in (first, batch.counted & ~first)])
            for states in batch.read(laws, even, False)
        ]
    losses = torch.stack(halves).cpu().numpy()  # (1 + others, 2, B)
    best = losses[1:, 0].argmin(axis=0)
    return np.asarray(losses[0, 1] - losses[1:, 1][best, np.arange(count)], dtype=np.float64)


def _first(counts: Sequence[int], ids: Tensor) -> Tensor:
    """(B, T - 1) True for so many of the first tokens."""
    return torch.arange(ids.shape[1] - 1, device=ids.device) < torch.tensor(counts, device=ids.device)[:, None]


def halves(texts: Sequence[str]) -> list[str]:
    """The first half of each text, by words: what asks for the rest."""
    out = []
    for text in texts:
        parts = text.split()
        out.append(" ".join(parts[: max(-(-len(parts) // 2), 1)]))
    return out
