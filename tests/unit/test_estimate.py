import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself import Chunk, Config, KnowledgeBase
from ragself.config import load
from ragself.cycle import tally
from ragself.encoders.encoder import Encoder
from ragself.encoders.fine_tuned import FineTuned
from ragself.errors import LimitError
from ragself.estimate import within
from ragself.lm.cached_scorer import NOISE_PAIRS
from ragself.lm.prompts import QUESTION_TOKENS
from ragself.probes import supervision
from ragself.probes.probes import make
from ragself.probes.questions import plan
from ragself.schema import Forecast
from tests.conftest import documents, queries
from tests.unit.fake_generator import FakeGenerator

SIZE = 120
CHUNKS = [Chunk(id, text, {"title": title}) for id, title, text in documents()[::3][:SIZE]]
ASKED = queries()[::6]
WIDTH = 8 + 2  # candidates and irrelevant documents
CHECK = 16 + 2  # look-alikes and irrelevant documents, for a question that was written


@pytest.fixture(scope="module")
def _filled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast") / "kb"
    with KnowledgeBase(folder, config=settings(tiny_model, None)) as kb:
        kb.add(CHUNKS)
    return folder


def settings(tiny_model: Path, generator: str | None, min_probes: int = 30, **more: object) -> Config:
    return load(
        None,
        encoder={"model": str(tiny_model)},
        generator={"model": generator, "candidates": 8, **more},
        probes={"min_train": 5000},  # so that no pass trains anything
        gate={"min_probes": min_probes},
    )


@pytest.fixture
def kb(_filled: Path, tiny_model: Path, tmp_path: Path) -> Iterator[Callable[..., KnowledgeBase]]:
    """Open a copy with other settings of the generator."""
    opened: list[KnowledgeBase] = []

    def open_copy(generator: str | None = "fake", **more: object) -> KnowledgeBase:
        folder = shutil.copytree(_filled, tmp_path / f"kb{len(opened)}")
        opened.append(KnowledgeBase(folder, config=settings(tiny_model, generator, **more)))
        return opened[-1]

    yield open_copy
    for each in opened:
        each.close()


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    """What the settings open."""
    fake = FakeGenerator(written=lambda document, wording: f"what of {' '.join(document.split()[:4:2])} {wording}?")
    monkeypatch.setattr(supervision, "open_language_model", lambda config: fake if config.model else None)
    return fake


