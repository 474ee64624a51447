"""Computes likelihood gains from the log-probabilities of a language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IRRELEVANT = 2  # irrelevant documents per probe, as the baseline
CLIP = 3.0  # maximum gain or loss of one token in nats, so that one rare name does not dominate
FLOORS = 3.0  # differences in gain below this many noise floors are ignored


def gain(answers: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """Compute the gain of each document over irrelevant ones.

    Args:
        answers: Log p of each of T target tokens, (T,) float32, given each of K documents and then each of
            `IRRELEVANT` irrelevant ones; None where the model has no likelihood.

    Returns:
        (K,) float32, nats per token; -inf where there is no likelihood.
    """
    without = [answer for answer in answers[-IRRELEVANT:] if answer is not None]
    candidates = answers[:-IRRELEVANT]
    out = np.full(len(candidates), -np.inf, dtype=np.float32)
    have = [at for at, answer in enumerate(candidates) if answer is not None]
    if without and have:
        known = np.stack([answer for answer in candidates if answer is not None])
        out[have] = (known - np.mean(without, axis=0)).clip(-CLIP, CLIP).mean(axis=1)
    return out


def level(gains: NDArray[np.float32], gap: float) -> NDArray[np.float32]:
    """Equalise gains whose difference is below the measurement noise.

    In each sorted row, neighbours less than `gap` apart form a group, and each group takes its mean. No difference
    below `gap` remains, and the order of the groups is kept.

    Args:
        gains: (P, K) float32; infinite values stay as they are.
        gap: Smallest difference that counts, in nats per token.

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
