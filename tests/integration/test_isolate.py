"""A pass in a process of its own: its limits, its end, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ragself import Config, KnowledgeBase
from ragself.background import process as isolate
from ragself.background.process import Bounds, Job, Stopped, run
from ragself.engine.status import read_status
from ragself.errors import InputError, LimitError, RagselfError
from ragself.monitoring.usage import usage


def job(kb: Path, config: Config, asked: list[str], **limits: float) -> Job:
    return Job("adapt", kb, config, dict.fromkeys(asked, 1), None, "a test", Bounds(**limits))  # type: ignore[arg-type]


def watching(config: Config, **values: object) -> Config:
    return config.model_copy(update={"watch": config.watch.model_copy(update=values)})


def learners() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ragself.worker" in " ".join(child.cmdline())]


def test_a_pass_is_seen_from_outside_and_is_told_as_if_it_were_here(
    filled: Path, settings: Config, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    told: list[str] = []
    seen: dict[str, object] = {}

    def progress(stage: str, done: int, total: int) -> None:
        told.append(stage)
        if stage.startswith("train") and not seen:
            seen.update(read_status(filled).learning or {})
            (child,) = learners()
            seen.update(nice=child.nice(), threads=child.environ()["OMP_NUM_THREADS"], child=child.pid)

    result = run(job(filled, watching(settings, nice=7), asked), threading.Event(), progress)
    assert result is not None
    assert (result["decision"], result["version"]) == ("promote", 1)
    assert {"train weights", "train residual", "re-embed"} <= set(told)
    assert (seen["started"], seen["nice"], seen["threads"]) == ("a test", 7, "1")
    assert seen["pid"] == seen["child"] != os.getpid()
    assert str(seen["stage"])
    status = read_status(filled)
    assert (status.live.number, status.learning, status.last["started"]) == (1, None, "a test")
    assert 0 < status.last["report"]["cpu"] < 60
    assert learners() == []


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_a_pass_has_what_others_leave_of_the_processor(filled: Path, settings: Config, asked: list[str]) -> None:
    seen: list[tuple[int, int, str]] = []

    def progress(stage: str, done: int, total: int) -> None:
        (child,) = learners()
        group = Path(f"/proc/{child.pid}/autogroup")  # where Linux weighs sessions, and the child's is one of its own
        grouped = group.read_text().split()[-1] if group.exists() else "19"
        seen.append((child.nice(), os.sched_getscheduler(child.pid), grouped))
        stopping.set()

    stopping = threading.Event()
    with pytest.raises(Stopped):
        run(job(filled, watching(settings, nice=19), asked), stopping, progress)
    assert seen[0] == (19, os.SCHED_IDLE, "19")


def test_it_ends_when_it_is_asked_to_and_the_next_goes_on(filled: Path, settings: Config, asked: list[str]) -> None:
    stopping = threading.Event()

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "train residual":
            stopping.set()

    with pytest.raises(Stopped):
        run(job(filled, settings, asked), stopping, progress)
    assert learners() == []
    assert (read_status(filled).live.number, read_status(filled).learning) == (0, None)
    assert (filled / "pass" / "weights.safetensors").exists()
    with KnowledgeBase(filled, config=settings) as kb:  # what it took counts, though it came to nothing
        assert 0.5 < usage(kb.path, 3600)[0] < 120


@pytest.mark.parametrize(
    ("limits", "settled", "said"),
    [
        ({}, {"memory": 0.2}, r"GB of memory, more than the 0\.2 of watch\.memory"),
        ({"seconds": 0.1}, {}, r"more than the limit of 0\.0017 minutes; see watch\.minutes"),
        ({"cpu": 0.1}, {}, r"more than the 0 minutes of processor time that were left"),
    ],
)
def test_it_ends_at_its_limits(
    filled: Path,
    settings: Config,
    asked: list[str],
    limits: dict[str, float],
    settled: dict[str, float],
    said: str,
) -> None:
    with pytest.raises(LimitError, match=said):
        run(job(filled, watching(settings, **settled), asked, **limits), threading.Event())
    assert learners() == []
    assert read_status(filled).live.number == 0


@pytest.mark.parametrize(("limits", "raised"), [({}, Stopped), ({"seconds": 2.0}, LimitError)])
def test_one_that_hangs_is_killed(
    filled: Path,
    settings: Config,
    asked: list[str],
    limits: dict[str, float],
    raised: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolate, "GRACE", 1.0)
    stopping = threading.Event()
    hung: list[psutil.Process] = []

    def meanwhile() -> None:
        if not hung and (found := learners()):
            found[0].suspend()  # it takes no SIGTERM any more
            hung.extend(found)
            if not limits:
                stopping.set()

    began = time.monotonic()
    with pytest.raises(raised):
        run(job(filled, settings, asked, **limits), stopping, meanwhile=meanwhile)
    assert time.monotonic() - began < 30
    assert [process for process in hung if process.is_running()] == learners() == []
    assert (len(hung), read_status(filled).learning) == (1, None)


def test_one_that_would_read_more_tokens_than_are_left_does_not_begin(
    filled: Path, settings: Config, asked: list[str], random_llama: Path
) -> None:
    few = Job("adapt", filled, settings, dict.fromkeys(asked, 1), str(random_llama), "a test", Bounds(tokens=1000))
    with pytest.raises(LimitError, match=r"A pass would cost about [\d,]+ tokens, and 1,000 are left for today"):
        run(few, threading.Event())
    with KnowledgeBase(filled, config=settings) as kb:
        assert usage(kb.path, 3600)[0] > 1.0  # to find that out took something, too
        assert [event["event"] for event in kb.history()] == ["create"]


def test_what_goes_wrong_there_is_raised_here(filled: Path, settings: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Among the queries is 3 \(int\)"):
        run(Job("adapt", filled, settings, {3: 1}, None, ""), threading.Event())  # type: ignore[dict-item]
    with pytest.raises(RagselfError, match="holds no knowledge base"):
        run(job(tmp_path / "nowhere", settings, []), threading.Event())


def test_one_that_dies_is_told_with_what_it_said_last(filled: Path, settings: Config, asked: list[str]) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        for child in learners():
            child.kill()

    with pytest.raises(RagselfError, match=r"was killed by signal 9 .*the next pass continues"):
        run(job(filled, settings, asked), threading.Event(), progress)
    assert read_status(filled).live.number == 0


PARENT = """
import sys, threading, time
from pathlib import Path
from ragself.config import load
from ragself.background.process import Bounds, Job, run
from tests.conftest import queries

job = Job("adapt", Path(sys.argv[1]), load(sys.argv[1]), dict.fromkeys(queries(), 1), None, "a test")
run(job, threading.Event(), lambda stage, done, total: print(stage, flush=True))
"""


def test_it_does_not_outlive_who_started_it(filled: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(filled)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert read_status(filled).learning is None


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_key_is_in_nobodys_view(filled: Path, settings: Config, asked: list[str]) -> None:
    secret = "sk-do-not-tell"
    generator = settings.generator.model_validate({"api_key": secret, "url": "http://127.0.0.1:9", "patience": 0.5})
    config = settings.model_copy(update={"generator": generator})
    views: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        views.extend(f"{child.cmdline()} {child.environ()}" for child in learners())

    with pytest.raises(RagselfError) as caught:
        run(job(filled, config, asked), threading.Event(), progress)
    assert secret not in str(caught.value)
    assert not any(secret in view for view in views)
    with KnowledgeBase(filled, config=config) as kb:
        assert secret not in str(kb.history())
    texts = [file for file in filled.rglob("*") if file.is_file()]
    assert not any(secret.encode() in file.read_bytes() for file in texts)
