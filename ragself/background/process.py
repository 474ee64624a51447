"""A pass in a process of its own: at low priority, within limits, ended cleanly when that is asked for."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from ragself import errors
from ragself.config import Config, WatchConfig
from ragself.progress import Progress, silent

logger = logging.getLogger(__name__)

GRACE = 60.0  # seconds that the process may take to come to the end of a step
_LOOK = 0.5  # seconds between two looks at what it uses
_GB = 1e9
_MEMORY = "GB of memory"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a job may take; None sets no bound.

    Attributes:
        tokens: That the language model may read and write.
        seconds: That it may last.
        cpu: Seconds of processor time.
        limit: The setting that `seconds` comes from.
    """

    tokens: int | None = None
    seconds: float | None = None
    cpu: float | None = None
    limit: str = "watch.minutes"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        task: ``adapt``, or ``review`` of the last promotion.
        kb: Folder of the knowledge base.
        config: Its settings.
        queries: What users asked, and how often, beside what is remembered.
        generator: As for `KnowledgeBase.adapt`.
        started: Who or what started it, for the history.
        bounds: What it may take.
    """

    task: Literal["adapt", "review"]
    kb: Path
    config: Config
    queries: Mapping[str, int]
    generator: str | Sequence[str] | None
    started: str
    bounds: Bounds = Bounds()


class Stopped(Exception):  # noqa: N818
    """The pass was asked to end, and has; what it had done is kept."""


def run(
    job: Job,
    stopping: threading.Event,
    progress: Progress = silent,
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, Any] | None:
    """Do a job in a child process, and wait for it.

    Args:
        job: What is to be done.
        stopping: Set by whoever wants it to end.
        progress: Told of each stage.
        meanwhile: Called now and then, twice a second at least; it raises nothing.

    Returns:
        The fields of what the method of the same name of `KnowledgeBase` returns.

    Raises:
        Stopped: It was asked to end.
        LimitError: It took more than it may. What it had done is kept, and the live version was not touched.
        RagselfError: What `KnowledgeBase.adapt` raises.
    """
    with tempfile.TemporaryFile() as said, _child(job, said) as child:
        watcher = _Watcher(child, job, stopping, meanwhile)
        for line in watcher.lines():
            match line:
                case {"stage": str(stage), "done": int(done), "total": int(total)}:
                    progress(stage, done, total)
                case {"warning": str(message), "logger": str(name), "level": int(level)}:
                    logging.getLogger(name).log(level, "%s", message)
                case {"result": dict() | None as result}:
                    return result
                case {"error": str(name), "message": str(message)}:
                    raise getattr(errors, name, errors.RagselfError)(message)
                case {"stopped": True}:
                    break
        if watcher.reason:
            raise errors.LimitError(watcher.reason)
        if stopping.is_set():
            raise Stopped
        said.seek(0)
        raise errors.RagselfError(_why(child, said.read().decode(errors="replace")))


@contextmanager
def _child(job: Job, said: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """The process, which ends with the block, whatever happens."""
    watch = job.config.watch
    config = job.config.model_dump(mode="json", exclude_unset=True)
    key = job.config.generator.api_key
    if key is not None:  # through a pipe, where nobody else reads
        config["generator"]["api_key"] = key.get_secret_value()
    child = subprocess.Popen(
        [sys.executable, "-m", "ragself.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        env={**os.environ, **_threads(watch)},
        start_new_session=True,  # Ctrl-C at a terminal is for who started this
    )
    try:
        with suppress(BrokenPipeError):  # what it said before it died is told
            fields = {
                "task": job.task,
                "kb": str(job.kb),
                "config": config,
                "queries": list(job.queries.items()),
                "generator": job.generator,
                "started": job.started,
                "tokens": job.bounds.tokens,
                "nice": watch.nice,
            }
            print(json.dumps(fields), file=child.stdin, flush=True)
        yield child
    finally:
        _end(child)


def _threads(watch: WatchConfig) -> dict[str, str]:
    count = str(watch.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {**dict.fromkeys(names, count), "TOKENIZERS_PARALLELISM": "false"}


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


class _Watcher:
    """Reads what the child says, and ends it where it is to end.

    Attributes:
        reason: The limit that it went over, in words; empty where it kept to them.
    """

    def __init__(
        self, child: subprocess.Popen[str], job: Job, stopping: threading.Event, meanwhile: Callable[[], object]
    ) -> None:
        self.reason = ""
        self._meanwhile = meanwhile
        self._child, self._job, self._stopping = child, job, stopping
        self._process = psutil.Process(child.pid)
        self._inbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._began = time.monotonic()
        self._asked: float | None = None  # when it was asked to end
        threading.Thread(target=self._read, daemon=True, name="ragself reads").start()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, as it comes, until it says no more."""
        while True:
            try:
                line = self._inbox.get(timeout=_LOOK)
            except queue.Empty:
                self._look()
                self._meanwhile()
                continue
            if line is None:
                self._child.wait()
                return
            self._look()
            self._meanwhile()
            with suppress(ValueError):  # a library printed something
                said = json.loads(line)
                if isinstance(said, dict):
                    yield said

    def _read(self) -> None:
        with suppress(ValueError, OSError):  # closed meanwhile
            for line in self._child.stdout or ():
                self._inbox.put(line)
        self._inbox.put(None)

    def _look(self) -> None:
        reason = self._over()
        self.reason = self.reason or reason
        if _MEMORY in reason:  # which may run out before its step ends; a kill costs that step only
            self._child.kill()
        elif self._asked is not None:
            if time.monotonic() > self._asked + GRACE:  # it hangs
                self._child.kill()
        elif self.reason or self._stopping.is_set():
            self._asked = time.monotonic()
            self._child.terminate()

    def _over(self) -> str:
        watch, bounds = self._job.config.watch, self._job.bounds
        took = time.monotonic() - self._began
        if bounds.seconds is not None and took > bounds.seconds:
            return f"the pass took more than the {bounds.seconds / 60:.2g} minutes that it may; see {bounds.limit}"
        try:
            used, cpu = self._process.memory_info().rss, sum(self._process.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            return ""
        if used > watch.memory * _GB:
            return f"the pass took {used / _GB:.2f} {_MEMORY}, more than the {watch.memory:g} of watch.memory"
        if bounds.cpu is not None and cpu > bounds.cpu:
            return (
                f"the pass took more than the {bounds.cpu / 60:.0f} minutes of processor time that were left for today"
            )
        return ""


def _why(child: subprocess.Popen[str], said: str) -> str:
    code = child.returncode
    ended = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    last = said.strip().splitlines()[-1:] or ["it said nothing"]
    kind = last[0].partition(":")[0]  # of an exception, whose message may quote a text
    return (
        f"The process that learned {ended} ({kind}). What it had done is kept, and the live version was not "
        "touched; the next pass goes on."
    )
