"""The teacher's law: what the likelihoods say of a probe's candidates, on top of the untrained ranking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TAU = 0.05  # temperature: one nat is a difference of .05 in the scores of all-MiniLM-L6-v2
WORDS = 10.0  # a target of so many words counts by its mean gain, longer ones by more


def trust(weight: float, lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """How much the gain of each target counts: weight * sqrt(words / 10), (len(lengths),) float32.

    A gain is a mean over words, and the more words it is a mean of the less of it is chance. With the square root
    one weight is near the best on every collection measured, of short questions as of long ones; without, each
    collection wants another.
    """
    return np.asarray(weight * np.sqrt(lengths / WORDS), dtype=np.float32)


def law(
    gains: NDArray[np.float32],
    floor: NDArray[np.float32],
    trust: NDArray[np.float32] | float,
    tau: float = TAU,
) -> NDArray[np.float32]:
    """softmax(trust * gain + floor / tau) over each probe's candidates.

    Args:
        gains: (P, K) likelihood gain, nats per token; -inf takes a candidate out.
        floor: (P, K) scores of the untrained ranking.
        trust: (P,) weight of the gain, or one for all; 0 is the untrained ranking alone.
        tau: Temperature of the scores.

    Returns:
        (P, K) float32, rows sum to 1, or to 0 where every candidate is out.
    """
    logits = np.where(np.isneginf(gains), -np.inf, taught(np.nan_to_num(gains, neginf=0.0), floor, trust, tau))
    logits -= np.nan_to_num(logits.max(axis=1, keepdims=True), neginf=0.0)
    mass = np.exp(logits)
    return np.asarray(mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12), dtype=np.float32)


def taught(
    gains: NDArray[np.float32],
    floor: NDArray[np.float32],
    trust: NDArray[np.float32] | float,
    tau: float = TAU,
) -> NDArray[np.float32]:
    """Trust * gain + floor / tau, (P, K) float32: the teacher as a ranker, what a student learns towards."""
    return np.asarray(np.reshape(trust, (-1, 1)) * gains + floor / tau, dtype=np.float32)
