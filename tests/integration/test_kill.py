"""A pass that dies: kill -9 at any moment, Ctrl-C, and what is left of the knowledge base and of the work."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ragself import Chunk, KnowledgeBase
from ragself.config import load
from tests.integration.conftest import Child

Spawn = Callable[..., Child]
KILLS = 10


@pytest.fixture
def asked_file(asked: list[str], tmp_path: Path) -> Path:
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(asked))
    return file


@pytest.fixture
def look(spawn: Spawn, chunks: list[Chunk], asked: list[str]) -> Callable[[Path], int]:
    """Open in a new process, compare search with exact search, and count the documents. Returns the live version."""

    def check(folder: Path) -> int:
        queries = [str(chunk.title) for chunk in chunks[::40]] + asked[::60]
        seen: dict[str, Any] = spawn("look", kb=folder, queries=queries, k=10).result()
        assert seen["texts"] == {chunk.id: chunk.text for chunk in chunks}
        for hits, scores in zip(seen["hits"], seen["exact"], strict=True):
            best = sorted(scores.values(), reverse=True)[:10]
            assert {version for _, _, version in hits} == {seen["live"]}
            assert [score for _, score, _ in hits] == pytest.approx([scores[id] for id, _, _ in hits], abs=1e-4)
            assert [score for _, score, _ in hits] == pytest.approx(best, abs=1e-4)
        return int(seen["live"])

    return check


def started(child: Child) -> None:
    end = time.monotonic() + 60
    while not child.lines():
        assert child.process.is_alive() and time.monotonic() < end, child.said()
        time.sleep(0.005)


def trained(folder: Path) -> dict[str, int]:
    """When each adapter of the pass that needs training was written."""
    files = [folder / "pass" / f"{kind}.safetensors" for kind in ("weights", "residual")]
    return {file.name: file.stat().st_mtime_ns for file in files if file.exists()}


def test_ten_kills_in_one_pass(filled: Path, asked_file: Path, spawn: Spawn, look: Callable[[Path], int]) -> None:
    measured = spawn("adapt", kb=shutil.copytree(filled, filled.with_name("measured")), asked=asked_file)
    started(measured)
    began = time.monotonic()
    assert measured.result()["version"] == 1
    whole = time.monotonic() - began

    draw = random.Random(7)
    safe = filled.with_name("safe")
    stages: list[str] = []
    for number in range(KILLS):
        shutil.rmtree(safe, ignore_errors=True)
        shutil.copytree(filled, safe)
        left = whole * (number + draw.random()) / KILLS
        while True:
            child = spawn("adapt", kb=filled, asked=asked_file)
            started(child)
            time.sleep(left)
            if child.kill() == -9:
                break
            # It was quicker, since much was done already. Back to before, and earlier.
            shutil.rmtree(filled)
            shutil.copytree(safe, filled)
            left *= 0.6
        stages.append(child.lines()[-1][0])
        live = look(filled)
        if live == 1:  # killed after the switch: the rest of the kills needs a pass to interrupt
            shutil.rmtree(filled)
            shutil.copytree(safe, filled)
    assert len(set(stages)) >= 3, stages

    kept = trained(filled)
    last = spawn("adapt", kb=filled, asked=asked_file)
    result = last.result()
    assert (result["decision"], result["version"]) == ("promote", 1)
    assert look(filled) == 1
    assert kept.items() <= trained(filled).items()  # what was trained is not trained again


AT = {  # the file whose writing it is, and whether the kill comes after it
    "one adapter trained": ("weights.safetensors", True),
    "judged": ("judged.json", True),
    "built": ("version.json", False),
    "before the switch": ("live.json", False),
    "before the history": ("history.jsonl", False),
}


@pytest.mark.parametrize("moment", AT)
def test_a_kill_at_each_step_and_the_way_on(
    filled: Path, asked_file: Path, spawn: Spawn, look: Callable[[Path], int], moment: str
) -> None:
    name, after = AT[moment]
    child = spawn("adapt", kb=filled, asked=asked_file, die_at=name, after=after)
    assert child.join() == -9, child.said()
    switched = moment == "before the history"
    assert look(filled) == (1 if switched else 0)
    kept = trained(filled)
    assert len(kept) == (1 if name == "weights.safetensors" else 2)

    again = spawn("adapt", kb=filled, asked=asked_file)
    result = again.result()
    told = {stage for stage, *_ in again.lines()}
    assert not any(stage.startswith("encode") for stage in told)  # each text was encoded before, and only once
    if switched:  # a pass on version 1
        assert look(filled) == result["version"] >= 1
    else:
        assert (result["decision"], result["version"], look(filled)) == ("promote", 1, 1)
        assert kept.items() <= trained(filled).items()
        assert {stage for stage in told if stage.startswith("train")} == {"train weights", "train residual"} - {
            f"train {Path(file).stem}" for file in kept
        }
    with KnowledgeBase(filled, config=load(None, encoder={"model": child_model(filled)})) as kb:
        kb.gc()
        assert next(event["version"] for event in kb.history() if event["event"] == "promote") == 1
        assert kb.rollback().number == 0
        assert not list((filled / "versions").glob("*/*.new"))


def child_model(folder: Path) -> str:
    return str(json.loads((folder / "store.json").read_text())["encoder"])


def test_what_was_acknowledged_is_there_after_a_kill(
    filled: Path, spawn: Spawn, chunks: list[Chunk], asked_file: Path
) -> None:
    writer = spawn("write", kb=filled, documents={"new": chunks[3].text + " " + chunks[200].text})
    started(writer)
    assert writer.kill() == -9
    seen = spawn("look", kb=filled, queries=[chunks[3].text + " " + chunks[200].text], k=1).result()
    assert "new" in seen["texts"]
    assert seen["hits"][0][0][0] == "new"


@dataclass
class Interrupted:
    folder: Path
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def interrupted(filled_template: Path, asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """The command itself, stopped with Ctrl-C when it has begun to learn."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(filled_template, folder / "kb")
    (folder / "asked.txt").write_text("\n".join(asked))
    command = [sys.executable, "-m", "ragself", "adapt", "--kb", str(folder / "kb"), "--queries", "asked.txt"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = next(line for line in process.stderr if re.search("likelihood|train", line))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return Interrupted(folder / "kb", process.returncode, out, first + err)


def test_control_c_and_the_next_run_goes_on(interrupted: Interrupted, asked: list[str], tiny_model: Path) -> None:
    assert interrupted.code == 130
    assert "Traceback" not in interrupted.err
    assert interrupted.out == ""
    assert json.loads((interrupted.folder / "live.json").read_text())["version"] == 0
    with KnowledgeBase(interrupted.folder, config=load(None, encoder={"model": str(tiny_model)})) as kb:
        stages: list[str] = []
        assert kb.adapt(asked, lambda stage, *_: stages.append(stage)).decision == "promote"
        assert not any(stage.startswith("encode") for stage in stages)


def test_control_c_says_how_to_go_on(interrupted: Interrupted) -> None:
    assert "run the same command again" in interrupted.err
