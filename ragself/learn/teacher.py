"""The teacher's law: what the likelihoods and the base similarity together say of a probe's candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TAU = 0.05  # temperature of base cosines: one nat is a difference of .05


def law(gains: NDArray[np.float32], base: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """softmax(weight * gain + cosine / tau) over each probe's candidates.

    Args:
        gains: (P, K) likelihood gain, nats per token; -inf takes a candidate out.
        base: (P, K) cosine of base vectors.
        weight: Of the gain; 0 is the base alone.

    Returns:
        (P, K) float32, rows sum to 1, or to 0 where every candidate is out.
    """
    logits = np.where(np.isneginf(gains), -np.inf, fused(np.nan_to_num(gains, neginf=0.0), base, weight))
    logits -= np.nan_to_num(logits.max(axis=1, keepdims=True), neginf=0.0)
    mass = np.exp(logits)
    return np.asarray(mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12), dtype=np.float32)


def fused(gains: NDArray[np.float32], base: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Weight * gain + cosine / tau, (P, K) float32: the teacher as a ranker, what a student learns towards."""
    return np.asarray(weight * gains + base / TAU, dtype=np.float32)
