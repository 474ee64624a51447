import random
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.config import ProbesConfig
from ragself.corpus.words import words
from ragself.probes.dataset import without
from ragself.probes.probes import Probes, make
from ragself.probes.questions import Question
from ragself.schema import Chunk, Probe

CONFIG = ProbesConfig(traffic=4000, titles=2000, known_items=800, min_train=50)
SENTENCE = "The first sentence has enough words. "
REST = "What follows it says eight different words at the least, or more."


def chunk(number: int, source: str | None = None, title: str | None = None) -> Chunk:
    text = f"{SENTENCE.replace('first', f'sentence{number}')}{REST}"
    return Chunk(f"c{number}", text, {"source": source or f"s{number}", "title": title or f"Title number{number}"})


def corpus(size: int) -> list[Chunk]:
    return [chunk(number) for number in range(size)]


def queries(count: int) -> list[str]:
    """Queries that have nothing in common."""
    draw = random.Random(0)
    return [" ".join("".join(draw.choices("abcdefghij", k=8)) for _ in range(4)) for _ in range(count)]


def overlap(a: str, b: str) -> float:
    one, two = set(words(a)), set(words(b))
    return len(one & two) / len(one | two)


def by_split(probes: Probes) -> Counter[str]:
    return Counter(probe.split for probe in probes.probes)


def test_queries_are_probes_that_ask_for_themselves() -> None:
    (probe,) = make([], ["  what\n is  new? "], CONFIG, 0).probes
    assert (probe.text, probe.target, probe.kind, probe.source) == ("what is new?", "what is new?", "traffic", None)


def test_queries_are_split_four_fifths_and_a_tenth_each() -> None:
    counts = by_split(make([], queries(2000), CONFIG, 0))
    assert sum(counts.values()) == 2000
    assert 1540 < counts["train"] < 1660
    assert 150 < counts["select"] < 250
    assert 150 < counts["confirm"] < 250


def test_texts_that_are_no_probes_are_counted_by_reason() -> None:
    chunks = [
        chunk(0, title="One"),
        chunk(1, title="?!"),
        chunk(2, "a", "Shared title"),
        chunk(3, "b", "shared TITLE"),
        chunk(4, "c", "A good title"),
        chunk(5, "c", "A good title"),
        Chunk("c6", "no title", {"title": "  "}),
    ]
    found = make(chunks, ["what now", "What, now?", "  ", "?", "what now"], CONFIG, 0)
    assert found.dropped == {
        "query without a word": 2,
        "title of fewer than two words": 2,
        "title of several documents": 2,
    }
    assert [probe.source for probe in found.probes if probe.kind == "title"] == ["c4"]


def test_a_query_counts_as_often_as_it_was_asked_up_to_a_cap() -> None:
    config = ProbesConfig(max_weight=3)
    asked = ["what now", "What, now?", "where to", *["how many times"] * 7]
    for form in (asked, Counter(asked)):
        found = make([], form, config, 0)
        weights = {probe.text: probe.weight for probe in found.probes}
        assert weights == {"what now": 2.0, "where to": 1.0, "how many times": 3.0}


def test_what_was_held_out_never_trains_whatever_is_asked_later() -> None:
    first = queries(240)
    later = [f"{query} {extra}" for query in first[::2] for extra in ("please", "now")]
    draw = random.Random(1)
    asked: list[str] = []
    held: set[str] = set()
    for query in draw.sample(first + later, len(first + later)):
        asked.append(query)
        if len(asked) % 60 == 0:
            probes = make([], asked, CONFIG, 0).probes
            assert held <= {probe.text for probe in probes if probe.split == "confirm"}
            held |= {probe.text for probe in probes if probe.split == "confirm"}
            trained = [probe.text for probe in probes if probe.split == "train"]
            assert not [one for one in trained for other in held if overlap(one, other) >= 0.8]
    assert len(held) > 40


