from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.config import Config, GeneratorConfig, ProbesConfig
from ragself.errors import GeneratorError, StoreError
from ragself.lm.cached_scorer import LanguageModelScorer
from ragself.lm.gain import IRRELEVANT
from ragself.lm.ngram import NgramScorer
from ragself.lm.score_cache import ScoreCache
from ragself.probes import supervision
from ragself.probes.questions import LOOKALIKES
from ragself.probes.supervision import affordable, scored, scores_file, supervise, wanted_questions
from ragself.schema import Probe
from tests.unit.fake_generator import FakeGenerator

CHECK = LOOKALIKES + 1 + IRRELEVANT  # pairs that a question costs before it is a probe
PROBE = Probe("1", "one two", "one two", "traffic", None, "train")


def config(**generator: object) -> Config:
    return Config(generator=GeneratorConfig(**{"model": "fake", **generator}))  # type: ignore[arg-type]


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    """What the settings open."""
    fake = FakeGenerator()
    monkeypatch.setattr(supervision, "open_language_model", lambda config: fake if config.model else None)
    return fake


# numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(16, (8, 4, 4)), (4, (2, 1, 1)), (7, (3, 1, 3)), (30, (15, 7, 8))])
def test_candidates_are_half_nearest_a_quarter_by_words_and_the_rest_random(
    count: int, expected: tuple[int, int, int]
) -> None:
    for places in ({"model": "fake"}, {"model": None, "url": ("http://127.0.0.1:1",)}):
        teacher = scored(config(candidates=count, **places))
        assert teacher is not None
        assert (teacher.dense, teacher.lexical, teacher.random) == expected


@given(st.integers(4, 500))
def test_candidates_are_as_many_as_the_settings_say(count: int) -> None:
    teacher = scored(config(candidates=count))
    assert teacher is not None
    numbers = (teacher.dense, teacher.lexical, teacher.random)
    assert sum(numbers) == count
    assert min(numbers) > 0


def test_a_generator_leaves_the_other_settings_and_without_one_all_candidates_are_scored() -> None:
    alone = Config(teacher={"weight": 2.0, "dense": 9})  # type: ignore[arg-type]
    assert scored(alone) is None
    found = scored(alone.model_copy(update={"generator": GeneratorConfig(model="fake")}))
    assert found is not None
    assert found.weight == 2.0


def test_any_number_of_probes_is_affordable_where_words_are_counted() -> None:
    assert affordable(Config(), 200) is None


@pytest.mark.parametrize(
    ("pairs", "candidates", "questions", "expected"),
    [(20_000, 16, 0, 1111), (20_000, 16, 200, 911), (1800, 16, 0, 100), (1799, 16, 0, 99), (600, 4, 0, 100)],
)
def test_probes_are_as_many_as_the_pairs_pay_for(pairs: int, candidates: int, questions: int, expected: int) -> None:
    assert affordable(config(pairs=pairs, candidates=candidates), questions) == expected


@pytest.mark.parametrize("questions", [0, 200])
def test_at_least_one_probe_is_affordable(questions: int) -> None:
    assert affordable(config(pairs=1), questions) == 1


PAIRS = st.integers(1000, 50_000)


@given(PAIRS, st.integers(4, 100))
@settings(deadline=None)
def test_pairs_of_probes_are_within_the_settings_and_none_more_would_be(pairs: int, candidates: int) -> None:
    limit = affordable(config(pairs=pairs, candidates=candidates), 0)
    assert limit is not None
    assert limit * (candidates + IRRELEVANT) <= pairs < (limit + 1) * (candidates + IRRELEVANT)


@pytest.mark.parametrize("candidates", [4, 8, 16, 32, 64])
def test_pairs_of_probes_and_questions_are_within_the_settings_and_none_more_would_be(candidates: int) -> None:
    questions, each = 200, candidates + IRRELEVANT
    limit = affordable(config(pairs=20_000, candidates=candidates), questions)
    assert limit is not None
    checked = questions * CHECK
    assert checked + limit * each <= 20_000 < checked + (limit + 1) * each


@pytest.mark.parametrize(
    ("pairs", "questions", "expected"),
    [(20_000, 200, 200), (20_000, 0, 0), (20_000, 9000, 555), (360, 200, 10), (35, 9, 0)],
)
def test_checking_questions_takes_half_of_the_pairs_at_most(pairs: int, questions: int, expected: int) -> None:
    found = config(pairs=pairs).model_copy(update={"probes": ProbesConfig(questions=questions)})
    assert wanted_questions(found) == expected
    assert expected * CHECK <= pairs / 2


# what is opened -----------------------------------------------------------------------------------


def test_without_a_generator_words_are_counted_and_nothing_is_written(generator: FakeGenerator, tmp_path: Path) -> None:
    with supervise(Config(), tmp_path) as opened:
        assert isinstance(opened.scorer(["one two"], 1), NgramScorer)
        assert (opened.name, opened.report()) == ("ngram", {"scorer": "ngram"})
        assert opened.generator is None
    assert list(tmp_path.iterdir()) == []
    assert generator.closed == 0


def test_with_a_generator_it_scores_and_its_answers_are_in_the_folder(generator: FakeGenerator, tmp_path: Path) -> None:
    documents = [f"one two {number}" for number in range(9)]
    with supervise(config(), tmp_path) as opened:
        one, two = opened.scorer(documents, 9), opened.scorer(documents[:5], 5)
        assert isinstance(one, LanguageModelScorer)
        assert opened.name == one.name == "fake"
        one.gains([PROBE], np.array([[0, 1]]))
        two.gains([PROBE], np.array([[0, 1]]))
        report = opened.report()
    assert report["scorer"] == "fake"
    assert (report["pairs"], report["asked"]) == (8, len(set(generator.pairs)))
    assert report.keys() == {"scorer", "pairs", "asked", "unanswered", "tokens", "seconds", "floor"}
    cache = ScoreCache(tmp_path / "scores.db")
    assert len(cache) == report["asked"]
    cache.close()


def test_answers_are_kept_where_the_settings_say(generator: FakeGenerator, tmp_path: Path) -> None:
    folder, shared = tmp_path / "kb", tmp_path / "shared.db"
    folder.mkdir()
    assert scores_file(config(), folder) == folder / "scores.db"
    assert scores_file(config(cache=shared), folder) == shared
    with supervise(config(cache=shared), folder):
        assert shared.exists()
    assert list(folder.iterdir()) == []


def test_generator_and_file_are_closed_also_after_an_error(generator: FakeGenerator, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), supervise(config(), tmp_path) as opened:
        raise KeyboardInterrupt
    assert generator.closed == 1
    assert opened.cache is not None
    with pytest.raises(Exception, match="closed"):
        len(opened.cache)


def test_the_generator_is_closed_where_the_file_is_damaged(generator: FakeGenerator, tmp_path: Path) -> None:
    (tmp_path / "scores.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"scores\.db"), supervise(config(), tmp_path):
        raise AssertionError("opened")
    assert generator.closed == 1


def test_a_generator_that_cannot_be_opened_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(config: GeneratorConfig) -> None:
        raise GeneratorError("gone")

    monkeypatch.setattr(supervision, "open_language_model", gone)
    with pytest.raises(GeneratorError, match="gone"), supervise(config(), tmp_path):
        raise AssertionError("opened")
    assert list(tmp_path.iterdir()) == []
