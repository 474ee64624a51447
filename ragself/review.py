"""A second look at a promotion: do queries that came after it say the same as those that it was judged by?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing

import numpy as np

from ragself.config import Config
from ragself.cycle import MIN_DOCUMENTS
from ragself.learn.judge import judge, weights
from ragself.learn.metrics import bootstrap
from ragself.learn.probes import make
from ragself.learn.study import study
from ragself.learn.supervision import affordable, narrowed, supervise
from ragself.progress import Progress, silent
from ragself.schema import Review, Version
from ragself.serve.store import Store

_TIMED = 100  # searches of each version
_CONFIDENCE = 0.99  # of the interval: it is looked at again and again


def review(
    store: Store,
    version: Version,
    before: Version,
    weight: float,
    queries: Mapping[str, int],
    config: Config,
    progress: Progress = silent,
) -> Review | None:
    """Compare two versions by the LM utility of what they retrieve, in the way in which the gate compared them.

    Args:
        store: Where they are.
        version: That was promoted.
        before: That was live before.
        weight: The teacher's, when the gate judged: by another it would prefer other documents.
        queries: Asked since, none of which either was trained on, and how often.
        config: Settings.
        progress: Told of each stage.

    Returns:
        None where there are too few documents or queries to say anything.
    """
    chunks = store.journal.chunks()
    with supervise(config, store.directory) as supervision:
        limit = affordable(config, 0)
        probes = [p for p in make(chunks, queries, config.probes, 0, (), limit).probes if p.kind == "traffic"]
        if len(chunks) < MIN_DOCUMENTS or len(probes) < config.gate.min_probes:
            return None
        now, then = store.adapter(version), store.adapter(before)
        lesson = study(probes, chunks, store.base, then, supervision.scorer, narrowed(config), 0, progress)
    rows = np.arange(len(probes))
    after = judge(lesson, rows, now, weight, config.gate)["utility"]
    change = after - judge(lesson, rows, then, weight, config.gate)["utility"]
    if len(change) < config.gate.min_probes:
        return None
    interval = bootstrap(change, _CONFIDENCE, weights=weights(lesson, rows, config.gate))
    return Review(
        version=version.number,
        before=before.number,
        queries=len(change),
        fell=float((change < 0).mean()),
        rose=float((change > 0).mean()),
        change=interval.mean,
        low=interval.low,
        high=interval.high,
    )


def times_as_slow(store: Store, version: int, before: int) -> float:
    """How many times as long a search takes in one version as in another: medians, measured now and in turns."""
    chunks = store.journal.chunks()[:: max(len(store.journal) // _TIMED, 1)][:_TIMED]
    took: dict[int, list[float]] = {version: [], before: []}
    with closing(store.snapshot(version)) as now, closing(store.snapshot(before)) as then:
        for row, chunk in enumerate([*chunks[:3], *chunks]):
            for snapshot in (now, then) if row % 2 else (then, now):
                began = time.perf_counter()
                snapshot.search(chunk.shown[:100], 10)
                took[snapshot.version.number].append(time.perf_counter() - began)
    return float(np.median(took[version][3:]) / np.median(took[before][3:]))  # the first are to warm up
