"""Calibration of the teacher's weight on top of the untrained ranking, without labels: rater agreement, known items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ragself.config import Config
from ragself.evaluation.agreement import between, halves
from ragself.evaluation.metrics import Values, bootstrap, known_item
from ragself.lm.ngram import NgramScorer
from ragself.probes.dataset import Dataset
from ragself.probes.targets import gain_weights, teacher_logits

WEIGHT = 3.0  # weight of a causal language model that agrees with n-gram counts
CAREFUL = 1.5  # weight of a causal language model that does not
COUNTED = 1.0  # weight of n-gram counts whose halves agree; the untrained ranking already includes their likelihood
HARD = 0.5  # maximum word overlap of a hard known item; easier ones are found at any weight
NEED = 30  # minimum number of probes for a decision


@dataclass(frozen=True, slots=True)
class Calibration:
    """The teacher's weight and the evidence for it.

    Attributes:
        weight: Weight of the likelihood gain in the teacher's target distribution; 0 if the likelihood does not help.
        reason: Reason for the weight, in a sentence.
        evidence: Mean reciprocal rank of hard known items at each weight; 0 is the untrained ranking alone.
        probes: Number of hard known items.
        agreement: Mean correlation of the raters with its interval, and the number of probes; empty if unknown.
    """

    weight: float
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    probes: int = 0
    agreement: Mapping[str, float] = field(default_factory=dict)


def weigh(dataset: Dataset, config: Config, *, counted: bool) -> Calibration:
    """The weight of the settings, or the result of `calibrate`.

    With n-gram counts the raters are two halves of a query's words; otherwise they are the causal language model and
    n-gram counts. They rate user queries; if these are too few, all training probes; if these are too few, all probes
    of the select split.

    Args:
        dataset: The probes.
        config: Settings.
        counted: Whether n-gram counts are the teacher.
    """
    if config.teacher.weight is not None:
        return Calibration(config.teacher.weight, "set in the configuration")
    rows = np.concatenate([dataset.rows("train", ["traffic"]), dataset.rows("select", ["traffic"])])
    rows = rows if len(rows) >= config.gate.min_probes else dataset.rows("train")
    rows = rows if len(rows) >= config.gate.min_probes else dataset.rows("select")
    if counted:
        agreement = halves(dataset, rows, config.train.seed)
        return calibrate(dataset, dataset.rows("select"), agreement, config.gate.confidence, (COUNTED, 0.0))
    words = NgramScorer(dataset.texts, dataset.size)
    found = words.gains([dataset.probes[row] for row in rows], dataset.candidates[rows])
    agreement = between(dataset.gains[rows], found)
    return calibrate(dataset, dataset.rows("select"), agreement, config.gate.confidence)


def calibrate(
    dataset: Dataset,
    rows: NDArray[np.int64],
    agreement: Values,
    confidence: float,
    weights: tuple[float, float] = (WEIGHT, CAREFUL),
) -> Calibration:
    """Choose the usual weight if independent raters agree, the careful one if not, and less if known items get worse.

    Agreement is the better evidence: known items use words of their document, and so favour heavy weights even where
    these do not help user queries. But a weight that ranks known items worse than a lower one is rejected. Only hard
    known items are used: those that share at most half of their words, weighted by rarity, with the passage that they
    should find. Easy ones are found at any weight.

    Args:
        dataset: The probes.
        rows: Rows of held-out known-item probes; traffic among them is ignored.
        agreement: Correlations, one per probe, as `ragself.evaluation.agreement` computes them.
        confidence: Confidence of the intervals.
        weights: The usual and the careful weight.
    """
    usual, careful = weights
    found = _agreed(agreement, confidence, usual, careful)
    rows = hard(dataset, rows[~np.isnan(dataset.gains[rows]).any(axis=1)])
    found = replace(found, probes=len(rows))
    if len(rows) < NEED:
        return replace(found, reason=f"{found.reason}; {len(rows)} hard known items, {NEED} are needed to test it")
    ranks = {weight: reciprocal_ranks(dataset, rows, weight) for weight in sorted({0.0, careful, usual})}
    evidence = {f"{weight:g}": float(values.mean()) for weight, values in ranks.items()}
    weight, reason = found.weight, f"{found.reason}, and {len(rows)} hard known items are not found worse"
    for less in (careful, 0.0):
        if less < weight and bootstrap(ranks[less] - ranks[weight], confidence).low > 0:
            reason = f"{found.reason}, but {len(rows)} hard known items are found better at {less:g}"
            weight = less
    return replace(found, weight=weight, reason=reason, evidence=evidence)


def hard(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the hard known items among `rows`: those that share few words with the passage that they should find."""
    rows = rows[dataset.positive[rows] >= 0]
    return rows[dataset.overlap[rows] <= HARD]


def _agreed(agreement: Values, confidence: float, usual: float, careful: float) -> Calibration:
    if len(agreement) < NEED:
        reason = f"{len(agreement)} probes measure rater agreement, {NEED} are needed: the careful weight {careful:g}"
        return Calibration(careful, reason)
    interval = bootstrap(agreement, confidence)
    figures = {"mean": interval.mean, "low": interval.low, "high": interval.high, "probes": len(agreement)}
    said = f"{interval.mean:+.2f}, interval {interval.low:+.2f} to {interval.high:+.2f}, {len(agreement)} probes"
    if interval.low > 0:
        return Calibration(usual, f"the raters agree ({said}): the usual weight {usual:g}", agreement=figures)
    return Calibration(careful, f"the raters do not agree ({said}): the careful weight {careful:g}", agreement=figures)


def reciprocal_ranks(dataset: Dataset, rows: NDArray[np.int64], weight: float) -> Values:
    """(len(rows),) float64 reciprocal rank of each probe's positive among its candidates, ranked by the teacher."""
    gains = dataset.gains[rows]
    scores = teacher_logits(
        np.nan_to_num(gains, neginf=0.0),
        dataset.untrained[rows],
        gain_weights(weight, dataset.lengths[rows]),
        dataset.tau,
    )
    scores = np.where(np.isneginf(gains), -np.inf, scores)
    return known_item(dataset.ranks(rows, scores), scores.shape[1])["mrr"]
