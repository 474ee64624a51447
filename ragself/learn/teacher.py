"""The teacher's law: what the likelihoods and the base similarity together say of a probe's candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TAU = 0.05  # temperature of base cosines: one nat is a difference of .05
SPREAD = 0.165  # standard deviation of a probe's cosines, where that is right: all-MiniLM-L6-v2, five collections
_ALIKE = 1.5  # factor within which it is right still
WORDS = 10.0  # a target of so many words counts by its mean gain, longer ones by more


def trust(weight: float, lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """How much the gain of each target counts: weight * sqrt(words / 10), (len(lengths),) float32.

    A gain is a mean over words, and the more words it is a mean of the less of it is chance. With the square root
    one weight is near the best on every collection measured, of short questions as of long ones; without, each
    collection wants another.
    """
    return np.asarray(weight * np.sqrt(lengths / WORDS), dtype=np.float32)


def temperature(base: NDArray[np.float32]) -> float:
    """What difference of cosines is worth a nat, by how far those of candidates are spread.

    Models differ: those of E5 lie between .7 and 1, and at the temperature of others they would count for nothing.

    Args:
        base: (P, K) cosine of base vectors of probes and candidates.
    """
    spread = float(base.std(axis=1).mean()) if base.size else SPREAD
    ratio = spread / SPREAD
    return TAU if 1 / _ALIKE <= ratio <= _ALIKE else TAU * max(ratio, 1e-3)


def law(
    gains: NDArray[np.float32],
    base: NDArray[np.float32],
    trust: NDArray[np.float32] | float,
    tau: float = TAU,
) -> NDArray[np.float32]:
    """softmax(trust * gain + cosine / tau) over each probe's candidates.

    Args:
        gains: (P, K) likelihood gain, nats per token; -inf takes a candidate out.
        base: (P, K) cosine of base vectors.
        trust: (P,) weight of the gain, or one for all; 0 is the base alone.
        tau: Temperature of the cosines.

    Returns:
        (P, K) float32, rows sum to 1, or to 0 where every candidate is out.
    """
    logits = np.where(np.isneginf(gains), -np.inf, fused(np.nan_to_num(gains, neginf=0.0), base, trust, tau))
    logits -= np.nan_to_num(logits.max(axis=1, keepdims=True), neginf=0.0)
    mass = np.exp(logits)
    return np.asarray(mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12), dtype=np.float32)


def fused(
    gains: NDArray[np.float32],
    base: NDArray[np.float32],
    trust: NDArray[np.float32] | float,
    tau: float = TAU,
) -> NDArray[np.float32]:
    """Trust * gain + cosine / tau, (P, K) float32: the teacher as a ranker, what a student learns towards."""
    return np.asarray(np.reshape(trust, (-1, 1)) * gains + base / tau, dtype=np.float32)
