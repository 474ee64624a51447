"""The teacher's target distribution over a probe's candidates: likelihood gains on top of the untrained ranking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TAU = 0.05  # temperature: one nat equals a difference of .05 in the scores of all-MiniLM-L6-v2
WORDS = 10.0  # length in words of a target at which the mean gain has weight 1; longer targets weigh more


def gain_weights(weight: float, lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(lengths),) float32 weight of the gain of each target: weight * sqrt(words / 10).

    A gain is a mean over words: more words mean less noise. With the square root, one `weight` is near the best on
    every collection measured, with short queries or long ones. Without it, each collection needs another weight.
    """
    return np.asarray(weight * np.sqrt(lengths / WORDS), dtype=np.float32)


def target_distribution(
    gains: NDArray[np.float32],
    untrained: NDArray[np.float32],
    weights: NDArray[np.float32] | float,
    tau: float = TAU,
) -> NDArray[np.float32]:
    """softmax(weight * gain + untrained / tau) over each probe's candidates.

    Args:
        gains: (P, K) likelihood gain, nats per token; -inf excludes a candidate.
        untrained: (P, K) scores of the untrained ranking.
        weights: (P,) weight of the gain, or one for all; 0 gives the untrained ranking alone.
        tau: Temperature of the scores.

    Returns:
        (P, K) float32; rows sum to 1, or to 0 where every candidate is excluded.
    """
    logits = np.where(
        np.isneginf(gains), -np.inf, teacher_logits(np.nan_to_num(gains, neginf=0.0), untrained, weights, tau)
    )
    logits -= np.nan_to_num(logits.max(axis=1, keepdims=True), neginf=0.0)
    mass = np.exp(logits)
    return np.asarray(mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12), dtype=np.float32)


def teacher_logits(
    gains: NDArray[np.float32],
    untrained: NDArray[np.float32],
    weights: NDArray[np.float32] | float,
    tau: float = TAU,
) -> NDArray[np.float32]:
    """(P, K) float32 logits of the teacher, weight * gain + untrained / tau, which the student is trained to match."""
    return np.asarray(np.reshape(weights, (-1, 1)) * gains + untrained / tau, dtype=np.float32)
