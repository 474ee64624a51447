import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm import cached_scorer as likelihood
from ragself.lm import prompts as wording
from ragself.lm.cached_scorer import NOISE_PAIRS, LanguageModelScorer
from ragself.lm.gain import FLOORS, IRRELEVANT
from ragself.lm.language_model import CANARY, Pair, identify, open_language_model
from ragself.lm.prompts import lay_out, prompt
from ragself.lm.score_cache import ScoreCache
from ragself.schema import Account, Probe, ProbeKind
from tests.unit.fake_generator import BEGIN, FakeGenerator, Frozen, frozen, ids

CONFIG = GeneratorConfig(model="fake", context=64)
LIMIT = 64 + 2 * wording.TARGET_TOKENS
DOCUMENTS = [f"w{n % 7} x{n % 5} own{n} " + " ".join(f"y{k}" for k in range(n % 9)) for n in range(40)]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ScoreCache]:
    cache = ScoreCache(tmp_path / "scores.db")
    yield cache
    cache.close()


def probe(number: int | str, text: str | None = None, kind: ProbeKind = "traffic", target: str | None = None) -> Probe:
    asked = text or f"w{number} of own{number}"
    return Probe(f"{kind} {number}", asked, target or asked, kind, None, "train")


PROBES = [probe(number) for number in range(30)]
CANDIDATES = np.array([[number, number + 1, number + 2, (number + 20) % 40] for number in range(30)])
CELLS = len(PROBES) * (CANDIDATES.shape[1] + IRRELEVANT)


def scorer(
    generator: FakeGenerator,
    cache: ScoreCache,
    documents: Sequence[str] = DOCUMENTS,
    corpus: int | None = None,
    config: GeneratorConfig = CONFIG,
    account: Account | None = None,
) -> LanguageModelScorer:
    size = len(documents) if corpus is None else corpus
    return LanguageModelScorer(documents, size, generator, cache, config, account)


def ask(
    generator: FakeGenerator,
    cache: ScoreCache,
    probes: Sequence[Probe] = PROBES,
    candidates: NDArray[np.int64] = CANDIDATES,
    **more: object,
) -> NDArray[np.float32]:
    """One pass, with a scorer of its own."""
    return scorer(generator, cache, **more).gains(probes, candidates)  # type: ignore[arg-type]


def pair(probe: Probe, document: str, room: int = 64, limit: int = LIMIT) -> Pair:
    made = prompt(document, probe)
    pieces = [ids(piece) for piece in (made.head, made.document, made.tail, made.target)]
    return lay_out([BEGIN], *pieces, room, limit)


def read(generator: FakeGenerator, probes: Sequence[Probe], documents: Sequence[str] = DOCUMENTS) -> list[set[int]]:
    """Rows of the documents that the generator was asked about, for each probe."""
    asked = set(generator.pairs)
    rows: list[dict[Frozen, int]] = [{frozen(pair(p, text)): row for row, text in enumerate(documents)} for p in probes]
    return [{row for key, row in of_probe.items() if key in asked} for of_probe in rows]


def irrelevant(
    probes: Sequence[Probe], candidates: NDArray[np.int64], documents: Sequence[str] = DOCUMENTS
) -> list[set[int]]:
    """Rows of the irrelevant documents of each probe, each probe asked alone."""
    alone = [scorer(FakeGenerator(), Forgetful(), documents) for _ in probes]  # type: ignore[arg-type]
    rows = [one._irrelevant([each], own[None])[0] for one, each, own in zip(alone, probes, candidates, strict=True)]
    return [set(row.tolist()) for row in rows]


class Forgetful:
    """A cache for a scorer that is never asked."""

    def latest(self, name: str) -> None:
        return None


# gains --------------------------------------------------------------------------------------------


