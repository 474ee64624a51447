"""Fusion weights: scale of the lexical scores relative to the vectors, chosen on hard known items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.evaluation.calibration import NEED, hard
from ragself.evaluation.metrics import Values, bootstrap, known_item
from ragself.lexical.weights import Weights
from ragself.probes.dataset import Dataset

SCALES = (0.5, 1.5, 2.0, 3.0, 4.0)  # factors of the untrained weights to try


def fusion_weights(dataset: Dataset, rows: NDArray[np.int64], confidence: float) -> Weights | None:
    """Both weights at the scale that ranks hard known items best; None if no scale is significantly better.

    Args:
        dataset: The probes.
        rows: Rows of the probes to use; the gate must not evaluate on them.
        confidence: Confidence level of the interval of the gain.
    """
    rows = hard(dataset, rows)
    if len(rows) < NEED:
        return None
    usual = _found(dataset, rows, Weights())
    values = {scale: _found(dataset, rows, _scaled(scale)) for scale in SCALES}
    best = max(SCALES, key=lambda scale: float(values[scale].mean()))
    return _scaled(best) if bootstrap(values[best] - usual, confidence).low > 0 else None


def _scaled(scale: float) -> Weights:
    plain = Weights()
    return replace(plain, language_model=plain.language_model * scale, bm25=plain.bm25 * scale)


def _found(dataset: Dataset, rows: NDArray[np.int64], weights: Weights) -> Values:
    return known_item(dataset.ranks(rows, dataset.scores(rows, Ranking(None, weights))), 10)["mrr"]