def test_caps_are_kept_and_counted() -> None:
    few = ProbesConfig(traffic=100, titles=60, known_items=30, min_train=50)
    found = make(corpus(300), queries(150), few, 0)
    kinds = Counter(probe.kind for probe in found.probes)
    assert kinds["traffic"] == 100
    assert kinds["title"] + kinds["span"] == 30
    assert found.dropped["more queries than probes.traffic"] == 50
    assert found.dropped["more known items than probes.known_items"] == 600 - 30
    found = make(corpus(300), [], few, 0)
    assert Counter(probe.kind for probe in found.probes)["title"] == 60
    assert found.dropped["more titles than probes.titles"] == 240


@pytest.mark.parametrize("count", [0, 20, 200])
def test_known_items_are_capped_and_none_are_trained_on_with_enough_queries(count: int) -> None:
    few = CONFIG.model_copy(update={"known_items": 90})
    probes = make(corpus(500), queries(count), few, 0).probes
    known = [probe for probe in probes if probe.kind != "traffic" and probe.split != "train"]
    trained = {probe.kind for probe in probes if probe.split == "train"}
    assert trained == ({"traffic"} if count == 200 else {"title", "traffic"} if count else {"title"})
    if count == 200:
        assert len(known) == 90
        assert {probe.split for probe in known} == {"select", "confirm"}
    assert not any(probe.kind == "span" and probe.split == "train" for probe in probes)


@pytest.mark.parametrize(
    "text",
    [
        "{body}",
        "{title}{body}",
        "{title} {title}\n{body}",
        "# {title}\n\n{body}",
        "## {title} ##\n{body}",
        "{title}\n\n# {title}\n\n{body}",
        "\n\n # {title}\n\n{body}",
    ],
)
@pytest.mark.parametrize("title", ["Title of four words", "a title that is said twice .", "# Title of four words"])
def test_a_span_is_a_sentence_of_the_text_and_not_its_title(text: str, title: str) -> None:
    made = Chunk("c", text.format(title=title, body=SENTENCE + REST), {"title": title})
    (first,) = [p for p in make([made], [], CONFIG, 0).probes if p.kind == "span" and p.text == SENTENCE.strip()]
    assert first.target == first.text
    assert words(without(made.text, first))[-len(words(REST)) :] == words(REST)


@pytest.mark.parametrize("title", ["Title of four words", "#", None])
def test_nothing_but_a_title_makes_no_span(title: str | None) -> None:
    text = f"{title} {title}" if title else "One sentence of five words."
    made = Chunk("c", text, {"title": title} if title else {})
    assert not [probe for probe in make([made], [], CONFIG, 0).probes if probe.kind == "span"]


def test_with_too_little_to_train_on_everything_judges() -> None:
    probes = make(corpus(20), queries(10), CONFIG, 0).probes
    assert all(probe.split != "train" for probe in probes if probe.kind != "traffic")
    assert {probe.kind for probe in probes} == {"traffic", "title", "span"}


@pytest.mark.parametrize("count", [0, 200])
def test_the_probes_of_one_document_are_in_one_split(count: int) -> None:
    chunks = [chunk(number, f"document {number // 6}") for number in range(600)]
    source_of = {each.id: each.source for each in chunks}
    splits: dict[str, set[str]] = {}
    for probe in make(chunks, queries(count), CONFIG, 0).probes:
        if probe.source is not None:
            splits.setdefault(source_of[probe.source], set()).add(probe.split)
    assert len(splits) == 100
    assert all(len(each) == 1 for each in splits.values())


def test_two_wordings_of_one_question_are_in_one_split() -> None:
    asked = []
    for query in queries(300):
        first, *others = query.split()
        asked += [query, f"{query}?", f"{query} please", " ".join([*others, first]), f"{query} please now"]
    random.Random(1).shuffle(asked)
    probes = make([], asked, CONFIG, 0).probes
    assert len(probes) == 4 * 300
    near = 0
    for a in probes[:100]:
        for b in probes:
            if overlap(a.text, b.text) >= 0.8:
                near += a != b
                assert a.split == b.split
    assert near > 100


