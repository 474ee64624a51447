"""DREAM: trains a student with the loss of a frozen language model that reads documents before a probe.

In the retrieval heads, attention over the documents in the context is the student's distribution over them. The
next-token loss of the probe reaches the student through this attention; the language model is not trained (DREAM, arXiv
2606.24667: its abstract and notes on it, no code). The choice of heads, number of documents and temperature comes from
measurements here, without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ragself.errors import GeneratorError
from ragself.lm.attention_injection import Injection
from ragself.schema import Probe
from ragself.training.dream.contexts import Contexts
from ragself.training.dream.heads import Heads
from ragself.training.optimizer import batch_rows
from ragself.training.student import Student

Rows = NDArray[np.int64]
SHARES = (0.3, 0.6, 1.0)  # of attention to try for the right document


@dataclass(frozen=True, slots=True)
class DreamData:
    """Training data.

    Attributes:
        probes: P probes.
        candidates: (P, C) rows of the documents.
        fit: (P, C) True where a candidate may be in the context: it does not leak the target.
        right: (P,) rows of the documents that known-item probes were made from; -1 for others.
        weights: (P,) weight of each probe.
        train, held: Positions of the probes to train on, and of held-out probes for early stopping.
    """

    probes: Sequence[Probe]
    candidates: Rows
    fit: NDArray[np.bool_]
    right: Rows
    weights: NDArray[np.float32]
    train: Rows
    held: Rows


@dataclass(frozen=True, slots=True)
class DreamSettings:
    """Settings of DREAM.

    Attributes:
        documents: K, the documents of a context.
        batch: Probes per step.
        unit: Nats per token that count as 1 in the loss, so that the penalty has a comparable weight.
        seed: Seed of order and choice of documents.
    """

    documents: int = 8
    batch: int = 8
    unit: float = 1.0
    seed: int = 0


class DreamLoss:
    """Objective: the loss of a frozen language model, as a function of the student."""

    def __init__(
        self, data: DreamData, contexts: Contexts, heads: Heads, student: Student, settings: DreamSettings, key: str
    ) -> None:
        """Store the arguments.

        Args:
            data: Training data.
            contexts: Texts, with the language model that reads them.
            heads: Heads that take the student's distribution.
            student: Its queries are the probes, its documents those of `contexts`.
            settings: Sizes, unit and seed.
            key: Hash of all inputs that determine the bits of a run.
        """
        self.data, self.contexts, self.heads, self.settings, self.key = data, contexts, heads, settings, key
        self.student, self.rates = student, student.rates

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Weights of the student."""
        return dict(self.student.weights)

    def accumulate_gradient(self, step: int) -> float:
        """Add the gradient of a batch of probes and return their mean loss, nats per token."""
        settings, data = self.settings, self.data
        rows = batch_rows(data.train, settings.batch, settings.seed, step)
        documents = arranged(data, rows, settings.documents, np.random.default_rng([settings.seed, step]))
        share = torch.from_numpy(data.weights[rows] / data.weights[rows].sum())
        total = 0.0
        for part in self.contexts.groups(documents):
            (losses,), penalty = self._losses(rows[part], documents[part])
            loss = (losses.cpu() @ share[part]) / settings.unit + penalty * (len(part) / len(rows))
            loss.backward()
            total += float(losses.detach().cpu() @ share[part])
        return total

    def evaluate(self) -> float | None:
        """Mean loss of the held-out probes, each with the same documents every time; None if there are none."""
        return next(iter(self.tried((1.0,))), None)

    def tried(self, factors: Sequence[float]) -> list[float]:
        """Held-out loss with all logits multiplied by each factor; empty if nothing is held out."""
        data, settings = self.data, self.settings
        if not len(data.held):
            return []
        documents = arranged(data, data.held, settings.documents, np.random.default_rng(settings.seed))
        total = torch.zeros(len(factors))
        with torch.no_grad():
            for part in self.contexts.groups(documents):
                losses, _ = self._losses(data.held[part], documents[part], factors)
                total += losses.cpu() @ torch.from_numpy(data.weights[data.held[part]])
        return [float(each) for each in total / float(data.weights[data.held].sum())]

    def _losses(self, rows: Rows, documents: Rows, factors: Sequence[float] = (1.0,)) -> tuple[Tensor, Tensor]:
        """Loss of each probe for each factor of the logits, (F, n), and the penalty of the student."""
        used, inverse = np.unique(documents, return_inverse=True)
        logits, penalty = self.student.logits(rows, used)
        at = torch.from_numpy(inverse.reshape(documents.shape))
        shares = torch.stack([factor * logits.gather(1, at) for factor in factors]).log_softmax(dim=2)
        return nll(self.contexts, self.heads, [self.data.probes[row] for row in rows], documents, shares), penalty


