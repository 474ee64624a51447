"""The teacher's weight, from evidence that needs no labels: known items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.learn.metrics import Values, bootstrap, known_item
from ragself.learn.study import Study
from ragself.learn.teacher import fused

WEIGHTS = (1.0, 2.5, 4.0)
SAFE = 1.0  # gains on every collection measured, where nothing is known


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weight, and why.

    Attributes:
        weight: Of the likelihood gain in the teacher's law.
        reason: How it was found, in a sentence.
        evidence: Known-item reciprocal rank at each weight tried, 0 being the base alone.
        probes: Known items it rests on.
    """

    weight: float
    reason: str
    evidence: Mapping[str, float]
    probes: int


def calibrate(study: Study, rows: NDArray[np.int64], confidence: float, need: int) -> Calibration:
    """Choose the largest weight at which the teacher still finds known items as well as the base does.

    Args:
        study: The probes.
        rows: Known-item probes to use, held out from training.
        confidence: Of the paired intervals.
        need: With fewer probes than this, the safe default is taken.
    """
    rows = rows[study.positive[rows] >= 0]
    if len(rows) < need:
        return Calibration(SAFE, f"safe default: {len(rows)} known items, {need} are needed", {}, len(rows))
    base = reciprocal_ranks(study, rows, 0.0)
    evidence = {"0": float(base.mean())}
    chosen = SAFE
    for weight in WEIGHTS:
        ranks = reciprocal_ranks(study, rows, weight)
        evidence[f"{weight:g}"] = float(ranks.mean())
        if bootstrap(ranks - base, confidence).high >= 0 and weight > chosen:
            chosen = weight
    return Calibration(
        chosen, f"largest weight that finds {len(rows)} known items as well as the base", evidence, len(rows)
    )


def reciprocal_ranks(study: Study, rows: NDArray[np.int64], weight: float) -> Values:
    """Reciprocal rank of each probe's own passage among its candidates by the teacher, (len(rows),) float64."""
    gains = study.gains[rows]
    scores = fused(np.nan_to_num(gains, neginf=0.0), study.base[rows], weight)
    scores[np.isneginf(gains)] = -np.inf
    own = scores[study.candidates[rows] == study.positive[rows][:, None]]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    return known_item(ranks, scores.shape[1])["mrr"]
