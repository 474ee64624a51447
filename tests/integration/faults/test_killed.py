"""A server is killed amid the work of three clients, and started again much later."""

from __future__ import annotations

import re
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself import KnowledgeBase
from ragself.errors import GeneratorError
from ragself.lm.cached_scorer import NOISE_PAIRS
from ragself.lm.score_cache import ScoreCache
from tests.integration.faults.conftest import Accident, Servers
from tests.integration.faults.work import FLIGHT, KEY, REACHED, WORK, same

pytestmark = pytest.mark.vllm


def test_a_server_that_was_killed_and_started_again_is_asked_for_the_rest(
    accident: Accident, undisturbed: NDArray[np.float32]
) -> None:
    same(accident.gains, undisturbed)
    assert REACHED * WORK.pairs <= accident.kept < 0.9 * WORK.pairs
    assert accident.stored == accident.account.asked == WORK.pairs
    assert f"{accident.url} is reachable again" in accident.warned


def test_nothing_that_was_answered_before_the_kill_is_asked_again(accident: Accident) -> None:
    left = WORK.pairs - accident.kept
    assert left - FLIGHT <= accident.prompts - NOISE_PAIRS - 1 <= left  # and one canary


def test_of_two_servers_the_one_that_is_left_finishes(accident: Accident, undisturbed: NDArray[np.float32]) -> None:
    same(accident.shared, undisturbed)
    assert accident.shared_stored == WORK.pairs
    early, all_told = accident.shared_prompts
    assert early > 0
    assert all_told < WORK.pairs  # the other had answered some, though this one measured the noise too
    dropped = [line for line in accident.warned if "is dropped, its work goes to the others" in line]
    assert len(dropped) == 1
    assert dropped[0].startswith(accident.url)
    assert re.search(r": unreachable for \d+ s \(", dropped[0])


def test_a_server_that_does_not_come_back_is_waited_for_as_long_as_is_set(accident: Accident) -> None:
    assert isinstance(accident.kb_error, GeneratorError)
    said = str(accident.kb_error)
    assert accident.url in said
    away = re.search(r"is lost: unreachable for (\d+) s \(", said)
    assert away
    assert 3 <= int(away[1]) < 30  # a busy machine takes its time
    assert "Scores so far are kept; start it again and run the same command." in said
    assert 2.0 <= accident.kb_seconds < 30.0  # it is away since its last answer, which came before the kill
    assert accident.kb_kept > 300


def test_the_live_version_is_untouched_and_the_next_run_goes_on(
    accident: Accident, asked: list[str], servers: Servers
) -> None:
    with KnowledgeBase(accident.kb, create=False, config=accident.config) as kb:
        assert kb.status().live.number == 0
        assert kb.search(asked[0], 3)[0].version == 0
        assert [event["event"] for event in kb.history()] == ["create"]
        report = kb.adapt(asked, generator=servers.steady.url)
    with closing(ScoreCache(accident.kb / "scores.db")) as scores:
        assert len(scores) == accident.kb_kept + report.likelihood["asked"]
    assert 500 < report.likelihood["asked"] < report.likelihood["pairs"] - 300


def test_the_key_is_never_told_while_servers_come_and_go(accident: Accident) -> None:
    assert len(accident.said) > 100
    assert not [line for line in accident.said if KEY in line]