def test_the_split_of_a_probe_stays_when_the_corpus_grows() -> None:
    def splits(size: int) -> dict[str, str]:
        return {probe.id: probe.split for probe in make(corpus(size), queries(20), CONFIG, 0).probes}

    before, after = splits(150), splits(400)
    assert set(before) < set(after)
    assert all(after[id] == split for id, split in before.items())


def test_the_split_of_a_query_stays_when_others_are_asked() -> None:
    asked = queries(300)
    before = {probe.text: probe.split for probe in make([], asked[:200], CONFIG, 0).probes}
    after = {probe.text: probe.split for probe in make(corpus(9), [*asked, f"{asked[0]} please"], CONFIG, 0).probes}
    assert all(after[text] == split for text, split in before.items())
    assert after[f"{asked[0]} please"] == before[asked[0]]


def test_probes_are_reproducible_and_the_seed_decides_which_are_taken() -> None:
    few = CONFIG.model_copy(update={"traffic": 50})
    assert make(corpus(99), queries(200), few, 0) == make(corpus(99), queries(200), few, 0)
    assert make([], queries(200), few, 0) != make([], queries(200), few, 1)


def test_a_title_belongs_to_the_first_chunk_that_has_it() -> None:
    chunks = [chunk(0, "a", "A long title"), chunk(1, "a", "A long title"), chunk(2, "a", "Another title")]
    titles = [probe for probe in make(chunks, [], CONFIG, 0).probes if probe.kind == "title"]
    assert sorted((probe.text, probe.source) for probe in titles) == [("A long title", "c0"), ("Another title", "c2")]


def spans(text: str, title: str | None = None, most: int = 800) -> list[str]:
    """What is asked of a chunk that is alone."""
    made = Chunk("c", text, {"title": title} if title else {})
    config = CONFIG.model_copy(update={"known_items": most})
    found = [probe for probe in make([made], [], config, 0).probes if probe.kind == "span"]
    assert all(probe.text == probe.target and probe.text in text for probe in found)  # so that it can be taken out
    return sorted((probe.text for probe in found), key=text.index)


def span(text: str, title: str | None = None) -> str | None:
    """The first of them."""
    found = spans(text, title, 1)
    assert len(found) <= 1
    return found[0] if found else None


def test_few_chunks_have_up_to_three_spans_each_and_many_have_one() -> None:
    sentences = [f"Sentence number {name} has enough words in it." for name in ("one", "two", "three", "four", "five")]
    assert spans(" ".join(sentences)) == sentences[:3]
    assert spans(" ".join(sentences), most=2) == sentences[:2]
    chunks = [Chunk(f"c{number}", f"Text{number}. {' '.join(sentences)}") for number in range(60)]
    for most, each in ((800, 3), (120, 2), (100, 1)):
        config = CONFIG.model_copy(update={"known_items": most})
        found = Counter(probe.source for probe in make(chunks, [], config, 0).probes if probe.kind == "span")
        assert set(found.values()) == {each}


def test_a_span_is_the_first_sentence_of_a_chunk_without_its_title_that_is_long_enough() -> None:
    assert span(f"A title\n\n{SENTENCE}{REST}", "A title") == SENTENCE.strip()
    assert span(f"Too short. {REST} {SENTENCE}", "A title") == REST
    assert span(SENTENCE, "A title") is None
    assert span(f"{SENTENCE}Little follows.", "A title") is None


CODE = '''def resolve(path: Path, *, strict: bool = False) -> Path:
    """Follow links until none is left."""
    seen = {}
    while path.is_symlink() and path not in seen:
        seen[path], path = True, path.parent / os.readlink(path)
    # Whoever links to himself is found here and refused
    return path
'''


def test_a_span_of_code_is_a_comment_and_never_a_signature() -> None:
    found = span(CODE)
    assert found is not None
    assert words(found) == words("Whoever links to himself is found here and refused")
    bare = "\n".join(line for line in CODE.split("\n") if "#" not in line and '"""' not in line)
    assert span(bare) is None