def nll(contexts: Contexts, heads: Heads, probes: Sequence[Probe], documents: Rows, shares: Tensor) -> Tensor:
    """Negative log-likelihood of each probe's target given a distribution over its documents, (..., B) nats per token.

    Args:
        contexts, heads: As in `DreamLoss`.
        probes: B probes.
        documents: (B, K) rows, read once for all distributions.
        law: (..., B, K) float32 log-probabilities.

    Raises:
        GeneratorError: There is not enough memory for one probe and its documents.
    """
    try:
        context, asked = contexts.read(probes, documents)
        weights = shares.to(contexts.box.device)[..., None, None, :].reshape(-1, len(probes), 1, 1, documents.shape[1])
        losses = [contexts.nll(asked, Injection(context, heads.by_layer, each)) for each in weights]
        return torch.stack(losses).reshape(shares.shape[:-1])
    except torch.OutOfMemoryError as error:
        if len(probes) == 1:
            raise GeneratorError(
                f"{contexts.box.device} has no memory for {documents.shape[1]} documents at once. Set "
                "train.dream.documents or train.tokens lower, or generator.device to cpu."
            ) from error
    half = len(probes) // 2  # after the handler, so that the error holds no memory of the whole
    parts = (slice(None, half), slice(half, None))
    return torch.cat(
        [nll(contexts, heads, probes[part], documents[part], shares[..., part, :]) for part in parts], dim=-1
    )


def gap(
    contexts: Contexts,
    heads: Heads,
    data: DreamData,
    rows: Rows,
    settings: DreamSettings,
    shares: Sequence[float] = SHARES,
) -> NDArray[np.float64]:
    """Possible gain of training: decrease of the loss if the right document is favoured over equal attention.

    A head that gives all its attention to one document may copy too much of it, so several shares are tried.

    Args:
        contexts, heads, data, settings: As in `DreamLoss`.
        rows: Rows of n known-item probes.
        shares: Shares of the documents' attention for the right one; the others divide the rest equally.

    Returns:
        (len(shares), n) nats per token.
    """
    documents = arranged(data, rows, settings.documents, np.random.default_rng(settings.seed))
    count, found = documents.shape[1], []
    with torch.no_grad():
        for part in contexts.groups(documents):
            probes, laid = [data.probes[row] for row in rows[part]], documents[part]
            right = torch.from_numpy(laid == data.right[rows[part]][:, None])
            laws = [torch.where(right, share, (1 - share) / (count - 1)) for share in (1 / count, *shares)]
            losses = nll(contexts, heads, probes, laid, torch.stack(laws).clamp_min(1e-9).log())
            found.append((losses[0] - losses[1:]).cpu().numpy())
    return np.concatenate(found, axis=1).astype(np.float64)


def arranged(data: DreamData, rows: Rows, count: int, random: np.random.Generator) -> Rows:
    """Documents of the contexts, (len(rows), count): the right one if there is one, others drawn, in random order.

    The order must be random: a language model attends more to the last document, whatever it says.
    """
    draw = random.random((len(rows), data.candidates.shape[1]))
    draw[~data.fit[rows]] += 2.0
    draw[data.candidates[rows] == data.right[rows][:, None]] = -1.0
    chosen = np.argsort(draw, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(data.candidates[rows], random.permuted(chosen, axis=1), axis=1)
