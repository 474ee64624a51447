"""Texts and models without a likelihood."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragself import Config, KnowledgeBase
from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm.causal import CausalLM
from ragself.lm.language_model import Pair
from ragself.lm.score_cache import ScoreCache
from ragself.lm.vllm import generator as vllm
from ragself.schema import Account
from tests.integration.faults.front import Front
from tests.integration.faults.spoilt import Spoilt
from tests.integration.faults.work import SHORT, TEXTS, WORK, Work, answers, change, few, reach, score, some_pairs
from tests.integration.vllm_server import VllmServer

pytestmark = pytest.mark.vllm

LONG: Pair = ([5] * 1020, [6] * 10)
UNKNOWN: Pair = ([5, 99_999, 7], [6, 7])


def test_texts_that_are_refused_do_not_spoil_the_others(steady: VllmServer) -> None:
    pairs = some_pairs(120)
    with closing(reach(steady)) as generator:
        expected = answers(generator, pairs)
        for row, bad in {0: LONG, 50: UNKNOWN, 51: LONG, 119: UNKNOWN}.items():
            pairs[row], expected[row] = bad, None
        found = answers(generator, pairs)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or np.allclose(one, other, atol=1e-5)  # type: ignore[arg-type]


def test_many_refused_texts_side_by_side_do_not_end_it(steady: VllmServer) -> None:
    pairs = [*some_pairs(60), *([LONG] * 50), *some_pairs(60, 1)]
    with closing(reach(steady)) as generator:
        found = answers(generator, pairs)
    assert [answer is None for answer in found] == [row in range(60, 110) for row in range(170)]


@pytest.mark.parametrize("bad", [LONG, UNKNOWN], ids=["too long", "unknown id"])
def test_when_every_text_is_refused_it_ends_with_the_reason(steady: VllmServer, bad: Pair) -> None:
    with (
        closing(reach(steady)) as generator,
        pytest.raises(GeneratorError, match=rf"{steady.url} rejects every text: .*(1024|vocab)"),
    ):
        answers(generator, [bad] * 200)


def test_contexts_may_fill_the_limit_and_not_one_token_more(steady: VllmServer, small: VllmServer) -> None:
    for server in (steady, small):
        with closing(reach(server)) as generator:
            limit = generator.limit
            fit: list[Pair] = [([5] * (limit - 4), [6, 7, 8, 9]), ([5], [6] * (limit - 1)), ([5] * (limit - 1), [6])]
            over: list[Pair] = [([*context, 5], target) for context, target in fit]
            found = answers(generator, [*fit, *over])
        assert [answer is None for answer in found] == [False] * 3 + [True] * 3
        assert [len(answer) for answer in found[:3] if answer is not None] == [4, limit - 1, 1]


def test_a_model_of_twenty_tokens_scores_or_says_why_not(
    small: VllmServer, cache: ScoreCache, filled: Path, settings: Config, asked: list[str]
) -> None:
    with closing(reach(small)) as generator:
        assert np.isfinite(score(generator, cache, SHORT)).all()
    with KnowledgeBase(filled, create=False, config=few(settings)) as kb:
        report = kb.adapt(asked, generator=small.url)
        assert report.decision == "keep"
        assert re.match(r"the language model gives no usable likelihoods for \d+ of \d+ probes", report.reason)
    asking = few(settings).model_copy(update={"probes": settings.probes.model_copy(update={"questions": 30})})
    with (
        KnowledgeBase(filled, create=False, config=asking) as kb,
        pytest.raises(GeneratorError, match=rf"{small.url} rejects every text: .*20"),
    ):
        kb.adapt(asked, generator=small.url)


def test_a_model_that_is_nan_throughout_is_refused(
    spoilt: VllmServer, spoilt_llama: Spoilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "CANARY", f"The quick{spoilt_llama.text} fox")
    with (
        closing(reach(spoilt)) as generator,
        pytest.raises(GeneratorError, match=rf"{spoilt.url} cannot score texts: .*NaN.*--dtype float32"),
    ):
        answers(generator, some_pairs(3))


def test_a_server_that_became_nan_is_dropped_and_spoils_no_text(
    steady: VllmServer,
    spoilt: VllmServer,
    spoilt_llama: Spoilt,
    front: Callable[..., Front],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(vllm, "CANARY", f"The quick{spoilt_llama.text} fox")
    with closing(reach(steady, spoilt)) as generator:
        assert all(answer is not None for answer in answers(generator, some_pairs(300)))
    dropped = [line for line in caplog.messages if "is dropped" in line]
    assert len(dropped) == 1
    assert re.match(rf"{spoilt.url} is dropped, .*NaN.*float32", dropped[0])

    place = front(steady.url)
    with closing(reach(place)) as generator:
        found: list[Any] = []
        with pytest.raises(GeneratorError, match=rf"{place.url}.*NaN.*float32"):
            for batch in generator.score(some_pairs(600)):
                found += batch
                change(place, spoilt)("score", len(found), 600)
    assert all(answer is not None for _, answer in found)


def test_a_token_that_is_nan_spoils_only_the_texts_that_hold_it(
    spoilt: VllmServer, spoilt_llama: Spoilt, cache: ScoreCache, tmp_path: Path
) -> None:
    work, account = WORK.part(40, 94), Account()
    with closing(reach(spoilt)) as generator:
        found = score(generator, cache, work, account)
        holds = np.array([spoilt_llama.token in ids for ids in generator.encode([f" {text}" for text in TEXTS])])
    local = CausalLM(GeneratorConfig(model=str(spoilt_llama.folder)))
    silent = holds[work.candidates]
    assert silent.sum() >= 5
    np.testing.assert_array_equal(np.isneginf(found), silent)
    with closing(ScoreCache(tmp_path / "local.db")) as other:  # which has likelihoods where the token is not asked for
        agree = silent | np.isclose(found, score(local, other, work), atol=1e-5)
    assert agree.all(axis=1).mean() > 0.9  # of a query whose irrelevant document holds it, the others tell
    assert account.unanswered >= silent.sum()
    assert len(cache) == account.asked - account.unanswered == work.pairs - account.unanswered


def test_a_query_that_is_nan_does_not_end_the_pass(spoilt: VllmServer, spoilt_llama: Spoilt, cache: ScoreCache) -> None:
    asked = [
        *WORK.asked[:40],
        *(f"{query}{spoilt_llama.text} {query}" for query in WORK.asked[40:43]),
        *WORK.asked[43:60],
    ]
    work, account = Work(asked, WORK.candidates[:60]), Account()
    with closing(reach(spoilt)) as generator:
        found = score(generator, cache, work, account)
    assert np.isneginf(found[40:43]).all()
    assert np.isfinite(found).any(axis=1).sum() == 57
    assert account.unanswered >= 3 * 16
