from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragself.adapters.protocol import normalise
from ragself.errors import GeneratorError
from ragself.lm.prompts import QUESTION_TOKENS, WRITINGS, Writing
from ragself.lm.score_cache import ScoreCache
from ragself.probes import questions
from ragself.probes.questions import LOOKALIKES, TOP, Question, Questions, keep_found, plan, write
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Probe
from tests.unit.fake_generator import FakeGenerator, ids

ASK, SEARCH = (writing.name for writing in WRITINGS)
FILLER = "some words so that the passage is long enough to be worth a question"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ScoreCache]:
    cache = ScoreCache(tmp_path / "scores.db")
    yield cache
    cache.close()


def chunk(number: int, source: str | None = None) -> Chunk:
    return Chunk(f"c{number}", f"thing{number} has {FILLER}", {"source": source or f"s{number}"})


def about(document: str, wording: str = ASK) -> str:
    """A question with the name of the thing that a document is about, unlike those about other things."""
    name, way = document.split()[0], wording.replace("/", "")
    return f"What{way} {name} does{name} and why{name}{way} now?"


def asking(count: int = 3, **more: object) -> tuple[list[Chunk], FakeGenerator]:
    return [chunk(number) for number in range(count)], FakeGenerator(written=about, **more)  # type: ignore[arg-type]


# which chunks -------------------------------------------------------------------------------------


def test_one_question_a_chunk_is_planned_of_as_many_documents_as_there_are() -> None:
    chunks = [chunk(number, f"document {number % 10}") for number in range(60)]
    jobs = plan(chunks, 25)
    assert len(jobs) == len({each.id for each, _ in jobs}) == 25
    assert {writing.name for _, writing in jobs} == {ASK}
    assert sorted(Counter(each.source for each, _ in jobs).values()) == [2] * 5 + [3] * 5
    assert len({each.source for each, _ in jobs[:10]}) == 10


def test_a_document_of_many_chunks_does_not_crowd_out_the_others() -> None:
    chunks = [*(chunk(number, "huge") for number in range(200)), *(chunk(200 + number) for number in range(5))]
    assert Counter(each.source for each, _ in plan(chunks, 8)) == {"huge": 3, **{f"s{200 + n}": 1 for n in range(5)}}


def test_a_chunk_is_asked_about_in_two_ways_only_where_there_are_too_few_chunks() -> None:
    chunks = [chunk(number) for number in range(10)]
    jobs = plan(chunks, 14)
    assert [writing.name for _, writing in jobs] == [ASK] * 10 + [SEARCH] * 4
    assert {each.id for each, _ in jobs[:10]} == {each.id for each in chunks}
    assert [each for each, _ in jobs[10:]] == [each for each, _ in jobs[:4]]
    assert len(plan(chunks, 1000)) == 20
    assert plan(chunks, 0) == plan([], 5) == []


def test_chunks_of_few_words_are_not_asked_about() -> None:
    eleven, twelve = (Chunk(name, " ".join(f"word{n}" for n in range(int(name)))) for name in ("11", "12"))
    assert plan([eleven, twelve], 5) == [(twelve, writing) for writing in WRITINGS]


CORPORA = st.lists(st.integers(0, 12), min_size=1, max_size=40).map(
    lambda sources: [chunk(number, f"document {source}") for number, source in enumerate(sources)]
)


@given(CORPORA, st.integers(0, 60), st.randoms())
@settings(deadline=None)
def test_a_plan_does_not_depend_on_the_order_of_the_corpus(chunks: list[Chunk], count: int, draw: object) -> None:
    shuffled = list(chunks)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(shuffled, count) == plan(chunks, count)


@given(CORPORA, st.integers(0, 30), st.integers(1, 30))
@settings(deadline=None)
def test_a_plan_stays_when_the_corpus_grows(chunks: list[Chunk], count: int, more: int) -> None:
    """New documents push out what comes last, and no more than that."""
    before = plan(chunks, count)
    after = plan([*chunks, *(chunk(100 + number) for number in range(more))], count)
    stayed = [job for job in after if job[0] in chunks]
    assert stayed == before[: len(stayed)]
    assert len(after) >= len(before)


@given(CORPORA, st.integers(1, 30))
@settings(deadline=None)
def test_a_plan_for_more_questions_begins_with_the_plan_for_fewer(chunks: list[Chunk], count: int) -> None:
    assert plan(chunks, count + 7)[:count] == plan(chunks, count)


# what is made of what was written -----------------------------------------------------------------

TEXT = "The harbour master closes the gate at nine in the evening, and on Sundays he does not open it at all."
GOOD = "When may ships leave the port?"


