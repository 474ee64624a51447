"""Filter of probes by likelihood gain: keeps those that some documents help, and help more than others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HELP = 0.02  # nats per token that the best document must add
RANGE = 0.1  # nats per token between the best and the worst (LLM-Embedder, Zhang et al. 2023)
DOUBTFUL = 0.8  # share of dropped probes above which the language model or the chunks are at fault


def judge_probes(gains: NDArray[np.float32]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Find the probes whose gains are usable for training and evaluation.

    Args:
        gains: (P, K) likelihood gain, nats per token; -inf where there is none, nan where none was scored.

    Returns:
        (P,) True where the gains are usable; and the number of scored probes where they are not, by reason.
    """
    finite = np.isfinite(gains)
    scored = ~np.isnan(gains).any(axis=1)
    best = np.where(finite, gains, -np.inf).max(axis=1, initial=-np.inf)
    worst = np.where(finite, gains, np.inf).min(axis=1, initial=np.inf)
    unknown = scored & ~finite.any(axis=1)
    unhelped = scored & ~unknown & (best < HELP)
    alike = scored & ~unknown & ~unhelped & (best - worst < RANGE)
    reasons = {
        "probe without a likelihood": unknown,
        f"probe that no document helps (gain below {HELP:g})": unhelped,
        f"probe that all documents help alike (range below {RANGE:g})": alike,
    }
    return scored & ~(unknown | unhelped | alike), {
        reason: int(mask.sum()) for reason, mask in reasons.items() if mask.any()
    }
