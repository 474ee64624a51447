import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ragself.corpus.files import Document
from ragself.corpus.split import _pieces, split
from ragself.errors import InputError
from ragself.schema import Chunk


def tokenizer() -> Tokenizer:
    """A word is a token and a mark is one, as BERT has it: two special ones, and cut off after eight."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.enable_truncation(8)
    made.enable_padding(length=8)
    return made


TOKENIZER = tokenizer()
COUNTING = tokenizer()
COUNTING.no_truncation()
COUNTING.no_padding()


def tokens(text: str) -> int:
    return len(COUNTING.encode(text).ids)


def markdown(text: str) -> Document:
    return Document("/doc.md", text, True)


def plain(text: str) -> Document:
    return Document("/doc.txt", text, False)


def words(count: int, seed: str = "") -> str:
    draw = random.Random(f"{count}{seed}")
    return " ".join(draw.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(count))


def ids(chunks: Iterable[Chunk]) -> list[str]:
    return [chunk.id for chunk in chunks]


def titles(chunks: Iterable[Chunk]) -> list[str | None]:
    return [chunk.title for chunk in chunks]


def starts(chunks: Iterable[Chunk]) -> list[int]:
    return [int(chunk.metadata["start_index"]) for chunk in chunks]


# --- what holds for every document ------------------------------------------------------------

LINES = st.sampled_from(
    """# One|## Two words|### Three||```python|# comment|    # indented|- item|Setext|====|---|> quote|- nested
