"""The teacher's law: what the likelihoods and the base similarity together say of a probe's candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TAU = 0.05  # temperature of base cosines: one nat is a difference of .05
WORDS = 10.0  # a target of so many words counts by its mean gain, longer ones by more


def trust(weight: float, lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """How much the gain of each target counts: weight * sqrt(words / 10), (len(lengths),) float32.

    A gain is a mean over words, and the more words it is a mean of the less of it is chance. With the square root
    one weight is near the best on every collection measured, of short questions as of long ones; without, each
    collection wants another.
    """
    return np.asarray(weight * np.sqrt(lengths / WORDS), dtype=np.float32)


def law(
    gains: NDArray[np.float32], base: NDArray[np.float32], trust: NDArray[np.float32] | float
) -> NDArray[np.float32]:
    """softmax(trust * gain + cosine / tau) over each probe's candidates.

    Args:
        gains: (P, K) likelihood gain, nats per token; -inf takes a candidate out.
        base: (P, K) cosine of base vectors.
        trust: (P,) weight of the gain, or one for all; 0 is the base alone.

    Returns:
        (P, K) float32, rows sum to 1, or to 0 where every candidate is out.
    """
    logits = np.where(np.isneginf(gains), -np.inf, fused(np.nan_to_num(gains, neginf=0.0), base, trust))
    logits -= np.nan_to_num(logits.max(axis=1, keepdims=True), neginf=0.0)
    mass = np.exp(logits)
    return np.asarray(mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12), dtype=np.float32)


def fused(
    gains: NDArray[np.float32], base: NDArray[np.float32], trust: NDArray[np.float32] | float
) -> NDArray[np.float32]:
    """Trust * gain + cosine / tau, (P, K) float32: the teacher as a ranker, what a student learns towards."""
    return np.asarray(np.reshape(trust, (-1, 1)) * gains + base / TAU, dtype=np.float32)
