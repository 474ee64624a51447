"""Answers that only a server in between gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.errors import GeneratorError
from ragself.lm.score_cache import ScoreCache
from ragself.schema import Account
from tests.integration.faults.front import Front, Page, as_json, at_times
from tests.integration.faults.work import SHORT, TEXTS, answers, reach, same, score, some_pairs
from tests.integration.vllm_server import VllmServer

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    "answer",
    [as_json({"error": "too many"}, 429), as_json({"error": "none there"}, 503), as_json({}, 504), "hang up"],
    ids=["429", "503", "504", "hang up"],
)
def test_a_server_that_is_overloaded_now_and_then_is_asked_again(
    steady: VllmServer,
    front: Callable[..., Front],
    answer: Page | str,
    undisturbed: NDArray[np.float32],
    cache: ScoreCache,
) -> None:
    place = front(steady.url, at_times(answer))
    account = Account()
    with closing(reach(place)) as generator:
        same(score(generator, cache, SHORT, account), undisturbed[:20])
    assert account.asked == len(cache) == SHORT.pairs
    assert account.unanswered == 0


def test_an_engine_that_dies_is_waited_for(
    steady: VllmServer, front: Callable[..., Front], undisturbed: NDArray[np.float32], cache: ScoreCache
) -> None:
    dead = iter([False] * 8 + [True] * 6)

    def answer(path: str, body: bytes) -> Page | None:
        if path in ("/v1/completions", "/health") and next(dead, False):
            return as_json({"error": {"message": "EngineCore encountered an issue."}}, 500)
        return None

    with closing(reach(front(steady.url, answer))) as generator:
        same(score(generator, cache, SHORT), undisturbed[:20])
    assert next(dead, None) is None
    assert len(cache) == SHORT.pairs


def test_answers_without_likelihoods_of_the_prompt_are_told(steady: VllmServer, front: Callable[..., Front]) -> None:
    def without(path: str, body: bytes) -> Page | None:
        if path != "/v1/completions":
            return None
        asked = json.loads(body)
        return as_json({"choices": [{"index": row, "text": "a"} for row in range(len(asked["prompt"]))]})

    place = front(steady.url, without)
    with (
        closing(reach(place)) as generator,
        pytest.raises(GeneratorError, match=f"{place.url} answers without prompt_logprobs"),
    ):
        answers(generator, some_pairs(3))


def test_fewer_answers_than_prompts_are_told(steady: VllmServer, front: Callable[..., Front]) -> None:
    place = front(steady.url, lambda path, body: as_json({"choices": []}) if path == "/v1/completions" else None)
    with (
        closing(reach(place)) as generator,
        pytest.raises(GeneratorError, match=f"{place.url} is not a vLLM server: 1 prompts got 0 answers"),
    ):
        answers(generator, some_pairs(3))


def test_a_model_that_is_no_longer_served_is_told(steady: VllmServer, front: Callable[..., Front]) -> None:
    gone = {"error": {"message": "The model `gen` does not exist.", "type": "NotFoundError", "code": 404}}
    place = front(steady.url, lambda path, body: as_json(gone, 404) if path == "/v1/completions" else None)
    with (
        closing(reach(place)) as generator,
        pytest.raises(GeneratorError, match=f"{place.url} no longer serves the model: The model `gen` does not"),
    ):
        answers(generator, some_pairs(3))


def test_of_two_servers_that_tokenize_the_one_that_goes_away_is_told_once_and_the_other_never(
    steady: VllmServer, front: Callable[..., Front], caplog: pytest.LogCaptureFixture
) -> None:
    place = front(steady.url)
    with closing(reach(place, steady)) as generator:
        expected = generator.encode(TEXTS[:40])
        place.target = "http://127.0.0.1:1"
        for start in range(0, 40, 10):
            assert generator.encode(TEXTS[start : start + 10]) == expected[start : start + 10]
        told = [record.getMessage() for record in caplog.records if record.name == "ragself.lm.vllm.pool"]
        assert {line.partition(": ")[0] for line in told} == {f"{place.url} is unreachable"}
        assert len(told) <= 8  # one for each text that met it first
        place.target = steady.url
        assert generator.encode(TEXTS[:1]) == expected[:1]
    told = [record.getMessage() for record in caplog.records if record.name == "ragself.lm.vllm.pool"]
    assert told[-1] == f"{place.url} is reachable again"
