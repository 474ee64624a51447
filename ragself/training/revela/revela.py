"""Revela: a language model predicts each chunk of a batch with the others in view, weighted by the student.

The first half of a chunk is the query, and the other chunks are searched. The next-token loss of the chunk falls if the
student favours chunks that help to predict it (Revela, arXiv 2506.16552, ICLR 2026: formulas and settings; none of the
authors' code). It needs no teacher and no user queries: raw documents are enough.
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
    """Training data.

    Attributes:
        tokens: Token ids of N chunks for the language model, truncated to the length that it reads.
        train: (steps, B) rows of the chunks of each step.
        held: (batches, B) rows of the held-out chunks for early stopping.
    """

    tokens: Sequence[Sequence[int]]
    train: Rows
    held: Rows


@dataclass(frozen=True, slots=True)
class RevelaSettings:
    """Settings of Revela.

    Attributes:
        even: Whether to use the paper's V-norm, which helps with prose.
        unit: Nats per token that count as 1 in the loss, so that the penalty has a comparable weight.
        rate_model: Learning rate of the language model's own LoRA.
        seed: Seed of the student.
    """

    even: bool = True
    unit: float = 1.0
    rate_model: float = 1e-4
    seed: int = 0


class RevelaLoss:
    """Objective: the loss of a language model that sees other chunks; trains a student and, optionally, its LoRA."""

    def __init__(
        self, data: RevelaData, box: WhiteBox, student: Student, settings: RevelaSettings, key: str,
        learns: dict[str, nn.Parameter] | None = None,
    ) -> None:  # fmt: skip
        """Store the arguments.

        Args:
            data: Training data.
            box: The language model.
            student: Its queries are the first halves of the chunks, its documents the chunks.
            settings: V-norm, unit, rate and seed.
            key: Hash of all inputs that determine the bits of a run.
            learns: Weights of the language model that are trained, too, by name; None keeps it frozen.
        """
        self.data, self.box, self.student, self.settings, self.key = data, box, student, settings, key
        self._learns = learns or {}
        own = [(tuple(self._learns), settings.rate_model)] if self._learns else []
        self.rates: Sequence[tuple[Sequence[str], float]] = (*student.rates, *own)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Weights of the student, and of the language model if it is trained."""
        return {**self.student.weights, **self._learns}

    def accumulate_gradient(self, step: int) -> float:
        """Add the gradient of a batch and return its mean loss, nats per token."""
        losses, penalty = self._losses(self.data.train[step])
        loss = losses.mean()
        (loss.cpu() / self.settings.unit + penalty).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def evaluate(self) -> float | None:
        """Mean loss of the held-out batches; None if there are none."""
        return next(iter(self.tried((1.0,))), None)

    def tried(self, factors: Sequence[float]) -> list[float]:
        """Held-out loss with all logits multiplied by each factor; empty if nothing is held out."""
        if not len(self.data.held):
            return []
        with torch.no_grad():
            losses = [self._losses(rows, factors)[0].mean(dim=1) for rows in self.data.held]
        return [float(each) for each in torch.stack(losses).mean(dim=0)]

    def _losses(self, rows: Rows, factors: Sequence[float] = (1.0,)) -> tuple[Tensor, Tensor]:
        """Loss of each chunk for each factor of the logits, (F, B), and the penalty of the student."""
        logits, penalty = self.student.logits(rows, rows)
        weights = torch.stack([looks(factor * logits) for factor in factors])
        chunks = [self.data.tokens[row] for row in rows]
        return nll(self.box, chunks, weights, self.settings.even, bool(self._learns)), penalty


def looks(logits: Tensor) -> Tensor:
    """Weight of each other chunk for each chunk, (B, B) float32: rows sum to 1, and the diagonal is 0."""
    return logits.float().masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf).softmax(dim=1)


def nll(box: WhiteBox, chunks: Sequence[Sequence[int]], weights: Tensor, even: bool, learns: bool = False) -> Tensor:
    """Negative log-likelihood of each chunk with the others in view, (..., B) float32, nats per token.

    Args:
        box: The language model.
        chunks: Token ids of B chunks, at least two each.
        weights: (..., B, B) float32 weight of each other chunk for each chunk.
        even: Whether to use V-norm: chunks with long value vectors get no more influence.
        learns: Whether the language model has weights that are trained.

    Raises:
        GeneratorError: There is not enough memory for a batch.
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
        """States of the tokens for each of (L, B, B) weightings; the chunks are read alone only once."""
        try:
            alone = read(self.box, self.ids, self.lengths, learns)
            for weights in laws.to(self.box.device):
                yield self.box.states(self.ids, Crossing(alone, weights, even))[:, :-1]
        except torch.OutOfMemoryError as error:
            raise GeneratorError(
                f"{self.box.device} has no memory for {len(self.lengths)} chunks of {max(self.lengths)} tokens. Set "
                "train.revela.chunks or train.tokens lower, or generator.device to cpu."
            ) from error

    def nll(self, states: Tensor, counted: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of each chunk, (B,), over the counted tokens; None counts all."""
        return self.box.nll(states, self.ids[:, 1:], self.counted if counted is None else counted)


def gap(box: WhiteBox, chunks: Sequence[Sequence[int]], even: bool) -> NDArray[np.float64]:
    """Possible gain of training: decrease of the loss with the best other chunk over equal weights, (B,).

    The best one is chosen on the first half of the tokens and measured on the second, so that chance gains nothing.
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
    """Mask of the first `counts` tokens, (B, T - 1)."""
    return torch.arange(ids.shape[1] - 1, device=ids.device) < torch.tensor(counts, device=ids.device)[:, None]


def halves(texts: Sequence[str]) -> list[str]:
    """First half of each text, by words: the query for the rest."""
    out = []
    for text in texts:
        parts = text.split()
        out.append(" ".join(parts[: max(-(-len(parts) // 2), 1)]))
    return out
