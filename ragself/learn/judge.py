"""Judging a student on held-out probes, without labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragself.config import GateConfig
from ragself.learn.calibrate import CAREFUL
from ragself.learn.metrics import Values, known_item, utility
from ragself.learn.study import Study
from ragself.learn.teacher import law, trust
from ragself.models.adapter import Adapter

_BLOCK = 2000  # documents mapped at once: bounds memory, whatever the corpus


def judge(
    study: Study, rows: NDArray[np.int64], adapter: Adapter | None, weight: float, config: GateConfig
) -> dict[str, Values]:
    """Rank the corpus for each probe as a student would, one value a probe, so that students compare in pairs.

    Args:
        study: The probes and what the teacher knows of them.
        rows: Which probes, rows of the study.
        adapter: The student; None for the plain base model.
        weight: The teacher's, for the utility.
        config: Depth, and how many probes a verdict needs.

    Returns:
        ``utility`` at `Study.depth`: of the user's own queries, or of all probes where there are too few of those;
        ``careful utility``: the same by a teacher that is weighed at `CAREFUL` at most.
        ``ndcg``, ``mrr`` and ``recall`` at k of known items among all documents.
    """
    texts = [study.probes[row].text for row in rows]
    queries = study.queries[rows]
    queries = queries if adapter is None else adapter.queries(queries, texts)
    scores = np.empty((len(rows), len(study.texts)), dtype=np.float32)
    for start in range(0, len(study.texts), _BLOCK):
        block = slice(start, start + _BLOCK)
        vectors = study.documents[block]
        vectors = vectors if adapter is None else adapter.documents(vectors, study.texts[block])
        scores[:, block] = queries @ vectors.T

    asked = _asked(study, rows, config)
    candidates, gains = study.candidates[rows[asked]], study.gains[rows[asked]]
    seen = np.take_along_axis(scores[asked], candidates, axis=1)
    seen = np.where(np.isneginf(gains), -np.inf, seen).astype(np.float32)
    base, lengths = study.base[rows[asked]], study.lengths[rows[asked]]
    found = {
        name: utility(law(gains, base, trust(each, lengths), study.tau), seen, study.depth(config.k))
        for name, each in (("utility", weight), ("careful utility", min(weight, CAREFUL)))
    }

    known = np.flatnonzero(study.positive[rows] >= 0)
    own = scores[known, study.positive[rows[known]]]
    better = scores[known, : study.size] > own[:, None]
    better[np.arange(len(known)), study.source[rows[known]]] = False  # the source, with the probe still in it
    return {**found, **known_item(1 + better.sum(axis=1), config.k)}


def weights(study: Study, rows: NDArray[np.int64], config: GateConfig) -> Values:
    """How much each value of the utility counts that `judge` makes of the same probes."""
    return study.weights[rows[_asked(study, rows, config)]].astype(np.float64)


def _asked(study: Study, rows: NDArray[np.int64], config: GateConfig) -> NDArray[np.int64]:
    """Which of the rows have a utility: the user's own queries, or all where there are too few of those."""
    traffic = study.positive[rows] < 0
    return np.flatnonzero(study.judged[0][rows] & (traffic if traffic.sum() >= config.min_probes else True))
