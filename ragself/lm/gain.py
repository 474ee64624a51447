"""From answers of a language model to gains: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IRRELEVANT = 2  # documents that stand for no telling document, for each probe
CLIP = 3.0  # nats that one token may gain or lose: one rare name does not decide
FLOORS = 3.0  # differences in gain below so many noise floors do not count


def gain(answers: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """Gain of each document over irrelevant ones.

    Args:
        answers: Log p of each of T target tokens, (T,) float32, given each of K documents and then each of
            `IRRELEVANT` irrelevant ones; None where the model had no answer.

    Returns:
        (K,) float32, nats per token; -inf without an answer.
    """
    without = [answer for answer in answers[-IRRELEVANT:] if answer is not None]
    candidates = answers[:-IRRELEVANT]
    out = np.full(len(candidates), -np.inf, dtype=np.float32)
    have = [at for at, answer in enumerate(candidates) if answer is not None]
    if without and have:
        told = np.stack([answer for answer in candidates if answer is not None])
        out[have] = (told - np.mean(without, axis=0)).clip(-CLIP, CLIP).mean(axis=1)
    return out


def level(gains: NDArray[np.float32], gap: float) -> NDArray[np.float32]:
    """Make gains equal that differ by less than what can be measured.

    In each row, sorted, neighbours less than `gap` apart belong together, and all that belong together take their
    mean: no difference below `gap` is left, and the order of the others is kept.

    Args:
        gains: (P, K) float32; infinite ones stay as they are.
        gap: Nats per token.

    >>> level(np.array([[0.30, 0.05, 0.31, 0.04]], dtype=np.float32), 0.02).round(3)
    array([[0.305, 0.045, 0.305, 0.045]], dtype=float32)
    """
    if gap <= 0:
        return gains
    out = gains.copy()
    for row in range(len(gains)):
        finite = np.flatnonzero(np.isfinite(gains[row]))
        order = finite[np.argsort(gains[row, finite], kind="stable")]
        values = gains[row, order].astype(np.float64)
        group = np.concatenate([[0], np.cumsum(np.diff(values) >= gap)]).astype(np.int64)[: len(values)]
        out[row, order] = (np.bincount(group, values) / np.maximum(np.bincount(group), 1))[group]
    return out
