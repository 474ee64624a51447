"""Judging a student on held-out probes, without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.config import GateConfig
from ragself.learn.calibrate import CAREFUL
from ragself.learn.metrics import Values, known_item, utility
from ragself.learn.study import Study
from ragself.learn.teacher import law, trust
from ragself.models.adapter import Adapter
from ragself.progress import Progress, silent

_BLOCK = 1000  # documents mapped at once: bounds memory, whatever the corpus
_ALIKE = 1e-6  # scores that differ by no more are the same, computed in another order


def judge(
    study: Study,
    rows: NDArray[np.int64],
    adapters: Sequence[Adapter | None],
    weight: float,
    config: GateConfig,
    progress: Progress = silent,
) -> list[dict[str, Values]]:
    """Rank the corpus for each probe as students would, one value a probe, so that students compare in pairs.

    Args:
        study: The probes and what the teacher knows of them.
        rows: Which probes, rows of the study.
        adapters: The students; None for the plain base model.
        weight: The teacher's, for the utility.
        config: Depth, and how many probes a verdict needs.
        progress: Told of documents.

    Returns:
        Of each student, ``utility`` at `Study.depth`: of the user's own queries, or of all probes where there are too
        few of those; ``careful utility``: the same by a teacher that is weighed at `CAREFUL` at most; ``ndcg``,
        ``mrr`` and ``recall`` at k of known items among all documents.
    """
    passages = np.unique(study.positive[rows][study.positive[rows] >= 0])
    rankings = [_Ranking(study, rows, adapter, passages) for adapter in adapters]
    for start in range(0, len(study.texts), _BLOCK):  # of documents first, whose words are counted once for all
        progress("judge", start, len(study.texts))
        for ranking in rankings:
            ranking.add(start)
    progress("judge", len(study.texts), len(study.texts))
    return [_values(study, rows, ranking, weight, config) for ranking in rankings]


class _Ranking:
    """What is to be known of how a student ranks all documents, block by block: it would fill memory as a whole.

    Attributes:
        seen: (R, K) float32 scores of each probe's candidates.
        ranks: Of the passage of each known item, counted so far, (known,) int64.
    """

    def __init__(
        self, study: Study, rows: NDArray[np.int64], adapter: Adapter | None, passages: NDArray[np.int64]
    ) -> None:
        self._study, self._adapter = study, adapter
        self._known = np.flatnonzero(study.positive[rows] >= 0)
        self._positive, self._source = study.positive[rows[self._known]], study.source[rows[self._known]]
        self._candidates = study.candidates[rows]
        queries, asked = study.queries[rows], [study.probes[row].text for row in rows]
        self._queries = queries if adapter is None else adapter.queries(queries, asked)
        found = self._documents(passages)[np.searchsorted(passages, self._positive)]
        self._own = (self._queries[self._known] * found).sum(axis=1)[:, None]
        self.seen = np.empty(self._candidates.shape, dtype=np.float32)
        self.ranks = np.ones(len(self._known), dtype=np.int64)

    def add(self, start: int) -> None:
        """Look at the documents of the block that begins there."""
        stop, study = min(start + _BLOCK, len(self._study.texts)), self._study
        scores = self._queries @ self._documents(np.arange(start, stop)).T
        probe, place = np.nonzero((self._candidates >= start) & (self._candidates < stop))
        self.seen[probe, place] = scores[probe, self._candidates[probe, place] - start]
        better = scores[self._known, : max(study.size - start, 0)] > self._own + _ALIKE
        for hidden in (self._source, self._positive):  # the source, with the probe still in it, and what is sought
            inside = np.flatnonzero((hidden >= start) & (hidden < start + better.shape[1]))
            better[inside, hidden[inside] - start] = False
        self.ranks += better.sum(axis=1)

    def _documents(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors, texts = self._study.documents[rows], [self._study.texts[row] for row in rows]
        return vectors if self._adapter is None else self._adapter.documents(vectors, texts)


def _values(
    study: Study, rows: NDArray[np.int64], ranking: _Ranking, weight: float, config: GateConfig
) -> dict[str, Values]:
    """What a ranking is worth."""
    asked = _asked(study, rows, config)
    gains = study.gains[rows[asked]]
    seen = np.where(np.isneginf(gains), -np.inf, ranking.seen[asked]).astype(np.float32)
    base, lengths = study.base[rows[asked]], study.lengths[rows[asked]]
    found = {
        name: utility(law(gains, base, trust(each, lengths), study.tau), seen, study.depth(config.k))
        for name, each in (("utility", weight), ("careful utility", min(weight, CAREFUL)))
    }
    return {**found, **known_item(ranking.ranks, config.k)}


def weights(study: Study, rows: NDArray[np.int64], config: GateConfig) -> Values:
    """How much each value of the utility counts that `judge` makes of the same probes."""
    return study.weights[rows[_asked(study, rows, config)]].astype(np.float64)


def _asked(study: Study, rows: NDArray[np.int64], config: GateConfig) -> NDArray[np.int64]:
    """Which of the rows have a utility: the user's own queries, or all where there are too few of those."""
    traffic = study.positive[rows] < 0
    return np.flatnonzero(study.judged[0][rows] & (traffic if traffic.sum() >= config.min_probes else True))
