"""Servers that are not the same, or no longer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm.causal import CausalLM
from ragself.lm.score_cache import ScoreCache
from ragself.schema import Account
from tests.integration.faults.front import Front
from tests.integration.faults.spoilt import Spoilt
from tests.integration.faults.work import REACHED, SHORT, WORK, change, reach, same, score
from tests.integration.vllm_server import VllmServer

pytestmark = pytest.mark.vllm


def test_servers_of_different_models_are_refused(steady: VllmServer, pooling: VllmServer) -> None:
    with pytest.raises(
        GeneratorError,
        match=rf"{steady.url} serves llama but {pooling.url} serves {pooling.model}. Give servers of one",
    ):
        reach(steady, pooling)


def test_other_weights_after_a_restart_are_refused(
    steady: VllmServer, spoilt: VllmServer, front: Callable[..., Front], cache: ScoreCache
) -> None:
    place = front(steady.url)
    with closing(reach(place)) as generator, pytest.raises(GeneratorError) as caught:
        score(generator, cache, told=change(place, spoilt))
    assert str(caught.value) == (
        f"{place.url} serves other weights under the name llama than before, or than the other servers do. "
        "Serve one model; run the same command again."
    )
    assert REACHED * WORK.pairs <= len(cache) < 0.8 * WORK.pairs


def test_the_next_run_scores_anew_with_other_weights(
    steady: VllmServer, spoilt: VllmServer, spoilt_llama: Spoilt, cache: ScoreCache, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(reach(steady)) as generator:
        score(generator, cache, SHORT.part(0, 10))
    account = Account()
    with closing(reach(spoilt)) as generator:
        found = score(generator, cache, SHORT, account)
    assert account.asked == SHORT.pairs
    assert "vllm:llama:gen is not the model whose scores are cached: scoring again" in caplog.messages
    with closing(ScoreCache(Path(str(cache._db.path) + "-local"))) as other:
        local = CausalLM(GeneratorConfig(model=str(spoilt_llama.folder)))
        expected = score(local, other, SHORT)
    assert np.isclose(found, expected, atol=1e-5).all(axis=1).mean() > 0.6  # the others met the token that is NaN
    assert np.isfinite(found).mean() > 0.9


def test_a_smaller_length_limit_after_a_restart_is_refused(
    steady: VllmServer, small: VllmServer, front: Callable[..., Front], cache: ScoreCache
) -> None:
    place = front(steady.url)
    with closing(reach(place)) as generator, pytest.raises(GeneratorError) as caught:
        score(generator, cache, told=change(place, small))
    assert str(caught.value) == (
        f"{place.url} now serves llama with 20 tokens, expected llama with 1024. Scores so far are kept; "
        "run the same command again."
    )
    assert len(cache) >= REACHED * WORK.pairs


def test_of_two_servers_of_one_name_and_other_weights_one_is_dropped(
    steady: VllmServer,
    spoilt: VllmServer,
    undisturbed: NDArray[np.float32],
    cache: ScoreCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing(reach(steady, spoilt)) as generator:
        same(score(generator, cache, SHORT), undisturbed[:20])
    dropped = [line for line in caplog.messages if "is dropped" in line]
    assert len(dropped) == 1
    assert dropped[0].startswith(
        f"{spoilt.url} is dropped, its work goes to the others: {spoilt.url} serves other weig"
    )
