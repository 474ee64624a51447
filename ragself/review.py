"""Second evaluation of a promotion: on queries that came after it, and by timed searches in both versions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ragself.config import Config
from ragself.cycle import MIN_DOCUMENTS
from ragself.engine.engine import Engine
from ragself.engine.version_store import VersionStore
from ragself.errors import InputError, RagselfError
from ragself.evaluation.judge import judge, weights
from ragself.evaluation.metrics import bootstrap
from ragself.index.snapshot import Snapshot
from ragself.monitoring.usage import spending
from ragself.probes.dataset import build_dataset
from ragself.probes.probes import make
from ragself.probes.supervision import affordable, scored, supervise
from ragself.progress import Progress, silent
from ragself.schema import Account, Review, Version

_TIMED = 100  # number of searches in each version
_WARM = 3  # number of warm-up searches before them, whose times are ignored
_CONFIDENCE = 0.99  # confidence of the interval, high because reviews are repeated


def review(
    store: VersionStore,
    version: Version,
    before: Version,
    weight: float,
    queries: Mapping[str, int],
    config: Config,
    progress: Progress = silent,
    account: Account | None = None,
) -> Review | None:
    """Compare two versions by the LM utility of what they retrieve, as the gate compared them.

    Args:
        store: The store of both versions.
        version: The promoted version.
        before: The version that was live before.
        weight: The teacher's weight at the gate: another weight would prefer other documents.
        queries: Queries since the promotion with their counts; neither version was trained on them.
        config: Settings.
        progress: Called with each stage, the number done and the total.
        account: Receives the cost of the language model; None creates one.

    Returns:
        The comparison, or None if there are too few documents or queries.
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


def review_promotion(engine: Engine, config: Config, progress: Progress = silent) -> Review | None:
    """Compare the live version with the one that it replaced, on remembered queries that are new since then.

    Returns:
        The comparison, or None if the live version was not promoted, the version before it is gone, or there are too
        few documents or queries.

    Raises:
        GeneratorError: The language model cannot be loaded or reached.
    """
    registry = engine.store.registry
    event = registry.promotion()
    if event is None:
        return None
    queries = engine.traffic.asked(datetime.fromisoformat(event["at"]).timestamp())
    try:
        version, before = (registry.version(event[key]) for key in ("version", "before"))
    except InputError:  # a version was removed, or is from an earlier ragself
        return None
    weight, account = float(event["report"]["weight"]["weight"]), Account()
    with spending(engine.path, account):
        return review(engine.store, version, before, weight, queries, config, progress, account)


@dataclass(frozen=True, slots=True)
class Turns:
    """Failures and speed of two versions in the same searches, run alternately.

    Attributes:
        failed: Share of the searches that failed in the first version; 1 if it could not be opened.
        failed_before: The same for the second version.
        times: Median search time of the first version divided by that of the second; nan if one never answered.
    """

    failed: float
    failed_before: float
    times: float


def in_turns(store: VersionStore, version: int, before: int) -> Turns:
    """Run the same searches alternately in two versions."""
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
    searches = len(chunks) + min(len(chunks), _WARM)
    failed, failed_before = (1.0 - len(seconds) / max(searches, 1) for seconds in took.values())
    p50, p50_before = (float(np.median(seconds[_WARM:] or [np.nan])) for seconds in took.values())
    return Turns(failed, failed_before, p50 / p50_before)


def _opened(store: VersionStore, number: int, until: ExitStack) -> Snapshot | None:
    try:
        snapshot = store.snapshot(number)
    except RagselfError:
        return None
    until.callback(snapshot.close)
    return snapshot
