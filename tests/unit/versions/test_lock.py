import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragself.errors import StoreError, StoreLocked
from ragself.versions.lock import ProcessLock

HOLD = """
import sys
from pathlib import Path
from ragself.versions.lock import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path)
    with another_process(tmp_path) as process:
        with pytest.raises(StoreLocked, match=rf"process {process.pid} \(-c, since 20") as caught:
            lock.acquire()
        assert str(tmp_path) in str(caught.value)
        assert not lock.held
        assert f"process {process.pid} " in str(lock.holder())
    assert lock.holder() is None


def test_a_killed_process_gives_the_lock_back(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path)
    with another_process(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / "writer.json").exists()  # it had no time to tidy up
        assert lock.holder() is None
        lock.acquire()
        assert f"process {os.getpid()} " in str(lock.holder())
        lock.release()


def test_a_process_that_is_done_gives_the_lock_back(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        process.communicate("", timeout=10)
        assert process.returncode == 0
        assert not (tmp_path / "writer.json").exists()
        lock = ProcessLock(tmp_path)
        lock.acquire()
        lock.release()


def test_taking_it_twice_is_taking_it_once(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path)
    assert (lock.held, lock.holder()) == (False, None)
    lock.acquire()
    lock.acquire()
    assert lock.held
    lock.release()
    assert (lock.held, lock.holder()) == (False, None)
    lock.release()


def test_releasing_what_another_holds_takes_nothing_from_it(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        ProcessLock(tmp_path).release()
        assert f"process {process.pid} " in str(ProcessLock(tmp_path).holder())


def test_asking_who_writes_takes_nothing(tmp_path: Path) -> None:
    asking, writing = ProcessLock(tmp_path), ProcessLock(tmp_path)
    assert asking.holder() is None
    writing.acquire()
    assert f"process {os.getpid()} " in str(asking.holder())
    writing.release()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}'])
def test_a_holder_that_left_no_name_is_another_process(tmp_path: Path, content: str) -> None:
    with another_process(tmp_path):
        (tmp_path / "writer.json").write_text(content)
        assert ProcessLock(tmp_path).holder() == "another process"


def test_a_name_that_is_no_object_is_another_process(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path)
    lock.acquire()
    try:
        (tmp_path / "writer.json").write_text("[]")
        assert lock.holder() == "another process"
    finally:
        lock.release()


def test_of_a_command_only_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/someone/bin/ragself", "search", "a private matter"])
    lock = ProcessLock(tmp_path)
    lock.acquire()
    name = json.loads((tmp_path / "writer.json").read_text())
    lock.release()
    assert name["command"] == "ragself search"


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        ProcessLock(tmp_path / "file").acquire()


def test_a_full_disk_is_a_store_error_and_leaves_the_lock_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    lock = ProcessLock(tmp_path)
    monkeypatch.setattr(Path, "write_text", full)
    try:
        with pytest.raises(StoreError):
            lock.acquire()
        assert not lock.held
    finally:
        lock.release()
