"""Servers that hang or are slow."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.errors import GeneratorError
from ragself.lm.score_cache import ScoreCache
from ragself.lm.vllm import client as endpoint
from ragself.lm.vllm import pool as fleet
from ragself.schema import Account
from tests.integration.faults.front import Front
from tests.integration.faults.work import SHORT, WORK, answers, reach, same, score, some_pairs
from tests.integration.vllm_server import VllmServer

pytestmark = pytest.mark.vllm


def test_a_server_that_hangs_for_a_while_is_waited_for(
    steady: VllmServer,
    undisturbed: NDArray[np.float32],
    cache: ScoreCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fleet, "_LEAST", 0.5)
    monkeypatch.setattr(fleet, "_LOOK", 0.05)
    monkeypatch.setattr(endpoint, "_CONNECT", 0.5)
    timers: list[threading.Timer] = []

    def told(stage: str, done: int, total: int) -> None:
        if done >= total // 2 and not timers:
            steady.suspend()
            timers.append(threading.Timer(4, steady.resume))
            timers[0].start()

    account = Account()
    try:
        with closing(reach(steady)) as generator:
            same(score(generator, cache, account=account, told=told), undisturbed)
    finally:
        steady.resume()
    assert account.asked == len(cache) == WORK.pairs
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(rf"{steady.url} is unreachable: no answer within \d+ s, nor to /health", said[0])
    assert said[-1] == f"{steady.url} is reachable again"


def test_a_slow_server_gets_more_time_and_smaller_batches(
    steady: VllmServer,
    front: Callable[..., Front],
    undisturbed: NDArray[np.float32],
    cache: ScoreCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers nothing more until it was given up four times."""
    started, enough = threading.Event(), threading.Event()

    def dawdle(path: str, body: bytes) -> None:
        if path == "/v1/completions" and started.is_set():
            enough.wait(60)

    monkeypatch.setattr(fleet, "_LEAST", 0.1)
    slowed: list[tuple[int, float]] = []
    original = fleet.Server.slowed

    def noting(self: fleet.Server, seconds: float, patience: float) -> bool:
        going_on = original(self, seconds, patience)
        slowed.append((self.size, self._stretch))
        if len(slowed) == 4:
            enough.set()
        return going_on

    monkeypatch.setattr(fleet.Server, "slowed", noting)
    account = Account()
    with closing(reach(front(steady.url, dawdle))) as generator:
        assert all(answer is not None for answer in answers(generator, some_pairs(40)))
        started.set()
        same(score(generator, cache, SHORT, account), undisturbed[:20])
    assert account.asked == len(cache) == SHORT.pairs
    sizes, stretches = zip(*slowed, strict=True)
    assert min(sizes) < 8
    assert list(stretches) == [2.0 ** (turn + 1) for turn in range(len(stretches))]


def test_one_text_that_takes_longer_than_the_patience_is_an_error(
    steady: VllmServer, front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dawdle(path: str, body: bytes) -> None:
        if path == "/v1/completions" and started:
            time.sleep(3)

    started: list[bool] = []
    monkeypatch.setattr(fleet, "_LEAST", 0.1)
    monkeypatch.setattr(fleet, "_LOOK", 0.01)
    slow = front(steady.url, dawdle)
    with closing(reach(slow, patience=0.5, connections=1)) as generator:
        assert all(answer is not None for answer in answers(generator, some_pairs(40)))
        started.append(True)
        with pytest.raises(GeneratorError, match=rf"{slow.url} is lost: no answer within \d+ s, for a single text"):
            answers(generator, some_pairs(40))
