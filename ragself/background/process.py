"""Runs a pass in a process of its own, at low priority and within limits, and ends it cleanly on request."""

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

GRACE = 60.0  # seconds that the process may take to finish a step
_LOOK = 0.5  # seconds between two polls of its resource usage
_GB = 1e9
_MEMORY = "GB of memory"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a job; None sets no limit.

    Attributes:
        tokens: Maximum number of tokens that the language model may read and write.
        seconds: Maximum duration in seconds.
        cpu: Maximum processor time in seconds.
        limit: Name of the setting that `seconds` comes from.
    """

    tokens: int | None = None
    seconds: float | None = None
    cpu: float | None = None
    limit: str = "watch.minutes"


@dataclass(frozen=True, slots=True)
class Job:
    """A pass or a review to run.

    Attributes:
        task: ``adapt``, or ``review`` of the last promotion.
        kb: Folder of the knowledge base.
        config: Settings of the knowledge base.
        queries: Texts that users searched for, and how often, in addition to the stored ones.
        generator: As for `KnowledgeBase.adapt`.
        started: What started the job, for the history.
        bounds: Limits of the job.
    """

    task: Literal["adapt", "review"]
    kb: Path
    config: Config
    queries: Mapping[str, int]
    generator: str | Sequence[str] | None
    started: str
    bounds: Bounds = Bounds()


class Stopped(Exception):  # noqa: N818
    """The pass has ended on request; what it had done is kept."""


def run(
    job: Job,
    stopping: threading.Event,
    progress: Progress = silent,
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, Any] | None:
    """Run a job in a child process, and wait for it.

    Args:
        job: The job.
        stopping: Ends the job when it is set.
        progress: Called with each stage, steps done and total.
        meanwhile: Called at least twice a second; it must not raise.

    Returns:
        Fields of the value that the `KnowledgeBase` method named by the task returns, or None if it returns None.

    Raises:
        Stopped: `stopping` was set.
        LimitError: The job exceeded a limit. What it had done is kept, and the live version is unchanged.
        RagselfError: As `KnowledgeBase.adapt`.
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
    """The child process, which ends with the block in every case."""
    watch = job.config.watch
    config = job.config.model_dump(mode="json", exclude_unset=True)
    key = job.config.generator.api_key
    if key is not None:  # through a pipe, which no other process reads
        config["generator"]["api_key"] = key.get_secret_value()
    child = subprocess.Popen(
        [sys.executable, "-m", "ragself.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        env={**os.environ, **_threads(watch)},
        start_new_session=True,  # Ctrl-C at a terminal is for the parent process
    )
    try:
        with suppress(BrokenPipeError):  # the child has died; `run` reports its output
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
    """Reader of the child's messages, which ends the child on request or at a limit.

    Attributes:
        reason: The limit that was exceeded, in words; empty if none was.
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
        self._asked: float | None = None  # time at which the child was asked to end
        threading.Thread(target=self._read, daemon=True, name="ragself reads").start()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Messages of the child as they arrive, until it ends."""
        while True:
            try:
                line = self._inbox.get(timeout=_LOOK)
            except queue.Empty:
                self._poll()
                self._meanwhile()
                continue
            if line is None:
                self._child.wait()
                return
            self._poll()
            self._meanwhile()
            with suppress(ValueError):  # output of a library
                said = json.loads(line)
                if isinstance(said, dict):
                    yield said

    def _read(self) -> None:
        with suppress(ValueError, OSError):  # the pipe was closed
            for line in self._child.stdout or ():
                self._inbox.put(line)
        self._inbox.put(None)

    def _poll(self) -> None:
        reason = self._over()
        self.reason = self.reason or reason
        if _MEMORY in reason:  # it may run out before the step ends; a kill loses that step only
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
            return f"the pass took more than the limit of {bounds.seconds / 60:.2g} minutes; see {bounds.limit}"
        try:
            used, cpu = self._process.memory_info().rss, sum(self._process.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            return ""
        if used > watch.memory * _GB:
            return f"the pass used {used / _GB:.2f} {_MEMORY}, more than the {watch.memory:g} of watch.memory"
        if bounds.cpu is not None and cpu > bounds.cpu:
            return (
                f"the pass used more than the {bounds.cpu / 60:.0f} minutes of processor time that were left for today"
            )
        return ""


def _why(child: subprocess.Popen[str], said: str) -> str:
    code = child.returncode
    ended = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    last = said.strip().splitlines()[-1:] or ["no output"]
    kind = last[0].partition(":")[0]  # type of an exception: its message may quote a text
    return (
        f"The training process {ended} ({kind}). What it had done is kept, and the live version is unchanged; "
        "the next pass continues from there."
    )
