"""The worker process that trains: `python -m ragself.worker`, started by `ragself.background.process`.

It reads a job as one line of JSON, and writes lines of JSON: progress, warnings, and finally a report or an error. It
ends cleanly between two steps on SIGTERM and when its parent process is gone; what it has done is kept.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ragself.background.process import GRACE
from ragself.config import load, with_generator
from ragself.errors import RagselfError
from ragself.estimate import within
from ragself.knowledge_base import KnowledgeBase
from ragself.monitoring.search_log import SIGNALS, SignalLog
from ragself.review import review_promotion

_EVERY = 0.2  # seconds between two lines of progress


class _Stopped(Exception):  # noqa: N818
    """The pass was asked to end."""


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("ragself"):
            _say({"warning": record.getMessage(), "logger": record.name, "level": record.levelno})


_out = threading.Lock()


def _say(line: Mapping[str, Any]) -> None:
    with _out:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class _Told:
    """Progress as lines of JSON, until the pass is asked to end."""

    def __init__(self) -> None:
        self.stopping = False
        self._said = 0.0
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.stopping:
            raise _Stopped
        now = time.monotonic()
        if stage != self._stage or done >= total or now - self._said > _EVERY:
            self._stage, self._said = stage, now
            _say({"stage": stage, "done": done, "total": total})


def _do(job: Mapping[str, Any], progress: _Told) -> Mapping[str, Any] | None:
    config = load(None, **job["config"])
    with KnowledgeBase(job["kb"], create=False, config=config) as kb:
        queries = [text for text, times in job["queries"] for _ in range(times)]
        try:
            if job["tokens"] is not None:
                kb.config = within(job["tokens"], kb.forecast(queries, progress, generator=job["generator"]), kb.config)
        finally:
            with closing(SignalLog(kb.path / SIGNALS)) as log:
                log.spend(time.process_time(), 0)  # the start and the forecast are part of the cost
        if job["task"] == "review":
            review = review_promotion(kb.engine, with_generator(kb.config, job["generator"]), progress)
            return None if review is None else asdict(review)
        return asdict(kb.adapt(queries, progress, generator=job["generator"], started=job["started"]))


def _stand_back(nice: int) -> None:
    os.nice(nice)
    # Where Linux schedules by session, the niceness of the session counts, and this process has one of its own.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))
    if nice == 19 and sys.platform == "linux":  # any other process that wakes up gets the processor at once
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Run one job."""
    logging.getLogger().addHandler(_Warnings(logging.WARNING))
    job = json.loads(sys.stdin.readline())
    _stand_back(job["nice"])
    progress = _Told()

    def stop(*_: object) -> None:
        progress.stopping = True

    def wait_for_the_end() -> None:
        sys.stdin.read()
        progress.stopping = True
        time.sleep(GRACE)
        os._exit(1)  # it hangs, and no parent process is left to end it

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is for the parent process
    threading.Thread(target=wait_for_the_end, daemon=True).start()
    try:
        _say({"result": _do(job, progress)})
    except _Stopped:
        _say({"stopped": True})
    except RagselfError as error:
        _say({"error": type(error).__name__, "message": str(error)})
    os._exit(0)  # threads of libraries may delay a normal exit


if __name__ == "__main__":
    main()
