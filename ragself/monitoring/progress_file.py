"""How far a pass is, in a file, so that it can be seen from outside while it runs."""

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
    """Tell progress, and write it down a few times a second, until this ends.

    Args:
        directory: Of the knowledge base.
        started: Who or what started the pass.
        progress: Told of each stage.
        note: Called as often as it is written down.
    """
    path = directory / _FILE
    about = {"pid": os.getpid(), "started": started, "since": time.time()}
    written, stage_began, current = 0.0, time.time(), ""

    def told(stage: str, done: int, total: int) -> None:
        nonlocal written, stage_began, current
        if stage != current:
            stage_began, current, written = time.time(), stage, 0.0
        if time.monotonic() - written > _EVERY:
            written = time.monotonic()
            with suppress(StoreError):  # a full disk is met where it matters
                value = {**about, "stage": stage, "done": done, "total": total, "stage since": stage_began}
                write_json(path, value, durable=False)
            note()
        progress(stage, done, total)

    try:
        yield told
    finally:
        path.unlink(missing_ok=True)


def seen(directory: Path) -> Mapping[str, Any] | None:
    """How far the pass is that is running, or None where none is.

    `pid`, `started` (by whom or what), `since` (seconds since 1970) and, once it has begun, `stage`, `done`, `total`
    and `stage since`.
    """
    holder = ProcessLock(directory, "pass").holder()
    if holder is None:
        return None
    with suppress(StoreError):
        found = read_json(directory / _FILE)
        if isinstance(found, dict):
            return found
    return {"pid": None, "started": holder, "since": time.time()}
