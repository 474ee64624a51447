"""Clients that are killed, interrupted, or two at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself import Config, KnowledgeBase
from ragself.lm.cached_scorer import NOISE_PAIRS
from ragself.lm.score_cache import ScoreCache
from ragself.schema import Account
from tests.integration.conftest import Child
from tests.integration.faults.conftest import Spawn
from tests.integration.faults.work import CANARIES, FLIGHT, WORK, few, prompts, reach, same, score, wait_until
from tests.integration.vllm_server import VllmServer

pytestmark = pytest.mark.vllm


def scored(child: Child) -> int:
    """Pairs that a child has told it has scored."""
    return max((line[1] for line in child.lines() if line[0] == "score"), default=0)


def test_a_client_that_was_killed_asks_only_for_what_is_missing(
    steady: VllmServer, undisturbed: NDArray[np.float32], spawn: Spawn, tmp_path: Path
) -> None:
    before = prompts(steady)
    path = tmp_path / "scores.db"
    child = spawn("gains", scores=path, work=WORK.write(tmp_path / "work"), url=steady.url, go="")
    wait_until(lambda: scored(child) >= WORK.pairs // 2, child)
    assert child.kill() == -signal.SIGKILL
    with closing(ScoreCache(path)) as cache, closing(reach(steady)) as generator:
        kept, account = len(cache), Account()
        assert scored(child) <= kept < WORK.pairs
        same(score(generator, cache, account=account), undisturbed)
        assert account.asked == WORK.pairs - kept
        assert len(cache) == WORK.pairs
    assert prompts(steady) - before <= WORK.pairs + FLIGHT + NOISE_PAIRS + 2 * CANARIES


def test_two_passes_at_once_share_one_file(
    steady: VllmServer, undisturbed: NDArray[np.float32], spawn: Spawn, tmp_path: Path
) -> None:
    path = tmp_path / "scores.db"
    parts = [(0, 60), (30, 94)]
    children = [
        spawn("gains", scores=path, work=WORK.part(*part).write(tmp_path / f"work-{part[0]}"), url=steady.url, go="go")
        for part in parts
    ]
    for child in children:
        wait_until(lambda child=child: "ready" in child.lines(), child)  # type: ignore[misc]
    for child in children:
        child.go("go")
    results = [child.result() for child in children]
    for (first, last), result in zip(parts, results, strict=True):
        same(np.array(result["gains"], dtype=np.float32), undisturbed[first:last])
    with closing(ScoreCache(path)) as cache:
        assert len(cache) == WORK.pairs
        assert {cache.latest("vllm:llama:gen").id} == {result["model"] for result in results}  # type: ignore[union-attr]
    asked = [result["asked"] for result in results]
    assert max(asked) <= 64 * 16
    assert WORK.pairs <= sum(asked) <= (60 + 64) * 16


@pytest.fixture
def command(filled: Path, asked: list[str], steady: VllmServer, tiny_model: Path) -> Iterator[Callable[..., Command]]:
    """Start `ragself adapt --generator URL`, each time on the same knowledge base."""
    (filled / "ragself.toml").write_text("[generator]\npairs = 1600\n[probes]\nquestions = 0\n")
    (filled.parent / "asked.txt").write_text("\n".join(asked))
    started: list[Command] = []

    def start() -> Command:
        process = subprocess.Popen(
            [sys.executable, "-m", "ragself", "adapt", "--kb", str(filled), "--queries", "asked.txt", "--generator",
             steady.url],
            cwd=filled.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(Command(process, filled / "scores.db"))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@dataclass
class Command:
    process: subprocess.Popen[str]
    scores: Path

    def stored(self) -> int:
        if not self.scores.exists():
            return 0
        with closing(ScoreCache(self.scores)) as cache:
            return len(cache)

    def interrupt(self) -> tuple[int, float, str]:
        """Ctrl-C; exit code, seconds that it took, and what was said."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, time.monotonic() - began, said


def test_control_c_ends_at_once_even_while_the_server_hangs(
    command: Callable[[], Command],
    steady: VllmServer,
    filled: Path,
    asked: list[str],
    settings: Config,
) -> None:
    kept = 0
    for hangs in (False, True):
        before = kept
        running = command()
        wait_until(lambda: running.stored() > before + 200)  # noqa: B023
        try:
            if hangs:
                steady.suspend()
                time.sleep(0.5)  # what it had answered is stored
            at_least = running.stored()
            code, seconds, said = running.interrupt()
        finally:
            steady.resume()
        kept = running.stored()
        assert code == 130, said
        assert seconds < 20, said
        assert "Interrupted. The live version was not touched; run the same command again to resume." in said
        assert "Traceback" not in said
        assert kept >= at_least
    assert json.loads((filled / "live.json").read_text())["version"] == 0
    with KnowledgeBase(filled, create=False, config=few(settings)) as kb:
        report = kb.adapt(asked, generator=steady.url)
    assert 100 < report.likelihood["asked"] == running.stored() - kept