def test_tokens_that_train_cannot_be_spared_and_those_that_score_can(
    kb: Callable[..., KnowledgeBase], generator: FakeGenerator
) -> None:
    opened = kb()
    cost = opened.forecast(ASKED, objective="dream")
    assert cost.inside > 0
    assert cost.tokens == opened.forecast(ASKED).tokens
    assert within(cost.inside + cost.tokens, cost, opened.config) is opened.config
    less = within(cost.inside + cost.tokens // 2, cost, opened.config).generator.pairs
    assert less == pytest.approx(cost.prompts / 2, rel=0.01)
    with pytest.raises(LimitError, match="are left for today"):
        within(cost.inside, cost, opened.config)


def test_where_words_are_counted_no_prompt_is_read(kb: Callable[..., KnowledgeBase]) -> None:
    opened = kb(None)
    found = opened.forecast(ASKED)
    assert (found.scorer, found.documents, found.prompts, found.tokens, found.stored) == ("ngram", SIZE, 0, 0, 0)
    assert found.questions == 0
    probes = make(CHUNKS, ASKED, opened.config.probes, opened.config.train.seed)
    assert found.probes == tally(probes)
    assert set(found.rates) == set(found.seconds) == {"encode"}
    assert found.seconds["encode"] == pytest.approx(found.encode / found.rates["encode"], abs=0.1)
    assert found.bytes.keys() == {"versions"}
    assert found.blocked_reason is None
    assert not (opened.path / "scores.db").exists()


def test_prompts_are_those_of_probes_and_of_questions_and_of_the_noise(
    kb: Callable[..., KnowledgeBase], generator: FakeGenerator
) -> None:
    opened = kb()
    found = opened.forecast(ASKED)
    probes = make(CHUNKS, ASKED, opened.config.probes, opened.config.train.seed)
    assert found.questions == len(plan(CHUNKS, opened.config.probes.questions)) == 200
    assert found.probes == tally(probes)
    assert found.prompts == 200 * CHECK + (len(probes.probes) + 200) * WIDTH + NOISE_PAIRS
    assert found.scorer == "fake"
    assert found.bytes["scores.db"] > found.prompts * 4
    assert found.seconds["score"] == pytest.approx(found.tokens / found.rates["tokens"], rel=0.01, abs=0.1)


def test_known_items_that_need_no_likelihood_are_no_prompts(
    kb: Callable[..., KnowledgeBase], generator: FakeGenerator
) -> None:
    found, fewer = kb().forecast(ASKED), kb(min_probes=3).forecast(ASKED)
    assert fewer.probes == found.probes
    spared = sum(splits["confirm"] for kind, splits in found.probes.items() if kind != "traffic")
    assert found.prompts - fewer.prompts == spared * WIDTH > 0


def test_tokens_are_those_of_prompts_of_usual_length(
    kb: Callable[..., KnowledgeBase], generator: FakeGenerator
) -> None:
    found = kb().forecast(ASKED)
    scored = 40 + 2 + 4  # words of a document, around it, and of a query or title
    assert scored * found.prompts < found.tokens < (scored + QUESTION_TOKENS) * (found.prompts + found.questions)
    short = kb(context=16).forecast(ASKED)
    assert found.tokens - short.tokens == pytest.approx((40 - 16) * (found.prompts + found.questions), abs=2)


def test_no_more_probes_are_counted_than_can_be_afforded(
    kb: Callable[..., KnowledgeBase], generator: FakeGenerator
) -> None:
    opened = kb(pairs=2400)
    found = opened.forecast(ASKED)
    questions = 2400 // 2 // CHECK
    afforded = (2400 - questions * CHECK) // WIDTH
    assert found.questions == questions
    assert found.probes == tally(make(CHUNKS, ASKED, opened.config.probes, opened.config.train.seed, (), afforded, 30))
    assert found.prompts == questions * CHECK + afforded * WIDTH + NOISE_PAIRS <= 2400 + NOISE_PAIRS


def test_a_forecast_asks_a_model_for_little_and_only_once(
    kb: Callable[..., KnowledgeBase], generator: FakeGenerator
) -> None:
    opened = kb()
    first = opened.forecast(ASKED)
    asked = len(generator.pairs)
    assert 0 < asked <= 4 * 6
    assert (first.stored, generator.canaries, generator.writes, generator.closed) == (asked, 1, [], 1)
    second = opened.forecast(ASKED)
    assert (len(generator.pairs), generator.canaries) == (asked, 1)
    assert second.rates["tokens"] == first.rates["tokens"]
    assert second.stored == asked


def test_a_forecast_does_nothing(kb: Callable[..., KnowledgeBase], generator: FakeGenerator) -> None:
    opened = kb()
    before = (opened.history(), opened.status().live, opened.engine.store.journal.head, opened.status().chunks)
    opened.forecast(ASKED)
    assert (opened.history(), opened.status().live, opened.engine.store.journal.head, opened.status().chunks) == before
    assert not (opened.path / "pass").exists()


def test_without_queries_there_is_a_forecast_too(kb: Callable[..., KnowledgeBase], generator: FakeGenerator) -> None:
    found = kb().forecast()
    assert "traffic" not in found.probes
    assert found.prompts > 200 * CHECK


def test_too_few_chunks_are_said_to_be_too_few_and_the_model_is_asked_nothing(
    tiny_model: Path, tmp_path: Path, generator: FakeGenerator
) -> None:
    with KnowledgeBase(tmp_path / "kb", config=settings(tiny_model, "fake")) as kb:
        kb.add(CHUNKS[:99])
        found = kb.forecast(ASKED)
    assert found.blocked_reason is not None
    assert "only 99 chunks, at least 100" in found.blocked_reason
    assert (found.prompts, found.questions, generator.pairs, generator.canaries) == (0, 0, [], 0)


# at most ------------------------------------------------------------------------------------------


def test_a_pass_asks_for_no_more_than_was_forecast(kb: Callable[..., KnowledgeBase], generator: FakeGenerator) -> None:
    opened = kb()
    found = opened.forecast(ASKED)
    asked = len(generator.pairs)
    report = opened.adapt(ASKED)
    assert 0.5 * found.prompts < len(generator.pairs) - asked <= found.prompts
    assert report.likelihood["scorer"] == "fake"
    assert sum(len(context) + len(target) for context, target in generator.pairs[asked:]) <= 1.1 * found.tokens


@pytest.fixture(scope="module")
def few(_filled: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Forecast, int]:
    """Forecast of a pass that can afford 2400 pairs and keeps few of its questions; and the pairs that it asked for."""
    fake = FakeGenerator(written=lambda text, wording: " ".join(f"{word}{wording}?" for word in text.split()[:6]))
    folder = shutil.copytree(_filled, tmp_path_factory.mktemp("few") / "kb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervision, "open_language_model", lambda config: fake)
        with KnowledgeBase(folder, config=settings(tiny_model, "fake", pairs=2400)) as kb:
            found = kb.forecast(ASKED)
            before = len(fake.pairs)
            kb.adapt(ASKED)
    return found, len(fake.pairs) - before


def test_a_pass_that_keeps_few_questions_asks_for_no_more_than_was_forecast(few: tuple[Forecast, int]) -> None:
    found, asked = few
    assert asked <= found.prompts


def test_a_pass_scores_no_more_pairs_than_the_settings_allow(few: tuple[Forecast, int]) -> None:
    assert few[1] <= 2400 + NOISE_PAIRS


def test_a_pass_encodes_no_more_texts_than_was_forecast(
    kb: Callable[..., KnowledgeBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = 0

    def count(real: Callable[..., NDArray[np.float32]]) -> Callable[..., NDArray[np.float32]]:
        def encode(self: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
            nonlocal encoded
            encoded += len(texts)
            return real(self, texts)

        return encode

    opened = kb(None)
    found = opened.forecast()
    monkeypatch.setattr(Encoder, "documents", count(Encoder.documents))
    monkeypatch.setattr(Encoder, "queries", count(Encoder.queries))
    until: dict[str, int] = {}
    opened.adapt(progress=lambda stage, *_: until.setdefault(stage, encoded))
    assert until["candidates"] <= found.encode


# encoding anew ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", ["query", "both"])
def test_documents_that_a_tuned_encoder_reads_again_are_told_before(
    sides: str, _filled: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"adapters": ["lora"], "lora": {"sides": sides, "steps": 1, "rank": 2}}
    tuning = load(None, encoder={"model": str(tiny_model)}, train=train, probes={"min_train": 5})
    read: list[str] = []
    with KnowledgeBase(shutil.copytree(_filled, tmp_path / "kb"), config=tuning) as opened:
        found = opened.forecast(ASKED)
        assert found.reembedding is not None
        real = FineTuned.documents

        def count(self: FineTuned, texts: Sequence[str], width: int) -> NDArray[np.float32]:
            read.extend(texts)
            return real(self, texts, width)

        monkeypatch.setattr(FineTuned, "documents", count)
        report = opened.adapt(ASKED)
    assert report.reembedding["documents"] == len(set(read))
    assert found.reembedding.documents >= report.reembedding["documents"]
    assert (found.reembedding.seconds > 0) == (report.reembedding["seconds"] > 0) == (sides == "both")
    assert found.seconds["encode by lora"] == pytest.approx(found.reembedding.seconds, abs=0.1)
    assert (found.reembedding.documents >= SIZE) == (sides == "both")


def test_a_pass_that_tunes_nothing_has_nothing_to_tell_of_it(kb: Callable[..., KnowledgeBase]) -> None:
    assert kb(None).forecast(ASKED).reembedding is None