A sentence. And one more! Really?|世界🙂é|\ue000""".replace("\n", "|").split("|")
) | st.sampled_from(["| a | b |", "| - | - |", "w " * 30, "x" * 90])
DOCUMENTS = st.builds(
    Document, st.just("/d"), st.lists(LINES, max_size=25).map("\n".join) | st.text(max_size=200), st.booleans()
)


@settings(deadline=None)
@given(document=DOCUMENTS, max_tokens=st.integers(8, 40), counted=st.booleans())
def test_chunks_are_slices_in_order_that_leave_nothing_out(document: Document, max_tokens: int, counted: bool) -> None:
    chunks = split(document, TOKENIZER if counted else None, max_tokens)
    spans = [(start, start + len(chunk.text)) for start, chunk in zip(starts(chunks), chunks, strict=True)]
    assert [document.text[start:end] for start, end in spans] == [chunk.text for chunk in chunks]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    kept = "".join("".join(chunk.text.split()) for chunk in chunks)
    assert kept == "".join(document.text.split())
    assert all(chunk.text.strip() for chunk in chunks)
    assert len(set(ids(chunks))) == len(chunks)


@settings(deadline=None)
@given(document=DOCUMENTS, max_tokens=st.integers(8, 40))
def test_no_chunk_is_longer_than_the_encoder_reads(document: Document, max_tokens: int) -> None:
    assert all(tokens(chunk.text) <= max_tokens for chunk in split(document, TOKENIZER, max_tokens))
    assert all(len(chunk.text) <= 4 * max_tokens for chunk in split(document, None, max_tokens))


def test_chunks_are_filled_halfway_at_least_where_there_is_text_for_it() -> None:
    chunks = split(plain(words(400)), TOKENIZER, 42)
    assert all(20 <= tokens(chunk.text) - 2 <= 40 for chunk in chunks[:-1])
    assert len(chunks) <= 20


def test_a_tokenizer_is_left_as_it_was() -> None:
    before = TOKENIZER.to_str()
    assert len(split(plain(words(100)), TOKENIZER, 32)) > 1
    assert TOKENIZER.to_str() == before


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_no_text_no_chunks(text: str) -> None:
    assert split(markdown(text), None, 10) == split(plain(text), TOKENIZER, 10) == []


@pytest.mark.parametrize(("tokenizer", "max_tokens"), [(None, 0), (None, -5), (TOKENIZER, 2)])
def test_no_room_for_text_is_an_error(tokenizer: Tokenizer | None, max_tokens: int) -> None:
    with pytest.raises(InputError, match=f"max_tokens is {max_tokens}"):
        split(plain("text"), tokenizer, max_tokens)
    assert split(plain("text"), tokenizer, 3)


def test_a_blob_that_counts_as_one_word_is_cut_all_the_same() -> None:
    blob = "QUJD" * 5000
    assert tokens(blob) == 3
    assert max(len(chunk.text) for chunk in split(plain(blob), TOKENIZER, 34)) <= 16 * 33


@pytest.mark.parametrize("line", ["word " * 60_000, "x" * 250_000, f"# Title\n\n{'Some words. ' * 20_000}"])
def test_a_document_of_any_length_is_cut_in_time(line: str) -> None:
    chunks = split(markdown(line), None, 250)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(line.split())
    assert len(chunks) <= 2 * len(line) / 1000 + 3


def test_long_texts_are_handed_on_in_pieces_that_end_where_a_paragraph_does() -> None:
    paragraph = f"{words(90)}\n\n"
    text = paragraph * 400
    spans = list(_pieces(text))
    assert len(spans) == 3
    assert [0, *(end for _, end in spans)] == [*(start for start, _ in spans), len(text)]
    assert all(end - start <= 100_000 for start, end in spans)
    assert {len(text[:end].rstrip("\n")) % len(paragraph) for _, end in spans} == {len(paragraph) - 2}


# --- ids --------------------------------------------------------------------------------------


def test_ids_are_the_same_for_the_same_file_and_only_for_it() -> None:
    text = f"# A\n\n{words(60)}\n\n# B\n\n{words(60)}"
    again = split(markdown(text), TOKENIZER, 32)
    assert ids(again) == ids(split(markdown(text), tokenizer(), 32))
    assert all(len(chunk.id) == 32 and int(chunk.id, 16) for chunk in again)
    assert set(ids(again)).isdisjoint(ids(split(Document("/other.md", text, True), TOKENIZER, 32)))


def test_a_change_in_one_section_leaves_the_other_ids_alone() -> None:
    sections = [f"# Section {number}\n\n{words(25, str(number))}" for number in range(6)]
    before = split(markdown("\n\n".join(sections)), TOKENIZER, 42)
    sections[2] += " Changed, and longer."
    after = split(markdown("\n\n".join(sections)), TOKENIZER, 42)
    assert [old == new for old, new in zip(ids(before), ids(after), strict=True)] == [True] * 2 + [False] + [True] * 3


def test_texts_that_repeat_are_told_apart_by_their_count() -> None:
    section = f"# Same\n\n{words(25)}"
    chunks = split(markdown("\n\n".join([section] * 3)), TOKENIZER, 42)
    assert [chunk.text for chunk in chunks] == [section] * 3
    assert len(set(ids(chunks))) == 3
    longer = split(markdown("\n\n".join([f"# New\n\n{words(30)}", *[section] * 3])), TOKENIZER, 42)
    assert ids(longer)[1:] == ids(chunks)


# --- titles -----------------------------------------------------------------------------------


def test_a_chunk_is_titled_by_the_nearest_heading_above() -> None:
    text = f"# Top\n\n{words(30)}\n\n## Sub\n\n{words(30)}\n\n{words(30)}\n\n# Next\n\n{words(30)}"
    chunks = split(markdown(text), TOKENIZER, 42)
    assert titles(chunks) == ["Top", "Sub", "Sub", "Next"]
    assert titles(split(plain(text), TOKENIZER, 42)) == [None] * len(split(plain(text), TOKENIZER, 42))
    assert titles(split(markdown(words(60)), TOKENIZER, 42)) == [None, None]


def test_headings_in_a_row_title_by_the_last() -> None:
    assert titles(split(markdown("# Manual\n\n## Install\n\nText."), None, 99)) == ["Install"]


def test_what_stands_before_the_first_heading_has_its_title_only_in_one_chunk() -> None:
    assert titles(split(markdown("[badge]\n\n# Name\n\nText."), None, 99)) == ["Name"]
    far = split(markdown(f"{words(60)}\n\n# Name\n\n{words(30)}"), TOKENIZER, 42)
    assert titles(far) == [None, None, "Name"]


@pytest.mark.parametrize(
    "code",
    [
        "```\n# no heading\n```",
        "~~~~ python\n~~~\n# no heading\n~~~~~",
        "  ```\n# no heading\n  ```",
        "   # no heading",
        "````\n```\n# no heading\n````",
        "```\n# no heading, and never closed",
    ],
)
def test_comments_in_code_are_no_headings(code: str) -> None:
    text = f"# Title\n\n{words(24)}\n\n{code}\n\n{words(24)}"
    assert set(titles(split(markdown(text), TOKENIZER, 30))) == {"Title"}


def test_an_indented_comment_is_no_place_to_cut() -> None:
    text = f"# Title\n\n{words(12)}\n\n   # comment\n   {words(8)}\n\n{words(30)}"
    assert [chunk.text for chunk in split(markdown(text), TOKENIZER, 42)] == [text[: -len(words(30)) - 2], words(30)]


def test_a_fence_is_over_where_it_is_closed() -> None:
    text = f"# One\n\n```x``` is inline\n\n```\ncode\n```\n\n# Two\n\n{words(30)}"
    assert titles(split(markdown(text), TOKENIZER, 36)) == ["One", "Two"]


@pytest.mark.parametrize(
    ("heading", "title"),
    [
        ("## Closed ##", "Closed"),
        ("# C#", "C#"),
        ("# `Code` and **bold** *text*", "Code and bold text"),
        ("# `f(*args, **kwargs)`", "f(*args, **kwargs)"),
        ("# See [the docs](http://x/y) ![logo](a.png)", "See the docs logo"),
        ("# :mod:`json` and :class:`~a.B` and :ref:`text <target>`", "json and a.B and text"),
        ("# <a name='x'></a>Anchored {#anchor}", "Anchored"),
        ("# a_b and __init__", "a_b and __init__"),
        ("Underlined\n==========", "Underlined"),
        ("Underlined\n---", "Underlined"),
    ],
)
def test_titles_are_without_markup(heading: str, title: str) -> None:
    assert titles(split(markdown(f"{heading}\n\nText."), None, 99)) == [title]


@pytest.mark.parametrize("line", ["#nospace", "####### seven", "#", "# ", "\\# escaped", "- item\n---", "| a |\n---"])
def test_what_is_no_heading_gives_no_title(line: str) -> None:
    assert titles(split(markdown(f"{line}\n\nText."), None, 99)) == [None]


def test_front_matter_is_no_heading() -> None:
    assert titles(split(markdown("---\ntitle: X\n---\n\nText."), None, 99)) == [None]


# --- headings without text --------------------------------------------------------------------


@pytest.mark.parametrize("length", [26, 38, 40])
def test_a_heading_goes_with_the_text_below_it(length: int) -> None:
    # With the heading, 38 and 40 words are more than a chunk holds.
    text = f"# Title\n\n## Second title\n\n{words(length)}"
    chunks = split(markdown(text), TOKENIZER, 42)
    assert chunks[0].text.startswith("# Title\n\n## Second title\n\n")
    assert len(chunks[0].text.split()) > 10
    assert set(titles(chunks)) == {"Second title"}
    assert all(tokens(chunk.text) <= 42 for chunk in chunks)


def test_headings_stay_alone_where_there_is_no_text_or_no_room() -> None:
    assert [chunk.text for chunk in split(markdown("# A\n\n# B"), None, 99)] == ["# A\n\n# B"]
    last = split(markdown(f"# A\n\n{words(38)}\n\n# End"), TOKENIZER, 42)
    assert last[-1].text == "# End"
    long = f"# {words(30)}"
    assert [chunk.text for chunk in split(markdown(f"{long}\n\n{words(40)}"), TOKENIZER, 42)] == [long, words(40)]
    outline = "\n\n".join(f"# {words(15, str(number))}" for number in range(4))
    chunks = split(markdown(f"{outline}\n\n{words(30)}"), TOKENIZER, 42)
    assert all(tokens(chunk.text) <= 42 for chunk in chunks)
    assert f"# {words(15, '3')}\n\n{words(30)[:20]}" in [chunk.text[: len(words(15, "3")) + 24] for chunk in chunks]
    assert min(len(chunk.text.split()) for chunk in chunks) >= 6
