"""Judging a ranking on held-out probes, without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.config import GateConfig
from ragself.evaluation.calibration import CAREFUL
from ragself.evaluation.metrics import Values, known_item, utility
from ragself.probes.dataset import Dataset
from ragself.probes.targets import law, trust
from ragself.progress import Progress, silent


def judge(
    dataset: Dataset,
    rows: NDArray[np.int64],
    rankings: Sequence[Ranking],
    weight: float,
    config: GateConfig,
    progress: Progress = silent,
) -> list[dict[str, Values]]:
    """Rank the candidates of each probe, one value a probe, so that rankings compare in pairs.

    Args:
        study: The probes and what the teacher knows of them.
        rows: Which probes, rows of the study.
        rankings: What is compared.
        weight: The teacher's, for the utility.
        config: Depth, and how many probes a verdict needs.
        progress: Receives the number of rankings done.

    Returns:
        Of each ranking, ``utility`` at `Dataset.depth`: of the user's own queries, or of all probes where there are too
        few of those; ``careful utility``: the same by a teacher that is weighed at `CAREFUL` at most; ``ndcg``,
        ``mrr`` and ``recall`` at k of known items.
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
    """Figures of one ranking, from its scores (len(rows), K)."""
    asked = _asked(dataset, rows, config)
    gains, floor, lengths = dataset.gains[rows[asked]], dataset.floor[rows[asked]], dataset.lengths[rows[asked]]
    seen = np.where(np.isneginf(gains), -np.inf, scores[asked]).astype(np.float32)
    found = {
        name: utility(law(gains, floor, trust(each, lengths), dataset.tau), seen, dataset.depth(config.k))
        for name, each in (("utility", weight), ("careful utility", min(weight, CAREFUL)))
    }
    known = np.flatnonzero(dataset.positive[rows] >= 0)
    return {**found, **known_item(dataset.ranks(rows[known], scores[known]), config.k)}


def weights(dataset: Dataset, rows: NDArray[np.int64], config: GateConfig) -> Values:
    """How much each value of the utility counts that `judge` makes of the same probes."""
    return dataset.weights[rows[_asked(dataset, rows, config)]].astype(np.float64)


def _asked(dataset: Dataset, rows: NDArray[np.int64], config: GateConfig) -> NDArray[np.int64]:
    """Which of the rows have a utility: the user's own queries, or all where there are too few of those."""
    traffic = dataset.positive[rows] < 0
    return np.flatnonzero(dataset.judged[0][rows] & (traffic if traffic.sum() >= config.min_probes else True))