def test_a_line_of_a_list_is_a_span_where_sentences_are_too_long() -> None:
    lines = [f"Step {number} is to turn the screw number {number} to the left" for number in range(20)]
    assert span("\n".join(lines)) == lines[0]


def test_text_without_sentences_is_asked_by_its_first_words() -> None:
    text = " ".join(f"word{chr(97 + number % 26)}" for number in range(90))
    assert span(text) == " ".join(text.split()[:8])
    short = " ".join(text.split()[:12])
    assert span(short) == " ".join(text.split()[:6])  # no more than half
    assert span(" ".join(text.split()[:11])) is None


def test_chinese_text_is_cut_at_its_own_full_stops() -> None:
    sentences = [
        "春天的时候河水漫过草地。",
        "白鹤在浅水里寻找青蛙和小鱼作为食物。",
        "夏天水退去以后草地上开满了黄色的花。",
    ]
    rest = "孩子们在那里玩耍直到很晚才回家去。"
    assert spans("".join(sentences) + rest) == sentences
    exclaimed = [sentence.replace("。", "\uff01") for sentence in sentences]
    assert spans("".join(exclaimed) + rest) == exclaimed
    assert span("春天。" + "".join(sentences)) == sentences[0]


def test_ids_are_distinct_and_made_of_the_content() -> None:
    probes = make(corpus(100), queries(100), CONFIG, 0).probes
    assert len({probe.id for probe in probes}) == len(probes)
    again = make(corpus(100)[::-1], queries(100)[::-1], CONFIG, 5).probes
    assert {(probe.id, probe.text) for probe in again} == {(probe.id, probe.text) for probe in probes}


def test_probes_are_picked_by_split_and_kind() -> None:
    def probe(kind: str, split: str) -> Probe:
        return Probe(f"{kind}-{split}", "x", "x", kind, None, split)  # type: ignore[arg-type]

    probes = Probes(tuple(probe(kind, split) for kind in ("traffic", "title") for split in ("train", "confirm")))
    assert [each.id for each in probes.of(split="train")] == ["traffic-train", "title-train"]
    assert [each.id for each in probes.of(split="confirm", kinds=["title"])] == ["title-confirm"]


def test_nothing_makes_no_probes() -> None:
    assert make([], [], CONFIG, 0) == Probes((), {})


def test_lone_surrogates_in_a_query_are_no_error() -> None:
    assert len(make([], ["one \ud800 two"], CONFIG, 0).probes) == 1