def written(cache: ScoreCache, text: str | None, document: str = TEXT) -> Questions:
    return write([Chunk("own", document)], 1, FakeGenerator(written=lambda *_: text), cache)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  {GOOD}\n",
        f"\n\n{GOOD}\n\nThis asks for the time.",
        f"Question: {GOOD}",
        f"question : {GOOD}",
        f"Q: {GOOD}",
        f"Q1: {GOOD}",
        f"Question 1: {GOOD}",
        f"1. {GOOD}\n2. Another?",
        f"1) {GOOD}",
        f"- {GOOD}",
        f"* {GOOD}",
        f"**{GOOD}**",
        f"**Question:** {GOOD}",
        f"## {GOOD}",
        f"> {GOOD}",
        f"`{GOOD}`",
        f'"{GOOD}"',
        f"“{GOOD}”",
        f"„{GOOD}“",
        f"« {GOOD} »",
        f'Question: "{GOOD}"',
        "When may  ships\tleave the port?",
        f"{GOOD}\ufffd",  # a character that was cut in two at the last token
        f"<think>\nWhat might one ask?\n</think>\n\n{GOOD}",
        f"<think></think>{GOOD}",
        f"<think>one</think><think>two</think>{GOOD}",
    ],
)
def test_a_question_is_found_in_what_was_written(cache: ScoreCache, text: str) -> None:
    assert written(cache, text) == Questions((Question(GOOD, "own"),), {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "question of fewer than three words"),
        ("", "question of fewer than three words"),
        (" \n\n ", "question of fewer than three words"),
        ("What now?", "question of fewer than three words"),
        ("?!... *** ---", "question of fewer than three words"),
        ("<think>When may ships leave the port? I must not say", "question of fewer than three words"),
        ("<think>When may ships leave the port?\n", "question of fewer than three words"),
        (" ".join(f"word{number}" for number in range(41)), "question of more than forty words"),
        ("The Harbour master closes the gate?", "question that its source holds word for word"),
        ("**the gate at nine**", "question that its source holds word for word"),
    ],
)
def test_what_is_no_question_of_its_own_is_dropped_by_reason(cache: ScoreCache, text: str | None, reason: str) -> None:
    assert written(cache, text) == Questions((), {reason: 1})


@pytest.mark.parametrize(
    "text", ["Why is that?", " ".join(f"word{number}" for number in range(40)), "The harbour master closes a gate?"]
)
def test_what_is_barely_a_question_is_kept(cache: ScoreCache, text: str) -> None:
    assert [question.text for question in written(cache, text).questions] == [text]


@pytest.mark.parametrize(
    "text",
    [
        "Q-learning differs from SARSA in what way?",
        "3.5 mm plugs fit which sockets?",
        "401-403 are sent in which cases?",
    ],
)
def test_the_first_word_of_a_question_is_not_taken_for_a_label(cache: ScoreCache, text: str) -> None:
    assert [question.text for question in written(cache, text).questions] == [text]


@pytest.mark.parametrize("label", ["Search query:", "Search:", "Query:", "**Search query:**"])
def test_the_label_of_a_search_is_cut_off(cache: ScoreCache, label: str) -> None:
    assert [question.text for question in written(cache, f"{label} {GOOD}").questions] == [GOOD]


def test_a_thought_that_began_in_the_prompt_is_cut_off_too(cache: ScoreCache) -> None:
    text = f"Okay, the user wants a question about it.\n</think>\n\n{GOOD}"
    assert [question.text for question in written(cache, text).questions] == [GOOD]


def test_only_the_beginning_of_a_long_chunk_is_shown(cache: ScoreCache) -> None:
    generator = FakeGenerator(written=lambda *_: GOOD)
    document = "long words " * 1000
    write([Chunk("own", document)], 1, generator, cache)
    assert generator.writes == [(document[:3000], ASK)]


@pytest.mark.parametrize("writing", WRITINGS, ids=lambda writing: writing.name)
@pytest.mark.parametrize("limit", [200, 300, 400])
def test_a_long_chunk_leaves_room_for_the_instruction_and_the_answer(
    cache: ScoreCache, writing: Writing, limit: int
) -> None:
    generator = FakeGenerator(limit=limit, written=lambda *_: GOOD)
    chunks = [Chunk("long", "many words " * 200), Chunk("short", " ".join(f"w{number}" for number in range(12)))]
    write(chunks, 4, generator, cache)
    shown = [text for text, name in generator.writes if name == writing.name]
    assert [chunks[1].text in text for text in sorted(shown)] == [False, True]
    for text in shown:
        assert len(ids(writing.chat.format(document=text))) + QUESTION_TOKENS + 64 <= limit  # and for a chat template
        assert len(ids(text)) >= 12


def test_a_long_chunk_leaves_room_though_its_beginning_takes_more_tokens_than_its_end(cache: ScoreCache) -> None:
    generator = FakeGenerator(limit=300, written=lambda *_: GOOD)
    write([Chunk("own", "a " * 400 + "very-long-word-after-word " * 80)], 1, generator, cache)
    ((text, _),) = generator.writes
    assert len(ids(WRITINGS[0].chat.format(document=text))) + QUESTION_TOKENS <= 300


