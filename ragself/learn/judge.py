"""Judging a student on held-out probes, without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.learn.metrics import Values, known_item, utility
from ragself.learn.study import Study
from ragself.learn.teacher import law
from ragself.models.adapter import Adapter

_BLOCK = 2000  # documents mapped at once: bounds memory, whatever the corpus


@dataclass(frozen=True)
class Judgement:
    """One value a probe, so that two students can be compared in pairs.

    Attributes:
        metrics: ``utility``, over all probes judged; ``ndcg``, ``mrr`` and ``recall``, over known-item probes.
        ranks: (known items,) rank of each known item among all documents, 1 is best.
        top: (P, k) rows of the corpus, each probe's best documents.
    """

    metrics: dict[str, Values]
    ranks: NDArray[np.int64]
    top: NDArray[np.int64]


def judge(study: Study, rows: NDArray[np.int64], adapter: Adapter | None, weight: float, k: int) -> Judgement:
    """Rank the corpus for each probe as a student would.

    Args:
        study: The probes and what the teacher knows of them.
        rows: Which probes, rows of the study.
        adapter: The student; None for the plain base model.
        weight: Teacher's weight, for the utility.
        k: Depth.
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

    candidates, gains = study.candidates[rows], study.gains[rows]
    seen = np.take_along_axis(scores, candidates, axis=1)
    mass = law(gains, study.base[rows], weight)
    values = {"utility": utility(mass, np.where(np.isneginf(gains), -np.inf, seen).astype(np.float32), k)}

    positive = study.positive[rows]
    known = np.flatnonzero(positive >= 0)
    own = scores[known, positive[known]]
    better = scores[known, : study.size] > own[:, None]
    better[np.arange(len(known)), study.source[rows[known]]] = False  # the source, with the probe still in it
    ranks = 1 + better.sum(axis=1)
    values.update(known_item(ranks, k))
    top = np.argsort(-scores[:, : study.size], axis=1, kind="stable")[:, :k]
    return Judgement(values, ranks, top)