def test_memory_does_not_grow_with_the_square_of_the_queries() -> None:
    asked = [f"how do i {query}" for query in queries(3000)]  # as people ask; 50,000 of these take 60 GB
    tracemalloc.start()
    try:
        make([], asked, CONFIG, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6


# questions ----------------------------------------------------------------------------------------


def about(chunks: list[Chunk]) -> list[Question]:
    return [Question(f"what is said of {each.id}?", each.id) for each in chunks]


def test_a_question_asks_for_itself_and_for_its_source() -> None:
    (found,) = [
        p for p in make(corpus(3), [], CONFIG, 0, [Question("What is it?", "c1")]).probes if p.kind == "question"
    ]
    assert (found.text, found.target, found.source) == ("What is it?", "What is it?", "c1")


@pytest.mark.parametrize("count", [0, 20, 200])
def test_questions_are_trained_on_where_there_are_too_few_queries_and_judge_all_where_there_are_enough(
    count: int,
) -> None:
    chunks = corpus(400)
    asked = make(chunks, queries(count), CONFIG, 0, about(chunks)).of
    splits = {split: len(asked(split=split, kinds=["question"])) for split in ("train", "select", "confirm")}  # type: ignore[arg-type]
    assert sum(splits.values()) == 400
    if count == 200:
        assert splits["train"] == 0
        assert 150 < splits["select"] < 250
    else:
        assert 290 < splits["train"] < 350
        assert 20 < splits["select"] < 65
        assert 20 < splits["confirm"] < 65


@pytest.mark.parametrize("count", [0, 200])
def test_questions_are_in_the_split_of_their_document(count: int) -> None:
    chunks = [chunk(number, f"document {number // 6}") for number in range(600)]
    source_of = {each.id: each.source for each in chunks}
    splits: dict[str, set[str]] = {}
    for probe in make(chunks, queries(count), CONFIG, 0, about(chunks)).probes:
        if probe.source is not None:
            splits.setdefault(source_of[probe.source], set()).add(probe.split)
    assert len(splits) == 100
    assert all(len(each) == 1 for each in splits.values())


def test_with_enough_questions_few_titles_are_trained_on_too() -> None:
    chunks = corpus(70)[:55]  # whose titles alone are too few
    assert not make(chunks, [], CONFIG, 0).of(split="train")
    trained = make(chunks, [], CONFIG, 0, about(chunks)).of(split="train")
    assert {probe.kind for probe in trained} == {"question", "title"}


def test_questions_that_judge_take_the_room_of_titles_and_first_sentences() -> None:
    few = CONFIG.model_copy(update={"known_items": 90})
    chunks = corpus(500)
    for written in (about(chunks[:40]), about(chunks[:90]), about(chunks[:200])):
        found = make(chunks, queries(200), few, 0, written)
        kinds = Counter(probe.kind for probe in found.probes if probe.split != "train" and probe.kind != "traffic")
        assert kinds["question"] == len(written)
        assert kinds["title"] == max(90 - len(written), 0) // 2
        assert sum(kinds.values()) == max(90, len(written))


def test_questions_leave_the_other_probes_as_they_are() -> None:
    chunks = corpus(300)
    before = make(chunks, queries(20), CONFIG, 0).probes
    after = make(chunks, queries(20), CONFIG, 0, about(chunks[:50])).probes
    assert [probe for probe in after if probe.kind != "question"] == list(before)


# as many as can be afforded -----------------------------------------------------------------------

REASON = "more probes than generator.pairs allows"


def groups(probes: Probes) -> Counter[tuple[str, str]]:
    """How many probes of each kind and split are scored."""
    return Counter((probe.kind, probe.split) for probe in probes.probes if probe.scored)


@pytest.mark.parametrize(("count", "asked"), [(0, 0), (300, 0), (300, 200), (40, 200)])
@given(limit=st.integers(1, 900))
@settings(deadline=None, max_examples=10)
def test_probes_are_scored_evenly_as_far_as_can_be_afforded(count: int, asked: int, limit: int) -> None:
    chunks = corpus(count)
    everything = make(chunks, queries(asked), CONFIG, 0, about(chunks[:60]))
    found = make(chunks, queries(asked), CONFIG, 0, about(chunks[:60]), limit)
    whole, scored, total = groups(everything), groups(found), len(everything.probes)
    assert scored.keys() == whole.keys()  # none is left out
    assert sum(scored.values()) <= limit + sum(number * limit < total for number in whole.values())
    for group, number in scored.items():
        share = whole[group] * min(limit / max(total, 1), 1.0)
        assert number == 1 or share - 1 - 1e-9 < number <= share + 1e-9


@pytest.mark.parametrize("asked", [0, 200])
@given(limit=st.integers(1, 900))
@settings(deadline=None, max_examples=10)
def test_held_out_known_items_judge_though_they_are_not_scored_and_all_others_are_dropped(
    asked: int, limit: int
) -> None:
    chunks = corpus(300)
    everything = make(chunks, queries(asked), CONFIG, 0, about(chunks[:60]))
    found = make(chunks, queries(asked), CONFIG, 0, about(chunks[:60]), limit)
    scored = {probe.id for probe in found.probes if probe.scored}
    judges = {probe.id for probe in everything.probes if probe.split != "train" and probe.kind != "traffic"}
    expected = [replace(probe, scored=probe.id in scored) for probe in everything.probes if probe.id in scored | judges]
    assert list(found.probes) == expected  # in the same order
    assert found.dropped.get(REASON, 0) == len(everything.probes) - len(found.probes)


@pytest.mark.parametrize("count", [0, 40, 200, 600])
@pytest.mark.parametrize("need", [0, 1, 13, 14, 30])
def test_with_enough_queries_to_prove_a_gain_known_items_are_not_scored_for_that(count: int, need: int) -> None:
    chunks = corpus(300)
    found = make(chunks, queries(count), CONFIG, 0, about(chunks[:60]), 10_000, need)
    confirming = len(found.of(split="confirm", kinds=["traffic"]))
    for probe in found.probes:
        spared = probe.split == "confirm" and probe.kind != "traffic" and confirming >= need > 0
        assert probe.scored == (not spared)
    assert {(probe.id, probe.split) for probe in found.probes} == {
        (probe.id, probe.split) for probe in make(chunks, queries(count), CONFIG, 0, about(chunks[:60])).probes
    }


def test_what_is_spared_for_known_items_is_spent_on_others() -> None:
    all_scored = groups(make(corpus(300), queries(300), CONFIG, 0, (), 200))
    spared = groups(make(corpus(300), queries(300), CONFIG, 0, (), 200, 10))
    assert spared.keys() == {group for group in all_scored if group[0] == "traffic" or group[1] != "confirm"}
    assert all(number > all_scored[group] for group, number in spared.items())
    assert 200 - len(spared) < sum(spared.values()) <= 200


def test_known_items_are_scored_where_too_few_queries_can_be_afforded() -> None:
    found = make(corpus(300), queries(400), CONFIG, 0, (), 200, 30)
    proving = [probe for probe in found.of(split="confirm") if probe.scored]
    queries_there = [probe for probe in proving if probe.kind == "traffic"]
    assert len(queries_there) >= 30 or len(proving) > len(queries_there)


def test_probes_are_thinned_out_reproducibly_and_at_random() -> None:
    one, two = (make(corpus(300), queries(200), CONFIG, 0, (), 100) for _ in range(2))
    assert one == two
    assert make(corpus(300), queries(200), CONFIG, 1, (), 100) != one
    whole = make(corpus(300), queries(200), CONFIG, 0).of(split="train", kinds=["traffic"])
    kept = [whole.index(probe) for probe in one.of(split="train", kinds=["traffic"])]
    assert kept != list(range(len(kept)))


@pytest.mark.parametrize("limit", [None, 10_000])
def test_where_all_can_be_afforded_all_are_scored(limit: int | None) -> None:
    assert make(corpus(99), queries(99), CONFIG, 0, (), limit) == make(corpus(99), queries(99), CONFIG, 0)


def test_exactly_as_many_as_there_are_can_be_afforded() -> None:
    everything = make(corpus(99), queries(99), CONFIG, 0)
    assert make(corpus(99), queries(99), CONFIG, 0, (), len(everything.probes)) == everything
    one_less = make(corpus(99), queries(99), CONFIG, 0, (), len(everything.probes) - 1)
    assert sum(groups(one_less).values()) < len(everything.probes)


def test_where_words_are_counted_all_are_scored() -> None:
    assert all(probe.scored for probe in make(corpus(300), queries(300), CONFIG, 0, need=1).probes)


def test_where_a_tenth_of_the_documents_is_too_little_to_judge_by_none_is_trained_on() -> None:
    """With few documents, chance may leave hardly any to the confirm split."""
    chunks = [chunk(number, f"document-{number % 12}", f"heading {number} of it") for number in range(120)]
    questions = [Question(f"what about number {number}", f"c{number}") for number in range(60)]
    free = make(chunks, [], ProbesConfig(), 0, questions)
    assert sum(probe.kind == "title" and probe.split == "train" for probe in free.probes) > 0
    held = sum(probe.split == "confirm" for probe in free.probes)
    needed = make(chunks, [], ProbesConfig(), 0, questions, need=held + 1)
    assert not [probe for probe in needed.probes if probe.kind == "title" and probe.split == "train"]
    assert sum(probe.split == "confirm" for probe in needed.probes) > held
    assert [probe for probe in needed.probes if probe.kind == "question" and probe.split == "train"]
    assert make(chunks, [], ProbesConfig(), 0, questions, need=held) == free
