"""A second look at a promotion: do queries that came after it say the same as those that it was judged by?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np

from ragself.config import Config
from ragself.cycle import MIN_DOCUMENTS
from ragself.engine.engine import Store
from ragself.errors import RagselfError
from ragself.evaluation.judge import judge, weights
from ragself.evaluation.metrics import bootstrap
from ragself.index.snapshot import Snapshot
from ragself.probes.dataset import build_dataset
from ragself.probes.probes import make
from ragself.probes.supervision import affordable, scored, supervise
from ragself.progress import Progress, silent
from ragself.schema import Account, Review, Version

_TIMED = 100  # searches of each version
_WARM = 3  # of them that are asked twice, first to warm up
_CONFIDENCE = 0.99  # of the interval: it is looked at again and again


def review(
    store: Store,
    version: Version,
    before: Version,
    weight: float,
    queries: Mapping[str, int],
    config: Config,
    progress: Progress = silent,
    account: Account | None = None,
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
        account: Takes what the language model costs; None begins one.

    Returns:
        None where there are too few documents or queries to say anything.
    """
    chunks = store.journal.chunks()
    with supervise(config, store.directory, account) as supervision:
        limit = affordable(config, 0)
        probes = [p for p in make(chunks, queries, config.probes, 0, (), limit).probes if p.kind == "traffic"]
        if len(chunks) < MIN_DOCUMENTS or len(probes) < config.gate.min_probes:
            return None
        now, then = store.ranking(version), store.ranking(before)
        dataset = build_dataset(
            probes, chunks, store.base, then, supervision.scorer, config.teacher, 0, progress, scored(config)
        )
    rows = np.arange(len(probes))
    earlier, later = judge(dataset, rows, [then, now], weight, config.gate)
    change = later["utility"] - earlier["utility"]
    if len(change) < config.gate.min_probes:
        return None
    interval = bootstrap(change, _CONFIDENCE, weights=weights(dataset, rows, config.gate))
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


@dataclass(frozen=True, slots=True)
class Turns:
    """How two versions answered the same searches, now and in turns.

    Attributes:
        failed: Share of them that raised an error in the one, 1 where it could not be opened.
        failed_before: The same of the other.
        times: How many times as long the median took in the one as in the other, nan where one never answered.
    """

    failed: float
    failed_before: float
    times: float


def in_turns(store: Store, version: int, before: int) -> Turns:
    """Search in two versions, one as often as the other."""
    chunks = store.journal.chunks()[:: max(len(store.journal) // _TIMED, 1)][:_TIMED]
    took: dict[int, list[float]] = {version: [], before: []}
    with ExitStack() as opened:
        snapshots = [_opened(store, number, opened) for number in (version, before)]
        for row, chunk in enumerate([*chunks[:_WARM], *chunks]):
            for snapshot in snapshots[:: 1 if row % 2 else -1]:
                began = time.perf_counter()
                with suppress(RagselfError):
                    if snapshot is not None:
                        snapshot.search(chunk.shown[:100], 10)
                        took[snapshot.version.number].append(time.perf_counter() - began)
    asked = len(chunks) + min(len(chunks), _WARM)
    failed, failed_before = (1.0 - len(seconds) / max(asked, 1) for seconds in took.values())
    p50, p50_before = (float(np.median(seconds[_WARM:] or [np.nan])) for seconds in took.values())
    return Turns(failed, failed_before, p50 / p50_before)


def _opened(store: Store, number: int, until: ExitStack) -> Snapshot | None:
    try:
        snapshot = store.snapshot(number)
    except RagselfError:
        return None
    until.callback(snapshot.close)
    return snapshot
