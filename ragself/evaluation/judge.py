"""Evaluation of rankings on held-out probes, without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.config import GateConfig
from ragself.evaluation.calibration import CAREFUL
from ragself.evaluation.metrics import Values, known_item, utility
from ragself.probes.dataset import Dataset
from ragself.probes.targets import gain_weights, target_distribution
from ragself.progress import Progress, silent


def judge(
    dataset: Dataset,
    rows: NDArray[np.int64],
    rankings: Sequence[Ranking],
    weight: float,
    config: GateConfig,
    progress: Progress = silent,
) -> list[dict[str, Values]]:
    """Evaluate rankings of each probe's candidates: one value per probe, for paired comparison.

    Args:
        dataset: The probes and their gains.
        rows: Rows of the probes to use.
        rankings: Rankings to compare.
        weight: The teacher's weight, for the utility.
        config: Depth, and minimum number of probes.
        progress: Called with the number of rankings done.

    Returns:
        For each ranking: ``utility`` at `Dataset.depth`, of user queries, or of all probes if there are too few of
        them; ``careful utility``, the same by a teacher with a weight of at most `CAREFUL`; ``ndcg``, ``mrr`` and
        ``recall`` at k of known items.
    """
    values = []
    for done, ranking in enumerate(rankings):
        progress("judge", done, len(rankings))
        values.append(_values(dataset, rows, dataset.scores(rows, ranking), weight, config))
    progress("judge", len(rankings), len(rankings))
    return values


def _values(
    dataset: Dataset, rows: NDArray[np.int64], scores: NDArray[np.float32], weight: float, config: GateConfig
) -> dict[str, Values]:
    """Values of one ranking by metric, from its scores (len(rows), K)."""
    used = _asked(dataset, rows, config)
    gains, untrained, lengths = dataset.gains[rows[used]], dataset.untrained[rows[used]], dataset.lengths[rows[used]]
    seen = np.where(np.isneginf(gains), -np.inf, scores[used]).astype(np.float32)
    found = {
        name: utility(
            target_distribution(gains, untrained, gain_weights(each, lengths), dataset.tau),
            seen,
            dataset.depth(config.k),
        )
        for name, each in (("utility", weight), ("careful utility", min(weight, CAREFUL)))
    }
    known = np.flatnonzero(dataset.positive[rows] >= 0)
    return {**found, **known_item(dataset.ranks(rows[known], scores[known]), config.k)}


def weights(dataset: Dataset, rows: NDArray[np.int64], config: GateConfig) -> Values:
    """Weights of the values of ``utility`` that `judge` returns for the same probes."""
    return dataset.weights[rows[_asked(dataset, rows, config)]].astype(np.float64)


def _asked(dataset: Dataset, rows: NDArray[np.int64], config: GateConfig) -> NDArray[np.int64]:
    """Positions in `rows` of the probes with a utility: user queries, or all if there are too few of them."""
    traffic = dataset.positive[rows] < 0
    return np.flatnonzero(dataset.judged[0][rows] & (traffic if traffic.sum() >= config.min_probes else True))
