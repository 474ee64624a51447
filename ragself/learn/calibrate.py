"""The teacher's weight, from evidence that needs no labels: agreement, and known items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ragself.config import Config
from ragself.learn.agreement import between, halves
from ragself.learn.metrics import Values, bootstrap, known_item
from ragself.learn.study import Study
from ragself.learn.teacher import fused, trust
from ragself.models.lexicon import Lexicon
from ragself.models.ngram import NgramScorer

WEIGHT = 3.0  # near the best where a query's words agree on documents, on five collections measured
CAREFUL = 1.5  # near the best where they do not, and no loss elsewhere
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


def weigh(study: Study, lexicon: Lexicon, config: Config, *, counted: bool) -> Calibration:
    """The weight that the settings name, or what `calibrate` finds.

    The witnesses are two halves of the words, or a causal language model and counted words. Asked are the user's
    queries, or what is trained on where there are too few of them.

    Args:
        study: The probes.
        lexicon: Of the corpus.
        config: Settings.
        counted: Whether counted words are the teacher.
    """
    if config.teacher.weight is not None:
        return Calibration(config.teacher.weight, "set in the configuration")
    rows = np.concatenate([study.rows("train", ["traffic"]), study.rows("select", ["traffic"])])
    rows = rows if len(rows) >= config.gate.min_probes else study.rows("train")
    if counted:
        agreement = halves(study, rows, lexicon, config.train.seed)
    else:
        words = NgramScorer(study.texts, study.size)
        found = words.gains([study.probes[row] for row in rows], study.candidates[rows])
        agreement = between(study.gains[rows], found)
    return calibrate(study, study.rows("select"), agreement, config.gate.confidence)


def calibrate(study: Study, rows: NDArray[np.int64], agreement: Values, confidence: float) -> Calibration:
    """Take the usual weight where independent witnesses agree, a careful one where they do not, less where it harms.

    Agreement is the better evidence: known items, whose words are the document's, call heavy weights good also where
    those of users are not found by them. But what they object to is refused. Only hard ones are asked, those that
    share at most half of their words, by rarity, with the passage that they should find: easy ones are found at any
    weight.

    Args:
        study: The probes.
        rows: Known-item probes to use, held out from training; traffic among them is passed over.
        agreement: One correlation a probe, such as `learn.agreement` finds.
        confidence: Of the intervals.
    """
    found = _agreed(agreement, confidence)
    rows = rows[(study.positive[rows] >= 0) & ~np.isnan(study.gains[rows]).any(axis=1)]
    rows = rows[study.overlap[rows] <= HARD]
    found = replace(found, probes=len(rows))
    if len(rows) < NEED:
        return replace(found, reason=f"{found.reason}; {len(rows)} hard known items, {NEED} are needed to object")
    ranks = {weight: reciprocal_ranks(study, rows, weight) for weight in (0.0, CAREFUL, WEIGHT)}
    evidence = {f"{weight:g}": float(values.mean()) for weight, values in ranks.items()}
    weight, reason = found.weight, f"{found.reason}, and {len(rows)} hard known items do not object"
    for less in (CAREFUL, 0.0):
        if less < weight and bootstrap(ranks[less] - ranks[weight], confidence).low > 0:
            reason = f"{found.reason}, but {len(rows)} hard known items are found better at {less:g}"
            weight = less
    return replace(found, weight=weight, reason=reason, evidence=evidence)


def _agreed(agreement: Values, confidence: float) -> Calibration:
    if len(agreement) < NEED:
        reason = f"{len(agreement)} probes could show agreement, {NEED} are needed: a careful {CAREFUL:g}"
        return Calibration(CAREFUL, reason)
    interval = bootstrap(agreement, confidence)
    figures = {"mean": interval.mean, "low": interval.low, "high": interval.high, "probes": len(agreement)}
    said = f"{interval.mean:+.2f}, interval {interval.low:+.2f} to {interval.high:+.2f}, {len(agreement)} probes"
    if interval.low > 0:
        return Calibration(WEIGHT, f"the witnesses agree ({said}), which speaks for {WEIGHT:g}", agreement=figures)
    return Calibration(CAREFUL, f"the witnesses do not agree ({said}), which speaks for {CAREFUL:g}", agreement=figures)


def reciprocal_ranks(study: Study, rows: NDArray[np.int64], weight: float) -> Values:
    """Reciprocal rank of each probe's own passage among its candidates by the teacher, (len(rows),) float64."""
    gains = study.gains[rows]
    scores = fused(np.nan_to_num(gains, neginf=0.0), study.base[rows], trust(weight, study.lengths[rows]), study.tau)
    scores[np.isneginf(gains)] = -np.inf
    own = scores[study.candidates[rows] == study.positive[rows][:, None]]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    return known_item(ranks, scores.shape[1])["mrr"]
