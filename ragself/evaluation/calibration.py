"""The teacher's weight on top of the untrained ranking, from evidence without labels: agreement, and known items."""

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
from ragself.probes.targets import taught, trust

WEIGHT = 3.0  # of a causal language model where it agrees with counted words
CAREFUL = 1.5  # where it does not
COUNTED = (
    1.0  # of counted words, whose likelihood the untrained ranking already holds, where they agree among themselves
)
HARD = 0.5  # known items that share more of their words are found by any weight
NEED = 30  # probes below which a verdict is noise


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weight, and why.

    Attributes:
        weight: Of the likelihood gain in the teacher's law; 0 where the likelihood says nothing that helps.
        reason: How it was found, in a sentence.
        evidence: Mean reciprocal rank of hard known items at each weight; 0 is the base alone.
        probes: How many of those there were.
        agreement: Mean correlation of the witnesses with its interval, and the number of probes; empty if unknown.
    """

    weight: float
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    probes: int = 0
    agreement: Mapping[str, float] = field(default_factory=dict)


def weigh(dataset: Dataset, config: Config, *, counted: bool) -> Calibration:
    """The weight that the settings name, or what `calibrate` finds.

    The raters are two halves of the words, or a causal language model and counted words. Rated are the user's
    queries, or what is trained on where there are too few of them.

    Args:
        study: The probes.
        config: Settings.
        counted: Whether counted words are the teacher.
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
    """Take the usual weight where independent raters agree, a careful one where they do not, less where it harms.

    Agreement is the better evidence: known items, whose words are the document's, call heavy weights good also where
    those of users are not found by them. But a weight with which they are found worse is refused. Only hard ones are
    used, those that share at most half of their words, by rarity, with the passage that they should find: easy ones
    are found at any weight.

    Args:
        study: The probes.
        rows: Known-item probes to use, held out from training; traffic among them is passed over.
        agreement: One correlation a probe, such as `learn.agreement` finds.
        confidence: Of the intervals.
        weights: The usual one, and the careful one.
    """
    usual, careful = weights
    found = _agreed(agreement, confidence, usual, careful)
    rows = hard(dataset, rows[~np.isnan(dataset.gains[rows]).any(axis=1)])
    found = replace(found, probes=len(rows))
    if len(rows) < NEED:
        return replace(found, reason=f"{found.reason}; {len(rows)} hard known items, {NEED} are needed to object")
    ranks = {weight: reciprocal_ranks(dataset, rows, weight) for weight in sorted({0.0, careful, usual})}
    evidence = {f"{weight:g}": float(values.mean()) for weight, values in ranks.items()}
    weight, reason = found.weight, f"{found.reason}, and {len(rows)} hard known items do not object"
    for less in (careful, 0.0):
        if less < weight and bootstrap(ranks[less] - ranks[weight], confidence).low > 0:
            reason = f"{found.reason}, but {len(rows)} hard known items are found better at {less:g}"
            weight = less
    return replace(found, weight=weight, reason=reason, evidence=evidence)


def hard(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the probes that are known items and share few words with what they should find."""
    rows = rows[dataset.positive[rows] >= 0]
    return rows[dataset.overlap[rows] <= HARD]


def _agreed(agreement: Values, confidence: float, usual: float, careful: float) -> Calibration:
    if len(agreement) < NEED:
        reason = f"{len(agreement)} probes could show agreement, {NEED} are needed: a careful {careful:g}"
        return Calibration(careful, reason)
    interval = bootstrap(agreement, confidence)
    figures = {"mean": interval.mean, "low": interval.low, "high": interval.high, "probes": len(agreement)}
    said = f"{interval.mean:+.2f}, interval {interval.low:+.2f} to {interval.high:+.2f}, {len(agreement)} probes"
    if interval.low > 0:
        return Calibration(usual, f"the raters agree ({said}), which speaks for {usual:g}", agreement=figures)
    return Calibration(careful, f"the raters do not agree ({said}), which speaks for {careful:g}", agreement=figures)


def reciprocal_ranks(dataset: Dataset, rows: NDArray[np.int64], weight: float) -> Values:
    """Reciprocal rank of each probe's own passage among its candidates by the teacher, (len(rows),) float64."""
    gains = dataset.gains[rows]
    scores = taught(
        np.nan_to_num(gains, neginf=0.0), dataset.floor[rows], trust(weight, dataset.lengths[rows]), dataset.tau
    )
    scores = np.where(np.isneginf(gains), -np.inf, scores)
    return known_item(dataset.ranks(rows, scores), scores.shape[1])["mrr"]
