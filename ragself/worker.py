"""The program that learns in a process of its own: `python -m ragself.worker`, started by `ragself.background.process`.

It reads one line of JSON, a job, and writes lines of JSON: progress, warnings, and at last a report or an error. It
ends cleanly, between two steps, on SIGTERM and when the process that started it is gone; what it has done is kept.
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
from ragself.config import load
from ragself.errors import RagselfError
from ragself.estimate import within
from ragself.knowledge_base import KnowledgeBase
from ragself.monitoring.search_log import SIGNALS, SignalLog

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
    """Progress as lines, until it is time to stop."""

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


def _do(job: Mapping[str, Any], told: _Told) -> Mapping[str, Any] | None:
    config = load(None, **job["config"])
    with KnowledgeBase(job["kb"], create=False, config=config) as kb:
        queries = [text for text, times in job["queries"] for _ in range(times)]
        try:
            if job["tokens"] is not None:
                kb.config = within(job["tokens"], kb.forecast(queries, told, generator=job["generator"]), kb.config)
        finally:
            with closing(SignalLog(kb.path / SIGNALS)) as log:
                log.spend(time.process_time(), 0)  # to come so far is part of what it takes
        if job["task"] == "review":
            review = kb.review(told, generator=job["generator"])
            return None if review is None else asdict(review)
        return asdict(kb.adapt(queries, told, generator=job["generator"], started=job["started"]))


def _stand_back(nice: int) -> None:
    os.nice(nice)
    # Linux weighs a session as a whole where it groups processes by them, and this is one of its own.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))
    if nice == 19 and sys.platform == "linux":  # whoever wakes up takes the processor at once
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Do one job."""
    logging.getLogger().addHandler(_Warnings(logging.WARNING))
    job = json.loads(sys.stdin.readline())
    _stand_back(job["nice"])
    told = _Told()

    def stop(*_: object) -> None:
        told.stopping = True

    def wait_for_the_end() -> None:
        sys.stdin.read()
        told.stopping = True
        time.sleep(GRACE)
        os._exit(1)  # it hangs, and nobody is left who would end it

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which is meant for who started this
    threading.Thread(target=wait_for_the_end, daemon=True).start()
    try:
        _say({"result": _do(job, told)})
    except _Stopped:
        _say({"stopped": True})
    except RagselfError as error:
        _say({"error": type(error).__name__, "message": str(error)})
    os._exit(0)  # threads of libraries may take their time


if __name__ == "__main__":
    main()