def test_questions_belong_to_their_chunks(cache: ScoreCache) -> None:
    chunks, generator = asking(20, batch=3)
    found = write(chunks, 40, generator, cache)
    assert Counter(question.source for question in found.questions) == {each.id: 2 for each in chunks}
    expected = {(about(each.text, wording), each.id) for each in chunks for wording in (ASK, SEARCH)}
    assert {(question.text, question.source) for question in found.questions} == expected
    assert found.dropped == {}
    assert sorted(generator.writes) == sorted((each.text, wording) for each in chunks for wording in (ASK, SEARCH))


def test_a_question_that_was_written_before_is_dropped(cache: ScoreCache) -> None:
    same = lambda document, wording: "What is that, then?" if wording == SEARCH else about(document)
    found = write([chunk(number) for number in range(3)], 6, FakeGenerator(written=same), cache)
    assert len(found.questions) == 4
    assert found.dropped == {"question written before": 2}


def test_of_questions_that_say_nearly_the_same_the_first_is_kept(cache: ScoreCache) -> None:
    base = "how do ships of the line leave port at night"
    endings = {"thing0": "", "thing1": " please", "thing2": " in a storm with all the lights off"}
    generator = FakeGenerator(written=lambda document, wording: base + endings[document.split()[0]])
    chunks = [chunk(number) for number in range(3)]
    found = write(chunks, 3, generator, cache)
    first = next(each.id for each, _ in plan(chunks, 3) if each.id != "c2")
    assert {question.source for question in found.questions} == {first, "c2"}
    assert found.dropped == {"question written before": 1}


def test_without_chunks_or_questions_nothing_is_asked(cache: ScoreCache) -> None:
    chunks, generator = asking()
    assert write([], 5, generator, cache) == write(chunks, 0, generator, cache) == Questions((), {})
    assert (generator.writes, generator.canaries) == ([], 0)


# the cache ----------------------------------------------------------------------------------------


def test_what_was_written_is_not_asked_for_again_nor_is_the_canary(cache: ScoreCache) -> None:
    chunks, generator = asking(6)
    found = write(chunks, 9, generator, cache)
    assert (len(generator.writes), generator.canaries) == (9, 1)
    again = FakeGenerator(written=lambda *_: "something else entirely, is it?")
    assert write(chunks, 9, again, cache) == found
    assert (again.writes, again.canaries) == ([], 0)


def test_what_could_not_be_written_is_not_asked_for_again(cache: ScoreCache) -> None:
    assert written(cache, None) == Questions((), {"question of fewer than three words": 1})
    assert written(cache, GOOD) == Questions((), {"question of fewer than three words": 1})


def test_only_what_is_new_is_asked_for(cache: ScoreCache) -> None:
    chunks, generator = asking(6)
    write(chunks[:4], 4, generator, cache)
    write([chunks[0], *chunks[2:]], 5, generator, cache)
    assert sorted(generator.writes) == sorted((each.text, ASK) for each in chunks)


