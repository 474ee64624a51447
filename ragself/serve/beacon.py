"""How far a pass is and what it has taken, in files, so that it can be seen from outside whatever becomes of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ragself.errors import StoreError
from ragself.progress import Progress
from ragself.schema import Account
from ragself.serve.files import read_json, write_json
from ragself.serve.lock import ProcessLock
from ragself.serve.signals import SIGNALS, SignalLog

_FILE = "progress.json"
_EVERY = 0.5  # seconds


@contextmanager
def shining(directory: Path, started: str, progress: Progress, account: Account) -> Iterator[Progress]:
    """Tell progress, and write it down a few times a second with what was spent meanwhile, until this ends.

    Args:
        directory: Of the knowledge base.
        started: Who or what started the pass.
        progress: Told of each stage.
        account: What the language model has cost, which the pass keeps.
    """
    path = directory / _FILE
    spending = _Spending(directory, account)
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
            spending.note()
        progress(stage, done, total)

    try:
        yield told
    finally:
        spending.note()
        path.unlink(missing_ok=True)


class _Spending:
    """What this process has taken since it began, told as it goes: a kill must not make a pass look cheap."""

    def __init__(self, directory: Path, account: Account) -> None:
        self._path, self._account = directory / SIGNALS, account
        self._cpu, self._tokens = time.process_time(), account.tokens

    def note(self) -> None:
        cpu, tokens = time.process_time(), self._account.tokens
        with suppress(StoreError), closing(SignalLog(self._path)) as log:  # a full disk is met where it matters
            log.spend(cpu - self._cpu, tokens - self._tokens)
            self._cpu, self._tokens = cpu, tokens


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
