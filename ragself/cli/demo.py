"""Demo: runs the whole workflow offline on the documentation of Python's standard library."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from ragself.cli.stdlib import documents
from ragself.errors import StoreError
from ragself.evaluation.metrics import Values, bootstrap, known_item
from ragself.knowledge_base import KnowledgeBase
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Mode

_MARK = "demo.txt"
_MEASURED = 0.3  # share of the modules whose summary lines are held out from training
_DEPTH = 100
_EXAMPLES = 3


def run(folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """Index, train, evaluate and switch over; measure on modules that were held out from all of this.

    Args:
        folder: Folder of the knowledge base. One from an earlier demo is rebuilt; its cached vectors are reused.
        progress: Called with each stage, steps done and total.

    Raises:
        StoreError: The folder holds something that the demo did not make.
    """
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    _clear(folder)
    chunks = documents()
    measured = [chunk for chunk in chunks if _held_out(chunk.source)]
    # Training must not see the summary lines of held-out modules: the knowledge base omits them.
    seen = [Chunk(c.id, c.text, {"source": c.source}) if _held_out(c.source) else c for c in chunks]
    seconds["read"] = time.perf_counter() - began
    with KnowledgeBase(folder) as kb:
        (folder / _MARK).write_text("Made by `ragself demo`, which may delete this folder.\n")
        start = time.perf_counter()
        kb.add(seen, progress)
        seconds["index"] = time.perf_counter() - start
        base, found_before = _measure(kb, measured, "vector", progress, "measure the base")
        untrained, found_after = _measure(kb, measured, "hybrid", progress, "measure hybrid search")
        report = kb.adapt(progress=progress, started="ragself demo")
        seconds.update(report.seconds)
        trained = untrained
        if report.decision == "promote":
            trained, found_after = _measure(kb, measured, "hybrid", progress, "measure after training")
    seconds["total"] = time.perf_counter() - began
    return {
        "kb": folder,
        "documents": len(chunks),
        "modules": len({chunk.source for chunk in chunks}),
        "measured": len(measured),
        "decision": report.decision,
        "reason": report.reason,
        "version": report.version,
        "base": _summary(base),
        "untrained": _summary(untrained),
        "trained": _summary(trained),
        "floor": _difference(base, untrained),
        "training": _difference(untrained, trained),
        "examples": _examples(measured, base, trained, found_before, found_after),
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "report": report,
    }


def _clear(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / _MARK).exists() and (folder / "store.json").exists():
        raise StoreError(f"{folder} holds a knowledge base not made by the demo. Give another folder: --kb FOLDER")
    if not (folder / _MARK).exists() and not (folder / "writer.lock").exists():
        raise StoreError(f"{folder} is not empty and was not made by the demo. Give another folder: --kb FOLDER")
    for path in folder.iterdir():
        if path.name.startswith("cache.db"):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _held_out(module: str) -> bool:
    return hashlib.blake2b(module.encode(), digest_size=4).digest()[0] / 256 < _MEASURED


def _measure(
    kb: KnowledgeBase, chunks: list[Chunk], mode: Mode, progress: Progress, stage: str
) -> tuple[dict[str, Values], list[str]]:
    """Known-item metrics at 10 for finding a body by its summary line, through real searches; and the first hits."""
    ranks, firsts = [], []
    for done, chunk in enumerate(chunks):
        hits = kb.search(str(chunk.title), _DEPTH, mode=mode)
        ids = [hit.id for hit in hits]
        ranks.append(ids.index(chunk.id) + 1 if chunk.id in ids else _DEPTH + 1)
        firsts.append(ids[0])
        progress(stage, done + 1, len(chunks))
    values = known_item(np.array(ranks), 10)
    values["rank"] = np.array(ranks, dtype=np.float64)
    return values, firsts


def _summary(values: dict[str, Values]) -> dict[str, Any]:
    return {f"{name}@10": _interval(values[name]) for name in ("ndcg", "mrr", "recall")}


def _difference(before: dict[str, Values], after: dict[str, Values]) -> dict[str, Any]:
    return {f"{name}@10": _interval(after[name] - before[name]) for name in ("ndcg", "mrr", "recall")}


def _interval(values: Values) -> dict[str, float]:
    interval = bootstrap(values, 0.95)
    return {"mean": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def _examples(
    chunks: list[Chunk], before: dict[str, Values], after: dict[str, Values], was: list[str], now: list[str]
) -> list[dict[str, Any]]:
    """Queries whose results changed: the two with the largest gain and the one with the largest loss."""
    gain = 1.0 / after["rank"] - 1.0 / before["rank"]
    order = np.argsort(-gain, kind="stable")
    rows = [*order[: _EXAMPLES - 1], order[-1]]
    return [
        {
            "query": chunks[row].title,
            "expected": chunks[row].id,
            "rank before": int(before["rank"][row]),
            "rank after": int(after["rank"][row]),
            "first before": was[row],
            "first after": now[row],
        }
        for row in rows
        if was[row] != now[row] or before["rank"][row] != after["rank"][row]
    ]