@pytest.mark.parametrize("what", ["text", "wording", "name", "model"])
def test_another_text_wording_or_model_is_asked_for_anew(
    cache: ScoreCache, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    chunks, generator = asking(4)
    write(chunks, 4, generator, cache)
    generator = FakeGenerator("two" if what == "name" else "fake", seed=int(what == "model"), written=about)
    if what == "text":
        chunks = [Chunk(each.id, f"{each.text} more", each.metadata) for each in chunks]
    if what == "wording":
        monkeypatch.setattr(questions, "WRITINGS", (replace(WRITINGS[0], name=ASK.replace("1", "2")), WRITINGS[1]))
    if what == "model":  # which shows as soon as anything is asked for
        chunks.append(chunk(4))
    write(chunks, len(chunks), generator, cache)
    assert sorted(text for text, _ in generator.writes) == sorted(each.text for each in chunks)


def test_what_a_model_has_written_is_still_there_when_it_comes_back(cache: ScoreCache) -> None:
    chunks, generator = asking(4)
    write(chunks, 4, generator, cache)
    write([*chunks, chunk(4)], 5, FakeGenerator(seed=1, written=about), cache)
    back = FakeGenerator(written=about)
    write([*chunks, chunk(5)], 5, back, cache)
    assert back.writes == [(chunk(5).text, ASK)]


def test_what_was_written_before_a_failure_is_kept(cache: ScoreCache) -> None:
    chunks, dying = asking(10, batch=2, fails_after=1 + 3)  # the canary is one
    with pytest.raises(GeneratorError, match="gone"):
        write(chunks, 10, dying, cache)
    generator = FakeGenerator(written=about)
    found = write(chunks, 10, generator, cache)
    assert len(found.questions) == 10
    assert sorted([*generator.writes, *dying.writes]) == sorted((each.text, ASK) for each in chunks)
    assert len(generator.writes) == 4


def told_by(cache: ScoreCache, chunks: Sequence[Chunk], count: int) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    write(chunks, count, FakeGenerator(written=about, batch=2), cache, lambda *what: told.append(what))
    return told


def test_progress_is_told_of_questions_and_ends_at_their_number(cache: ScoreCache) -> None:
    chunks = [chunk(number) for number in range(6)]
    assert told_by(cache, chunks[:3], 3) == [("write questions", done, 3) for done in (1, 3)]
    assert told_by(cache, chunks, 9)[-1] == ("write questions", 9, 9)
    assert told_by(cache, chunks, 9) == []


def test_progress_ends_though_chunks_have_the_same_text(cache: ScoreCache) -> None:
    chunks = [Chunk(f"c{number}", TEXT) for number in range(4)]
    _, done, total = told_by(cache, chunks, 4)[-1]
    assert done == total


# which are found again ----------------------------------------------------------------------------


class Told:
    """A scorer that was told the gains, and keeps what it was asked."""

    name = "told"

    def __init__(self, gains: Sequence[Sequence[float]]) -> None:
        self._gains = np.array(gains, dtype=np.float32)
        self.probes: list[Probe] = []
        self.candidates = np.empty((0, 0), dtype=np.int64)
        self.texts: tuple[list[str], int] = ([], 0)

    def __call__(self, texts: Sequence[str], corpus: int) -> "Told":
        self.texts = (list(texts), corpus)
        return self

    def gains(
        self, probes: Sequence[Probe], candidates: NDArray[np.int64], progress: Progress = silent
    ) -> NDArray[np.float32]:
        progress("score", len(probes), len(probes))
        self.probes, self.candidates = list(probes), candidates
        return self._gains


def some(*sources: int) -> Questions:
    return Questions(tuple(Question(f"what of {source}?", f"c{source}") for source in sources), {"before": 1})


def vectors(count: int) -> NDArray[np.float32]:
    return normalise(np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32))


def test_a_question_is_kept_whose_source_is_among_the_three_that_make_it_likeliest() -> None:
    rows = [
        [0.5, 0.1, 0.2, 0.3, 0.4],
        [0.5, 0.6, 0.7, 0.1, 0.1],
        [0.5, 0.6, 0.7, 0.8, 0.1],
        [0.5, 0.6, 0.7, 0.5, 0.5],
        [-0.5, -0.6, -0.7, -np.inf, -np.inf],
        [-np.inf, -np.inf, -np.inf, -np.inf, -np.inf],
    ]
    chunks = [chunk(number) for number in range(5)]
    found = keep_found(some(0, 1, 2, 3, 4, 0), chunks, vectors(5), Told(rows))
    assert found.questions == some(0, 1, 3, 4).questions
    assert found.checked == 6
    assert found.dropped == {"before": 1, f"question whose source is not in the top {TOP} of its look-alikes": 2}


def test_where_all_are_found_nothing_is_dropped() -> None:
    chunks = [chunk(number) for number in range(5)]
    assert keep_found(some(0, 1), chunks, vectors(5), Told([[1, 0, 0, 0, 0]] * 2)) == replace(some(0, 1), checked=2)


def test_a_question_is_held_against_its_source_and_the_chunks_most_like_it() -> None:
    chunks, base = [chunk(number) for number in range(40)], vectors(40)
    base[7] = base[3]  # a copy of it, as near as itself
    scorer = Told(np.zeros((2, LOOKALIKES + 1)).tolist())
    keep_found(some(3, 20), chunks, base, scorer)
    assert scorer.candidates[:, 0].tolist() == [3, 20]
    for row, source in enumerate((3, 20)):
        others = np.argsort(-(base @ base[source]), kind="stable")
        assert scorer.candidates[row, 1:].tolist() == [other for other in others if other != source][:LOOKALIKES]
    assert scorer.texts == ([each.text for each in chunks], 40)
    assert [(p.text, p.target, p.kind, p.source) for p in scorer.probes] == [
        (f"what of {source}?", f"what of {source}?", "question", f"c{source}") for source in (3, 20)
    ]


def test_the_source_comes_first_though_vectors_are_not_of_length_one() -> None:
    base = np.array([[1, 0], [9, 0], [5, 5]], dtype=np.float32)
    scorer = Told([[0, 0, 0]])
    keep_found(some(0), [chunk(number) for number in range(3)], base, scorer)
    assert scorer.candidates.tolist() == [[0, 1, 2]]


def test_without_questions_nothing_is_scored() -> None:
    nothing = Questions((), {"before": 1})
    assert keep_found(nothing, [], np.empty((0, 8), np.float32), Told([])) is nothing
