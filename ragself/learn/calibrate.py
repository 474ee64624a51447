"""The teacher's weight, from evidence that needs no labels: known items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.learn.metrics import Values, known_item
from ragself.learn.study import Study
from ragself.learn.teacher import fused

WEIGHTS = (1.0, 2.5)  # 5 gained another .8 points of nDCG@10 on SciFact, and lost 1 on CosQA
SAFE = 1.0
HARD = 0.5  # known items that share more of their words are found by any weight
NEED = 60  # known items below which their verdict is noise


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weight, and why.

    Attributes:
        weight: Of the likelihood gain in the teacher's law.
        reason: How it was found, in a sentence.
        evidence: Mean reciprocal rank of hard known items at each weight tried.
        probes: How many of those there were.
    """

    weight: float
    reason: str
    evidence: Mapping[str, float]
    probes: int


def calibrate(study: Study, rows: NDArray[np.int64]) -> Calibration:
    """Choose the weight at which the teacher finds hard known items best.

    Hard ones share at most half of their words, by rarity, with the passage that they should find: easy ones
    are found at any weight, and would call every weight good.

    Args:
        study: The probes.
        rows: Known-item probes to use, held out from training; traffic among them is passed over.
    """
    rows = rows[study.positive[rows] >= 0]
    rows = rows[study.overlap[rows] <= HARD]
    if len(rows) < NEED:
        return Calibration(SAFE, f"safe default: {len(rows)} hard known items, {NEED} are needed", {}, len(rows))
    evidence = {weight: float(reciprocal_ranks(study, rows, weight).mean()) for weight in WEIGHTS}
    best = max(WEIGHTS, key=lambda weight: evidence[weight])
    reason = f"finds {len(rows)} hard known items best"
    return Calibration(best, reason, {f"{weight:g}": value for weight, value in evidence.items()}, len(rows))


def reciprocal_ranks(study: Study, rows: NDArray[np.int64], weight: float) -> Values:
    """Reciprocal rank of each probe's own passage among its candidates by the teacher, (len(rows),) float64."""
    gains = study.gains[rows]
    scores = fused(np.nan_to_num(gains, neginf=0.0), study.base[rows], weight)
    scores[np.isneginf(gains)] = -np.inf
    own = scores[study.candidates[rows] == study.positive[rows][:, None]]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    return known_item(ranks, scores.shape[1])["mrr"]