def test_gains_are_those_of_the_formula(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    found = ask(generator, cache)
    assert found.dtype == np.float32
    documents = read(generator, PROBES)
    for row, each in enumerate(PROBES):
        others = documents[row] - set(CANDIDATES[row].tolist())
        assert len(others) == IRRELEVANT
        without = np.mean([generator.likelihood(pair(each, DOCUMENTS[other])) for other in others], axis=0)
        for column, candidate in enumerate(CANDIDATES[row]):
            told = generator.likelihood(pair(each, DOCUMENTS[candidate]))
            np.testing.assert_allclose(found[row, column], (told - without).clip(-3, 3).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["question", "title", "span"])
def test_each_kind_of_probe_is_worded_in_its_own_way(cache: ScoreCache, kind: ProbeKind) -> None:
    ask(FakeGenerator(), cache)
    generator = FakeGenerator()
    ask(generator, cache, [replace(each, kind=kind) for each in PROBES])
    assert len(generator.pairs) == (0 if kind == "question" else CELLS)  # a written question is asked like a user's


def test_a_query_that_is_no_target_is_part_of_what_is_read(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    ask(generator, cache, [probe(1, "one query", target="w1 of own1")], CANDIDATES[:1])
    before = len(generator.pairs)
    ask(generator, cache, [probe(1, "other query", target="w1 of own1")], CANDIDATES[:1])
    assert len(generator.pairs) == before + 4 + IRRELEVANT
    contexts = [context for context, _ in generator.pairs]
    assert all(set(ids("one query")) <= set(context) for context in contexts[:6])


@pytest.mark.parametrize(("window", "batch"), [(1, 1), (7, 3), (10_000, 64), (10_000, 10_000)])
def test_gains_do_not_depend_on_the_order_of_the_answers(tmp_path: Path, window: int, batch: int) -> None:
    one, two = ScoreCache(tmp_path / "one.db"), ScoreCache(tmp_path / "two.db")
    expected = ask(FakeGenerator(), one)
    np.testing.assert_array_equal(ask(FakeGenerator(window=window, batch=batch), two), expected)
    one.close()
    two.close()


def test_long_texts_are_cut_to_what_the_settings_and_the_model_take(cache: ScoreCache) -> None:
    documents = [f"{text} " + "long " * 500 for text in DOCUMENTS]
    probes = [probe(0, "much " * 300)]
    generator = FakeGenerator()
    ask(generator, cache, probes, CANDIDATES[:1], documents=documents)
    assert {len(target) for _, target in generator.pairs} == {wording.TARGET_TOKENS}
    assert {len(context) for context, _ in generator.pairs} == {64 + 3}  # begin, "Passage:", "Question:"
    small = FakeGenerator("small", limit=50)
    ask(small, cache, probes, CANDIDATES[:1], documents=documents)
    assert {(len(context), len(target)) for context, target in small.pairs} == {(25, 25)}


def test_without_probes_nothing_is_asked(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    assert ask(generator, cache, [], np.empty((0, 4), dtype=np.int64)).shape == (0, 4)
    assert (generator.pairs, generator.canaries) == ([], 0)


# each pair once -----------------------------------------------------------------------------------


def test_no_pair_is_asked_for_twice_within_a_pass(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    probes = [probe(number) for number in range(300)]
    candidates = np.random.default_rng(0).integers(0, 40, size=(300, 5))
    ask(generator, cache, probes, candidates)
    needed = generator.pairs[: -min(NOISE_PAIRS, 300 * 7)]
    assert max(Counter(needed).values()) == 1
    assert len(cache) == len(needed) == len(set(generator.pairs))
    assert generator.canaries == 1


def test_the_next_pass_asks_for_nothing_not_even_the_canary(cache: ScoreCache) -> None:
    expected = ask(FakeGenerator(), cache)
    generator = FakeGenerator()
    np.testing.assert_array_equal(ask(generator, cache), expected)
    assert (generator.pairs, generator.canaries, generator.encoded) == ([], 0, 0)


def test_the_next_pass_asks_for_nothing_in_whatever_order_the_probes_come(cache: ScoreCache) -> None:
    expected = ask(FakeGenerator(), cache)
    generator, order = FakeGenerator(), np.random.default_rng(0).permutation(30)
    found = ask(generator, cache, [PROBES[row] for row in order], CANDIDATES[order])
    np.testing.assert_array_equal(found, expected[order])
    assert (generator.pairs, generator.canaries) == ([], 0)


def test_a_scorer_that_is_asked_again_asks_for_what_is_new_and_for_one_canary(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    one = scorer(generator, cache)
    first = one.gains(PROBES[:10], CANDIDATES[:10])
    both = one.gains(PROBES, CANDIDATES)
    np.testing.assert_array_equal(both[:10], first)
    assert len(set(generator.pairs)) == CELLS
    assert len(generator.pairs) == CELLS + 10 * 6  # the first pairs twice, for the noise
    assert generator.canaries == 1


def test_duplicates_are_asked_for_once(cache: ScoreCache) -> None:
    documents = [*DOCUMENTS, *DOCUMENTS]
    candidates = np.array([[0, 1, 2, 3], [40, 41, 42, 43], [3, 2, 1, 40], [0, 40, 1, 41]])
    probes = [probe(f"{row}", "the same target") for row in range(4)]
    generator = FakeGenerator(window=10_000)
    found = ask(generator, cache, probes, candidates, documents=documents)
    assert max(Counter(generator.pairs[: -4 * 6]).values()) == 1
    told = read(generator, probes[:1])[0]
    assert {0, 1, 2, 3} <= told
    assert len(told) <= 4 + 4 * IRRELEVANT
    assert found[0, 0] - found[0, 1] == pytest.approx(found[1, 0] - found[1, 1], abs=1e-5)
    np.testing.assert_allclose(found[3, [0, 2]], found[3, [1, 3]])


def test_duplicates_far_apart_are_asked_for_once(cache: ScoreCache) -> None:
    probes = [probe(f"{row}", f"target number{row % 100}") for row in range(200)]
    candidates = np.stack([np.arange(4) + row % 100 % 30 for row in range(200)])
    generator = FakeGenerator(window=10_000)
    ask(generator, cache, probes, candidates)
    assert max(Counter(generator.pairs[:-NOISE_PAIRS]).values()) == 1


def test_duplicates_are_asked_for_once_though_they_are_many(cache: ScoreCache) -> None:
    probes = [probe(f"{row}", "the same target") for row in range(200)]
    candidates = np.tile(np.arange(4), (200, 1))
    generator = FakeGenerator(window=10_000)
    ask(generator, cache, probes, candidates)
    needed = generator.pairs[:-NOISE_PAIRS]
    assert len(needed) == len(set(needed))


def test_probes_of_one_target_and_other_wordings_are_told_apart(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    probes = [probe(1, "one text", kind) for kind in ("traffic", "title", "span")]
    found = ask(generator, cache, probes, CANDIDATES[[0, 0, 0]])
    assert len({tuple(row) for row in found.tolist()}) == 3


# what makes an answer another one -----------------------------------------------------------------


def test_a_new_wording_is_asked_for_anew(cache: ScoreCache, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(FakeGenerator(), cache)
    other = replace(wording.QUESTION, name="question/2")
    monkeypatch.setattr(wording, "TEMPLATES", {**wording.TEMPLATES, "traffic": other})
    generator = FakeGenerator()
    ask(generator, cache)
    assert len(generator.pairs) == CELLS


@pytest.mark.parametrize(
    ("before", "context", "after"), [(4096, 65, 4096), (LIMIT, 64, LIMIT - 1), (200, 65, 200), (200, 64, 199)]
)
def test_another_length_is_asked_for_anew(cache: ScoreCache, before: int, context: int, after: int) -> None:
    ask(FakeGenerator(limit=before), cache)
    generator = FakeGenerator(limit=after)
    ask(generator, cache, config=CONFIG.model_copy(update={"context": context}))
    assert len(set(generator.pairs)) == CELLS


def test_a_longer_limit_than_is_used_changes_nothing(cache: ScoreCache) -> None:
    ask(FakeGenerator(limit=LIMIT), cache)
    generator = FakeGenerator(limit=LIMIT + 1)
    ask(generator, cache)
    assert generator.pairs == []


def test_another_name_is_another_model(cache: ScoreCache) -> None:
    ask(FakeGenerator("one"), cache)
    generator = FakeGenerator("two")
    ask(generator, cache)
    assert len(set(generator.pairs)) == CELLS


def test_another_text_of_a_document_is_asked_for_anew(cache: ScoreCache) -> None:
    ask(FakeGenerator(), cache)
    generator = FakeGenerator()
    new = "z" * len(DOCUMENTS[5])  # no longer, nor shorter: the same ones are irrelevant
    documents = [*DOCUMENTS[:5], new, *DOCUMENTS[6:]]
    ask(generator, cache, documents=documents)
    held = int((CANDIDATES == 5).sum())
    assert held <= len(generator.pairs) <= CELLS // 2
    assert all(5 in rows for rows in read(generator, PROBES, documents) if rows)


def test_another_model_under_the_same_name_is_asked_for_everything_as_soon_as_it_is_asked_for_anything(
    cache: ScoreCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask(FakeGenerator(), cache, PROBES[:-1], CANDIDATES[:-1])
    assert not caplog.records
    generator = FakeGenerator(seed=1)
    found = ask(generator, cache)
    assert len(set(generator.pairs)) == CELLS
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    alone = ScoreCache(tmp_path / "alone.db")
    np.testing.assert_array_equal(found, ask(FakeGenerator(seed=1), alone))
    alone.close()

    back = FakeGenerator()  # and the first model's answers are still there
    ask(back, cache, [*PROBES, probe("new")], np.concatenate([CANDIDATES, CANDIDATES[:1]]))
    assert len(back.pairs) == 2 * (4 + IRRELEVANT)
    assert back.canaries == 1


# failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [1, 2, 6, 13])
def test_what_was_answered_before_a_failure_is_kept_and_the_next_run_asks_for_the_rest(
    cache: ScoreCache, tmp_path: Path, batches: int
) -> None:
    dying = FakeGenerator(fails_after=1 + batches)  # the canary is one
    with pytest.raises(GeneratorError, match="gone"):
        ask(dying, cache)
    assert len(cache) == 8 * batches
    generator = FakeGenerator()
    found = ask(generator, cache)
    needed = generator.pairs[: -min(NOISE_PAIRS, CELLS)]
    assert len(needed) == CELLS - 8 * batches
    alone = ScoreCache(tmp_path / "alone.db")
    np.testing.assert_array_equal(found, ask(FakeGenerator(), alone))
    alone.close()


def test_a_failure_before_the_first_answer_leaves_nothing_behind(cache: ScoreCache) -> None:
    with pytest.raises(GeneratorError, match="gone"):
        ask(FakeGenerator(fails_after=0), cache)
    assert len(cache) == 0
    assert cache.latest("fake") is None


def mute_about(*words: str) -> Callable[[Pair], bool]:
    told = {id for word in words for id in ids(word)}
    return lambda pair: not told.isdisjoint(pair[0])


def test_a_pair_without_an_answer_has_no_gain_and_the_others_have(cache: ScoreCache) -> None:
    generator = FakeGenerator(mute=mute_about("own3"))
    account = Account()
    found = ask(generator, cache, account=account)
    silent = CANDIDATES == 3
    assert np.isneginf(found[silent]).all()
    assert np.isfinite(found[~silent]).all()
    assert account.unanswered == sum(3 in rows for rows in read(generator, PROBES)) > 0
    assert len(cache) == CELLS - account.unanswered


def test_a_pair_without_an_answer_is_not_asked_for_again_by_the_same_scorer(cache: ScoreCache) -> None:
    generator = FakeGenerator(mute=mute_about("own3"))
    one = scorer(generator, cache)
    first = one.gains(PROBES, CANDIDATES)
    before = len(generator.pairs)
    np.testing.assert_array_equal(one.gains(PROBES, CANDIDATES), first)
    assert len(generator.pairs) == before


def test_a_pair_without_an_answer_is_not_asked_for_again_with_new_candidates(cache: ScoreCache) -> None:
    generator = FakeGenerator(mute=mute_about("own3"))
    one = scorer(generator, cache)
    one.gains(PROBES, CANDIDATES)
    silent = {pair for pair in generator.pairs if generator._mute((list(pair[0]), list(pair[1])))}
    del generator.pairs[:]
    one.gains(PROBES, (CANDIDATES + 5) % 40)
    assert generator.pairs
    assert silent
    assert silent.isdisjoint(generator.pairs)


@pytest.mark.parametrize(("silent", "broken"), [(6, False), (7, True)])
def test_more_than_a_tenth_without_an_answer_means_that_the_model_is_broken(
    cache: ScoreCache, silent: int, broken: bool
) -> None:
    muted = {frozen(pair(PROBES[row], DOCUMENTS[CANDIDATES[row, 0]])) for row in range(silent)}
    generator = FakeGenerator(mute=lambda pair: frozen(pair) in muted)
    if broken:
        with pytest.raises(GeneratorError, match=r"fake has no likelihood \(NaN or none\) for 7 of 60 texts.*bfloat16"):
            ask(generator, cache, PROBES[:10], CANDIDATES[:10])
        assert len(cache) == 53  # what it did answer is kept
    else:
        assert np.isneginf(ask(generator, cache, PROBES[:10], CANDIDATES[:10])).sum() == 6


def test_a_few_pairs_without_an_answer_do_not_break_the_next_pass(cache: ScoreCache) -> None:
    mute = mute_about("own3")
    first = ask(FakeGenerator(mute=mute), cache)
    np.testing.assert_array_equal(ask(FakeGenerator(mute=mute), cache), first)


def test_pairs_without_an_answer_are_counted_over_all_scorers_of_a_pass(cache: ScoreCache) -> None:
    silent = mute_about("own3", "own25")
    generator, account = FakeGenerator(mute=silent), Account()
    counts = []
    for half in (slice(15), slice(15, 30)):
        ask(generator, cache, PROBES[half], CANDIDATES[half], account=account)
        counts.append(account.unanswered)
    asked = [pair for pair in set(generator.pairs) if silent((list(pair[0]), list(pair[1])))]
    assert 0 < counts[0] < counts[1] == len(asked)


def test_a_model_without_a_likelihood_for_plain_english_is_refused(cache: ScoreCache) -> None:
    with pytest.raises(GeneratorError, match=r"fake has no likelihood \(NaN\) for plain English.*float32"):
        ask(FakeGenerator(mute=lambda pair: True), cache)
    assert cache.latest("fake") is None


def test_a_model_that_takes_too_few_tokens_is_refused(cache: ScoreCache) -> None:
    with pytest.raises(GeneratorError, match="fake takes 15 tokens; at least 16 are needed"):
        scorer(FakeGenerator(limit=15), cache)
    assert np.isfinite(ask(FakeGenerator(limit=16), cache)).all()


def test_the_canary_fits_into_any_model(cache: ScoreCache) -> None:
    asked: list[Pair] = []
    for limit in (16, 17, 4096):
        generator = FakeGenerator(f"m{limit}", limit=limit, mute=lambda pair: bool(asked.append(pair)))
        assert identify(generator, cache).name == f"m{limit}"
    canary = ids(CANARY)
    assert asked == [([BEGIN, *canary][:half], canary[:half]) for half in (8, 8, 2048)]


def test_without_settings_there_is_no_generator() -> None:
    assert open_language_model(GeneratorConfig()) is None


# irrelevant documents -----------------------------------------------------------------------------


def test_irrelevant_documents_are_never_candidates_and_never_passages(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    probes = [probe(number) for number in range(100)]
    candidates = np.stack([np.random.default_rng(row).permutation(40)[:20] for row in range(100)])
    documents = [*DOCUMENTS, *(f"passage {number}" for number in range(40))]
    ask(generator, cache, probes, candidates, documents=documents, corpus=40)
    for row, rows in enumerate(read(generator, probes, documents)):
        others = rows - set(candidates[row].tolist())
        assert len(others) == IRRELEVANT
        assert max(others) < 40


def test_irrelevant_documents_are_the_same_for_a_probe_whatever_else_is_asked() -> None:
    together = scorer(FakeGenerator(), Forgetful())._irrelevant(PROBES, CANDIDATES)  # type: ignore[arg-type]
    alone = irrelevant(PROBES, CANDIDATES)
    assert alone == [set(row.tolist()) for row in together]
    assert len({tuple(sorted(rows)) for rows in alone}) > 15  # and not the same for all


@pytest.mark.parametrize("size", [200, 3000])
def test_irrelevant_documents_are_about_as_long_as_the_candidates(size: int) -> None:
    documents = ["short text" if number % 2 else "long text " * 40 for number in range(size)]
    probes = [probe(number) for number in range(100)]
    for parity in (0, 1):
        candidates = np.stack([np.arange(8) * 2 + parity + 20 * (row % 5) for row in range(100)])
        for rows in irrelevant(probes, candidates, documents):
            assert {row % 2 for row in rows} == {parity}


def test_one_long_candidate_does_not_make_irrelevant_documents_longer() -> None:
    length = [0, 0, 0, 0, 0, 0, 20, 20, 20, 80]
    documents = [f"text {'more ' * length[number % 10]}" for number in range(300)]
    for rows in irrelevant(
        PROBES, np.tile([0, 1, 2, 9], (30, 1)), documents
    ):  # on average as long as the middling ones
        assert {length[row % 10] for row in rows} == {0}


@pytest.mark.parametrize("size", [20, 100, 300])
def test_irrelevant_documents_come_from_all_of_the_corpus(size: int) -> None:
    """As often from its beginning as from its end: of four quarters each is drawn about a fourth of the time."""
    documents = ["text"] * size
    found = irrelevant([probe(number) for number in range(400)], np.tile(np.arange(4), (400, 1)), documents)
    rows = np.array([row for rows in found for row in rows if row >= 4])
    quarters = np.bincount((rows - 4) * 4 // (size - 4), minlength=4) / len(rows)
    assert (np.abs(quarters - 0.25) < 0.08).all()


def test_irrelevant_documents_are_different_ones_in_a_large_corpus_too() -> None:
    documents = [f"text {'x' * (number % 97)}" for number in range(1024)]
    found = irrelevant([probe(number) for number in range(1000)], np.tile(np.arange(4), (1000, 1)), documents)
    assert {len(rows) for rows in found} == {IRRELEVANT}


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_with_too_few_documents_candidates_must_do(cache: ScoreCache, size: int) -> None:
    candidates = np.tile(np.arange(min(size, 4)), (30, 1))
    found = ask(FakeGenerator(), cache, PROBES, candidates, documents=DOCUMENTS[:size])
    assert np.isfinite(found).all()


# noise --------------------------------------------------------------------------------------------


def test_noise_is_measured_over_200_pairs_once_for_a_model(cache: ScoreCache) -> None:
    generator, account = FakeGenerator(noise=0.25), Account()
    probes = [probe(number) for number in range(60)]
    candidates = np.stack([np.arange(4) + row % 30 for row in range(60)])
    ask(generator, cache, probes, candidates, account=account)
    often = Counter(generator.pairs)
    assert sorted(Counter(often.values()).items()) == [(1, 360 - NOISE_PAIRS), (2, NOISE_PAIRS)]
    assert account.floor == pytest.approx(0.25, rel=1e-4)

    again, account = FakeGenerator(noise=0.25), Account()
    ask(again, cache, [probe(number) for number in range(90)], np.tile(np.arange(4), (90, 1)), account=account)
    assert max(Counter(again.pairs).values()) == 1
    assert account.floor == pytest.approx(0.25, rel=1e-4)
    other = FakeGenerator("other", noise=0.5)
    ask(other, cache, PROBES, CANDIDATES, account=account)
    assert account.floor == pytest.approx(0.5, rel=1e-4)


def test_noise_is_measured_over_all_pairs_where_there_are_fewer(cache: ScoreCache) -> None:
    generator = FakeGenerator(noise=0.25)
    ask(generator, cache, PROBES[:5], CANDIDATES[:5])
    assert Counter(Counter(generator.pairs).values()) == {2: 5 * 6}


def test_noise_is_the_root_mean_square_of_the_differences(cache: ScoreCache) -> None:
    account = Account()

    class Uneven(FakeGenerator):
        def _answer(self, pair: Pair) -> NDArray[np.float32] | None:
            first = self._often[frozen(pair)] == 0
            moved = 0.0 if first else (0.3 if pair[0][-1] % 2 else -0.4)
            answer = super()._answer(pair)
            return None if answer is None else answer + np.float32(moved)

    def twice(pair: Pair) -> bool:
        return pair[0][-1] % 2 == 1

    generator = Uneven()
    probes = [probe(number, f"ask{number}", target=f"w{number} of own{number}") for number in range(30)]
    ask(generator, cache, probes, CANDIDATES, account=account)
    measured = [key for key, often in Counter(generator.pairs).items() if often == 2]
    squares = [0.09 if twice((list(key[0]), list(key[1]))) else 0.16 for key in measured]
    assert 0 < squares.count(0.09) < len(squares)
    assert account.floor == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-3)


def test_differences_below_three_times_the_noise_are_levelled(cache: ScoreCache, tmp_path: Path) -> None:
    quiet = ScoreCache(tmp_path / "quiet.db")
    exact = ask(FakeGenerator(), quiet)
    quiet.close()
    levelled = ask(FakeGenerator(noise=0.05), cache)
    gap = FLOORS * 0.05
    assert (np.abs(np.diff(np.sort(exact, axis=1))) < gap * 0.99).any()
    assert (np.abs(np.diff(np.sort(exact, axis=1))) > gap * 1.01).any()
    steps = np.diff(np.sort(levelled, axis=1))
    assert ((steps == 0) | (steps > gap * 0.99)).all()
    np.testing.assert_allclose(levelled.sum(axis=1), exact.sum(axis=1), atol=1e-4)
    np.testing.assert_array_equal(ask(FakeGenerator(noise=0.05), cache), levelled)  # in the next pass too


def test_noise_is_not_the_difference_between_two_models(cache: ScoreCache) -> None:
    dying = FakeGenerator(fails_after=1 + -(-CELLS // 8))  # it answers what is needed, and is gone
    with pytest.raises(GeneratorError, match="gone"):
        ask(dying, cache)
    account = Account()
    ask(FakeGenerator(seed=1), cache, account=account)
    assert account.floor == 0.0


# account, progress, time, memory ------------------------------------------------------------------


def test_the_account_says_what_was_needed_and_what_was_asked_for(cache: ScoreCache) -> None:
    account, generator = Account(), FakeGenerator()
    ask(generator, cache, PROBES[:20], CANDIDATES[:20], account=account)
    assert (account.pairs, account.asked, account.unanswered) == (120, 120, 0)
    assert account.tokens == sum(len(context) + len(target) for context, target in set(generator.pairs))
    assert account.seconds > 0
    ask(FakeGenerator(), cache, account=account)
    assert (account.pairs, account.asked) == (120 + CELLS, CELLS)
    before = replace(account)
    ask(FakeGenerator(), cache, account=account)
    assert account == replace(before, pairs=before.pairs + CELLS)


def told_by(cache: ScoreCache, probes: Sequence[Probe], candidates: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    scorer(FakeGenerator(), cache).gains(probes, candidates, lambda *what: told.append(what))
    return told


def test_progress_is_told_of_pairs_to_ask_for_and_ends_at_their_number(cache: ScoreCache) -> None:
    told = told_by(cache, PROBES[:10], CANDIDATES[:10])
    assert told[0] == ("score", 0, 60)
    assert told[-1] == ("score", 60, 60)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    told = told_by(cache, PROBES, CANDIDATES)
    assert (told[0], told[-1]) == (("score", 0, CELLS - 60), ("score", CELLS - 60, CELLS - 60))
    assert told_by(cache, PROBES, CANDIDATES) == []


def test_progress_ends_though_many_probes_share_their_pairs(cache: ScoreCache) -> None:
    probes = [probe(f"{row}", "the same target") for row in range(200)]
    _, done, total = told_by(cache, probes, np.tile(np.arange(4), (200, 1)))[-1]
    assert done == total


def test_a_trial_tells_the_rate_and_its_answers_are_kept(cache: ScoreCache) -> None:
    generator, account = FakeGenerator(), Account()
    rate = scorer(generator, cache, account=account).time(PROBES[:4], CANDIDATES[:4])
    assert rate == pytest.approx(account.tokens / account.seconds)
    assert len(generator.pairs) == len(cache) == 16
    model = cache.latest("fake")
    assert model is not None
    assert (model.rate, model.floor) == (pytest.approx(rate), None)
    after = FakeGenerator()
    ask(after, cache)
    assert len(set(after.pairs)) - NOISE_PAIRS < CELLS - 16 <= len(after.pairs) - min(NOISE_PAIRS, CELLS)


def test_a_pass_remembers_how_fast_the_model_was(cache: ScoreCache) -> None:
    account = Account()
    ask(FakeGenerator(), cache, account=account)
    model = cache.latest("fake")
    assert model is not None
    assert model.rate == pytest.approx(account.tokens / account.seconds)


def test_each_text_is_tokenised_once(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    ask(generator, cache)
    assert generator.encoded == len(DOCUMENTS) + len(PROBES) + 2 + 1  # with head and tail, and the canary


def test_texts_are_tokenised_many_at_once(cache: ScoreCache) -> None:
    generator = FakeGenerator()
    ask(generator, cache)
    assert generator.encodings <= CELLS / 20


def test_tokenised_texts_are_not_remembered_without_bound(
    cache: ScoreCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = ScoreCache(tmp_path / "roomy.db")
    expected = ask(FakeGenerator(), roomy)
    roomy.close()
    monkeypatch.setattr(likelihood, "_REMEMBERED", 6)
    one = scorer(FakeGenerator(), cache)
    np.testing.assert_array_equal(one.gains(PROBES, CANDIDATES), expected)
    assert len(one._remembered) <= 6
