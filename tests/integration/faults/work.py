"""What is asked of servers to which things happen, and what was said meanwhile."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself import Config
from ragself.config import GeneratorConfig
from ragself.lm.cached_scorer import LanguageModelScorer
from ragself.lm.language_model import LanguageModel, Likelihoods, Pair
from ragself.lm.score_cache import ScoreCache
from ragself.lm.vllm.generator import Vllm
from ragself.progress import Progress, silent
from ragself.schema import Account, Probe
from tests.conftest import documents, queries
from tests.integration.conftest import Child
from tests.integration.faults.front import Front
from tests.integration.vllm_server import VllmServer

KEY = "sesame-7f3c1e"

FLIGHT = (GeneratorConfig().connections + 1) * 64  # prompts that can be under way to one server

CANARIES = 3  # to begin with, to find the model's record, to check the server

REACHED = 0.25  # share of the work after which things go wrong

TEXTS = [text for _, _, text in documents()]


@dataclass(frozen=True)
class Work:
    """Queries and the documents that each is scored against, 16 with the irrelevant ones."""

    asked: list[str]
    candidates: NDArray[np.int64]

    @property
    def probes(self) -> list[Probe]:
        return [Probe(query, query, query, "traffic", None, "train") for query in self.asked]

    @property
    def pairs(self) -> int:
        return 16 * len(self.asked)

    def part(self, first: int, last: int) -> Work:
        return Work(self.asked[first:last], self.candidates[first:last])

    def write(self, path: Path) -> Path:
        """For a child process."""
        path.write_text(json.dumps({"texts": TEXTS, "asked": self.asked, "candidates": self.candidates.tolist()}))
        return path


def _work(count: int) -> Work:
    draw = np.random.default_rng(0)
    asked = list(dict.fromkeys(queries()))[:count]
    return Work(asked, np.stack([draw.permutation(len(TEXTS))[:14] for _ in asked]))


WORK = _work(94)


SHORT = WORK.part(0, 20)


def score(
    generator: LanguageModel,
    cache: ScoreCache,
    work: Work = WORK,
    account: Account | None = None,
    told: Progress = silent,
) -> NDArray[np.float32]:
    scorer = LanguageModelScorer(TEXTS, len(TEXTS), generator, cache, GeneratorConfig(), account)
    return scorer.gains(work.probes, work.candidates, told)


def reach(*servers: VllmServer | Front | str, key: str = KEY, **settings: Any) -> Vllm:
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return Vllm(GeneratorConfig(api_key=key or None, **settings).at(*urls))  # type: ignore[arg-type]


def answers(generator: LanguageModel, pairs: Sequence[Pair]) -> list[Likelihoods | None]:
    found = [item for batch in generator.score(pairs) for item in batch]
    assert sorted(position for position, _ in found) == list(range(len(pairs)))
    return [answer for _, answer in sorted(found, key=lambda item: item[0])]


def some_pairs(count: int, seed: int = 0) -> list[Pair]:
    draw = np.random.default_rng(seed)
    return [(draw.integers(3, 900, 30).tolist(), draw.integers(3, 900, 10).tolist()) for _ in range(count)]


def prompts(server: VllmServer) -> int:
    """How many it has answered or given up since it was started, when it has no more to do."""
    end = time.monotonic() + 20
    while True:
        told = server.metrics()
        if told["vllm:num_requests_running"] + told["vllm:num_requests_waiting"] == 0:
            return int(told["vllm:request_success_total"])
        assert time.monotonic() < end, told
        time.sleep(0.05)


def same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Records(logging.Handler):
    """What was logged, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def said(self, level: int = logging.DEBUG) -> list[str]:
        return [record.getMessage() for record in list(self.records) if record.levelno >= level]


@contextmanager
def listening() -> Iterator[Records]:
    """Hear all that ragself and its HTTP client log."""
    records = Records()
    loggers = [logging.getLogger(name) for name in ("ragself", "httpx", "httpcore")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(records)
        logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(records)
            logger.setLevel(level)


def few(settings: Config) -> Config:
    """Settings for a pass of some 1500 pairs."""
    return settings.model_copy(
        update={
            "generator": GeneratorConfig(pairs=1600, api_key=KEY, patience=3.0),  # type: ignore[arg-type]
            "probes": settings.probes.model_copy(update={"questions": 0}),
        }
    )


def wait_until(true: Callable[[], bool], child: Child | None = None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, child.said() if child else "too late"
        assert child is None or child.process.is_alive(), child.said()
        time.sleep(0.01)


def change(front: Front, to: VllmServer) -> Progress:
    """Amid the work the server goes away, and another one is started at its address."""

    def told(stage: str, done: int, total: int) -> None:
        if stage == "score" and done >= REACHED * total and front.target != to.url:
            front.target = "http://127.0.0.1:1"
            threading.Timer(1, lambda: setattr(front, "target", to.url)).start()

    return told
