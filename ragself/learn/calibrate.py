"""The teacher's weight, from evidence that needs no labels: known items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.learn.metrics import Values, bootstrap, known_item
from ragself.learn.study import Study
from ragself.learn.teacher import fused, trust

WEIGHT = 2.5  # no loss on six collections measured; 5 gained .8 points of nDCG@10 on SciFact and lost 1 on CosQA
CAREFUL = 1.0
HARD = 0.5  # known items that share more of their words are found by any weight
NEED = 60  # known items below which their verdict is noise


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weight, and why.

    Attributes:
        weight: Of the likelihood gain in the teacher's law.
        reason: How it was found, in a sentence.
        evidence: Mean reciprocal rank of hard known items at each weight; 0 is the base alone.
        probes: How many of those there were.
    """

    weight: float
    reason: str
    evidence: Mapping[str, float]
    probes: int


def calibrate(study: Study, rows: NDArray[np.int64], confidence: float) -> Calibration:
    """Take the usual weight, unless known items say beyond doubt that a more careful one is better.

    Only hard ones are asked, those that share at most half of their words, by rarity, with the passage that
    they should find: easy ones are found at any weight, and would call every weight good.

    Args:
        study: The probes.
        rows: Known-item probes to use, held out from training; traffic among them is passed over.
        confidence: Of the paired interval.
    """
    rows = rows[(study.positive[rows] >= 0) & ~np.isnan(study.gains[rows]).any(axis=1)]
    rows = rows[study.overlap[rows] <= HARD]
    if len(rows) < NEED:
        reason = f"the usual one: {len(rows)} hard known items, {NEED} are needed to say otherwise"
        return Calibration(WEIGHT, reason, {}, len(rows))
    found = {weight: reciprocal_ranks(study, rows, weight) for weight in (0.0, CAREFUL, WEIGHT)}
    evidence = {f"{weight:g}": float(ranks.mean()) for weight, ranks in found.items()}
    if bootstrap(found[CAREFUL] - found[WEIGHT], confidence).low > 0:
        return Calibration(
            CAREFUL, f"{len(rows)} hard known items are found better than at {WEIGHT}", evidence, len(rows)
        )
    return Calibration(WEIGHT, f"the usual one: {len(rows)} hard known items do not object", evidence, len(rows))


def reciprocal_ranks(study: Study, rows: NDArray[np.int64], weight: float) -> Values:
    """Reciprocal rank of each probe's own passage among its candidates by the teacher, (len(rows),) float64."""
    gains = study.gains[rows]
    scores = fused(np.nan_to_num(gains, neginf=0.0), study.base[rows], trust(weight, study.lengths[rows]))
    scores[np.isneginf(gains)] = -np.inf
    own = scores[study.candidates[rows] == study.positive[rows][:, None]]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    return known_item(ranks, scores.shape[1])["mrr"]
