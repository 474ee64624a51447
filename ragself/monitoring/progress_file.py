"""Progress of a running pass in a file, for other processes to read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ragself.errors import StoreError
from ragself.progress import Progress
from ragself.versions.json_files import read_json, write_json
from ragself.versions.lock import ProcessLock

_FILE = "progress.json"
_EVERY = 0.5  # seconds


@contextmanager
def shown_progress(directory: Path, started: str, progress: Progress, note: Callable[[], None]) -> Iterator[Progress]:
    """Report progress and write it to the file, a few times a second.

    Args:
        directory: Folder of the knowledge base.
        started: Person or program that started the pass.
        progress: Called with each stage, steps done and total.
        note: Called after each write.

    Yields:
        Function to call with each stage, steps done and total.
    """
    path = directory / _FILE
    about = {"pid": os.getpid(), "started": started, "since": time.time()}
    written, stage_began, current = 0.0, time.time(), ""

    def report(stage: str, done: int, total: int) -> None:
        nonlocal written, stage_began, current
        if stage != current:
            stage_began, current, written = time.time(), stage, 0.0
        if time.monotonic() - written > _EVERY:
            written = time.monotonic()
            with suppress(StoreError):  # a full disk is reported elsewhere
                value = {**about, "stage": stage, "done": done, "total": total, "stage since": stage_began}
                write_json(path, value, durable=False)
            note()
        progress(stage, done, total)

    try:
        yield report
    finally:
        path.unlink(missing_ok=True)


def seen(directory: Path) -> Mapping[str, Any] | None:
    """Progress of the running pass; None if no pass is running.

    Keys: `pid`, `started` (the person or program that started it), `since` (seconds since 1970) and, after the first
    report, `stage`, `done`, `total` and `stage since`.
    """
    holder = ProcessLock(directory, "pass").holder()
    if holder is None:
        return None
    with suppress(StoreError):
        found = read_json(directory / _FILE)
        if isinstance(found, dict):
            return found
    return {"pid": None, "started": holder, "since": time.time()}
