"""Likelihoods of a real vLLM server: the same as in process, kept, and good for a whole pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ragself import Config, KnowledgeBase
from ragself.config import GeneratorConfig
from ragself.lm.cached_scorer import LanguageModelScorer
from ragself.lm.causal import CausalLM
from ragself.lm.language_model import LanguageModel, Pair
from ragself.lm.prompts import WRITINGS
from ragself.lm.score_cache import ScoreCache
from ragself.lm.vllm.generator import Vllm
from ragself.schema import Account, Chunk, Probe
from tests.conftest import documents
from tests.integration.vllm_server import VllmServer
from tests.language_models import random_model, tokenizer

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", autouse=True)
def qwen3(make_vllm: Callable[..., VllmServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A server of another architecture, which starts beside the first: wait for it."""
    texts = [text for _, _, text in documents()]
    server = make_vllm(random_model(tmp_path_factory.mktemp("qwen3"), "qwen3", tokenizer(texts, 1000)))
    server.launch()
    yield server
    server.stop()


@pytest.fixture
def served(vllm_server: VllmServer) -> Iterator[Vllm]:
    generator = Vllm(GeneratorConfig().at(vllm_server.url))
    yield generator
    generator.close()


def answers(generator: LanguageModel, pairs: list[Pair]) -> list[np.ndarray]:
    found = {position: answer for batch in generator.score(pairs) for position, answer in batch}
    assert sorted(found) == list(range(len(pairs)))
    assert all(answer is not None for answer in found.values())
    return [found[position] for position in range(len(pairs))]  # type: ignore[misc]


def random_pairs(count: int, limit: int, vocabulary: int) -> list[Pair]:
    """Contexts from one token up to what just fits, targets from one token up to forty."""
    draw = random.Random(0)
    pairs = []
    for number in range(count):
        target = draw.randint(1, 40)
        longest = limit - target
        context = [1, 2, longest, longest - 1][number] if number < 4 else draw.randint(1, longest)
        pairs.append(([draw.randrange(3, vocabulary) for _ in range(context)],
                      [draw.randrange(3, vocabulary) for _ in range(target)]))  # fmt: skip
    return pairs


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_server_and_this_process_agree_to_a_ten_thousandth_of_a_nat(
    architecture: str, vllm_server: VllmServer, qwen3: VllmServer
) -> None:
    server = vllm_server if architecture == "llama" else qwen3
    server.wait()
    config = GeneratorConfig(context=2000)
    remote, local = Vllm(config.at(server.url)), CausalLM(config.at(str(server.model)))
    pairs = random_pairs(200, remote.limit, local._vocabulary)
    sums = [np.array([answer.sum() for answer in answers(generator, pairs)]) for generator in (remote, local)]
    assert np.abs(sums[0]).min() > 1, "a model that says nothing agrees with everybody"
    assert np.abs(sums[0] - sums[1]).max() < 1e-4
    assert remote.begin == local.begin
    texts = ["How fast?", " naïve Zürich 東京", "", "a\n\nb"]
    assert remote.encode(texts) == local.encode(texts)
    remote.close()


def test_what_was_scored_is_not_asked_for_again(
    vllm_server: VllmServer, served: Vllm, chunks: list[Chunk], asked: list[str], tmp_path: Path
) -> None:
    texts = [chunk.text for chunk in chunks]
    probes = [Probe(str(row), query, query, "traffic", None, "train") for row, query in enumerate(asked[:30])]
    candidates = np.random.default_rng(0).integers(0, len(texts), size=(30, 16))
    gains, accounts = [], []
    for _ in range(2):
        cache, account = ScoreCache(tmp_path / "scores.db"), Account()
        before = vllm_server.metrics()
        scorer = LanguageModelScorer(texts, len(texts), served, cache, GeneratorConfig(), account)
        gains.append(scorer.gains(probes, candidates))
        accounts.append(
            (account, vllm_server.metrics()["vllm:prompt_tokens_total"] - before["vllm:prompt_tokens_total"])
        )
        cache.close()
    np.testing.assert_array_equal(gains[0], gains[1])
    (first, sent), (second, sent_again) = accounts
    assert first.asked == len(set(zip(np.repeat(asked[:30], 16), candidates.ravel().tolist(), strict=True))) + 60
    assert sent > first.tokens  # what was asked, the canary, and the noise
    assert (second.asked, sent_again) == (0, 0)


def test_in_process_and_served_gains_are_the_same(
    served: Vllm, random_llama: Path, chunks: list[Chunk], asked: list[str], tmp_path: Path
) -> None:
    texts = [chunk.text for chunk in chunks]
    probes = [Probe(str(row), query, query, "traffic", None, "train") for row, query in enumerate(asked[:20])]
    candidates = np.random.default_rng(1).integers(0, len(texts), size=(20, 8))
    found = []
    for generator in (served, CausalLM(GeneratorConfig(model=str(random_llama)))):
        cache = ScoreCache(tmp_path / "scores.db")
        found.append(
            LanguageModelScorer(texts, len(texts), generator, cache, GeneratorConfig()).gains(probes, candidates)
        )
        cache.close()
    assert np.abs(found[0]).max() > 0.01
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_questions_are_written_by_continuation_where_there_is_no_chat_template(
    served: Vllm, random_llama: Path, chunks: list[Chunk]
) -> None:
    texts = [chunk.text for chunk in chunks[:12]]
    local = CausalLM(GeneratorConfig(model=str(random_llama)))
    for writing in WRITINGS:
        written = [
            dict(item for batch in generator.write(texts, writing) for item in batch) for generator in (served, local)
        ]
        assert sorted(written[0]) == list(range(12))
        assert any(written[0].values())
        # A character that was cut in two at the end is left out by the server, and shown as a mark here.
        first, second = ([f"{of[row]}".split("\n")[0].rstrip("\ufffd") for row in range(12)] for of in written)
        assert first == second


def test_a_whole_pass_is_supervised_by_a_server_and_costs_nothing_the_second_time(
    filled: Path, vllm_server: VllmServer, asked: list[str], settings: Config
) -> None:
    few = settings.model_copy(
        update={
            "generator": settings.generator.model_copy(update={"pairs": 3000}),
            "probes": settings.probes.model_copy(update={"questions": 20}),
        }
    )
    with KnowledgeBase(filled, create=False, config=few) as kb:
        cost = kb.forecast(asked, generator=vllm_server.url)
        report = kb.adapt(asked, generator=vllm_server.url)
        again = kb.adapt(asked, generator=vllm_server.url)
        assert kb.status().bytes["scores.db"] > 10_000
    assert str(report.likelihood["scorer"]).startswith("vllm:")
    assert 0 < report.likelihood["asked"] <= cost.prompts
    assert 0.5 * cost.tokens < report.likelihood["tokens"] < 1.1 * cost.tokens
    assert again.likelihood["asked"] == 0
    assert report.seconds["study"] > 0
