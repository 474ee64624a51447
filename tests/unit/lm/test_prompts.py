from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.lm.prompts import CONTINUATION, TARGET_TOKENS, TEMPLATES, WRITINGS, Writing, lay_out, prompt, template
from ragself.schema import Probe, ProbeKind


def probe(kind: ProbeKind, text: str = "how fast", target: str | None = None) -> Probe:
    return Probe("1", text, text if target is None else target, kind, None, "train")


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("traffic", "\n\nQuestion: how fast"),
        ("question", "\n\nQuestion: how fast"),
        ("title", "\n\nTitle: how fast"),
        ("span", "\n\nSummary: how fast"),
    ],
)
def test_a_probe_is_worded_by_its_kind(kind: ProbeKind, ending: str) -> None:
    made = prompt("Five a second.", probe(kind))
    assert made.head + made.document + made.tail + made.target == "Passage: Five a second." + ending


def test_every_kind_of_probe_has_a_template() -> None:
    assert set(TEMPLATES) == set(get_args(ProbeKind))


@pytest.mark.parametrize("kind", get_args(ProbeKind))
def test_what_continues_a_query_is_given_the_query_and_is_not_scored_for_it(kind: ProbeKind) -> None:
    asked = probe(kind, "how fast", "five requests")
    made = prompt("Limits.", asked)
    assert template(asked) == CONTINUATION
    assert (made.document, made.tail, made.target) == (" Limits.", "\n\nText: how fast", " five requests")


def test_braces_in_texts_stay_as_they_are() -> None:
    made = prompt("a {query} of {0}", probe("traffic", "what is {query}?", "it is {query} and {x}"))
    assert made.document == " a {query} of {0}"
    assert made.tail == "\n\nText: what is {query}?"
    assert made.target == " it is {query} and {x}"


def test_templates_of_different_wording_have_different_names() -> None:
    made = {each.name: (each.head, each.tail) for each in [*TEMPLATES.values(), CONTINUATION]}
    assert len(made) == len(set(made.values())) == 4


@pytest.mark.parametrize("writing", WRITINGS, ids=lambda writing: writing.name)
def test_a_passage_to_write_about_is_shown_once_and_as_it_is(writing: Writing) -> None:
    for text in (writing.chat, writing.plain):
        assert text.count("{document}") == 1
        assert text.format(document="a {document} of {0}") == text.replace("{document}", "a {document} of {0}")
    assert len({each.name for each in WRITINGS}) == len(WRITINGS)


SIZES = st.integers(0, 400)


@given(st.integers(0, 3), st.integers(1, 5), SIZES, SIZES, SIZES, st.integers(0, 300), st.integers(16, 700))
@settings(deadline=None)
def test_whatever_is_laid_out_fits_and_only_the_document_and_the_tail_give_way(
    begin: int, head: int, document: int, tail: int, target: int, room: int, limit: int
) -> None:
    pieces = [list(range(start * 1000, start * 1000 + size)) for start, size in enumerate([begin, head])]
    body, end, asked = (list(range(k * 1000, k * 1000 + size)) for k, size in ((2, document), (3, tail), (4, target)))
    context, scored = lay_out(*pieces, body, end, asked, room, limit)
    assert len(context) + len(scored) <= limit

    assert scored == asked[: min(TARGET_TOKENS, limit // 2)]  # whole up to TARGET_TOKENS where there is room for it
    assert context[: begin + head] == pieces[0] + pieces[1]
    left = limit - len(scored) - begin - head
    shown = [token for token in context if token // 1000 == 2]
    closing = [token for token in context if token // 1000 == 3]
    assert context == pieces[0] + pieces[1] + shown + closing
    assert closing == end[tail - min(tail, left) :]  # whole where it fits, else its end
    assert shown == body[: min(room, left - len(closing))]  # as much as fits


@given(st.integers(0, TARGET_TOKENS), st.integers(2 * TARGET_TOKENS, 5000), st.integers(0, 5000))
@settings(deadline=None)
def test_a_target_is_never_cut_where_a_model_takes_twice_its_tokens(target: int, limit: int, document: int) -> None:
    asked = list(range(target))
    assert lay_out([1], [2, 3], [4] * document, [5] * 6, asked, 512, limit)[1] == asked


def test_tokens_that_are_laid_out_can_be_changed_without_harm() -> None:
    head, target = [1, 2], [3, 4]
    context, scored = lay_out([], head, [], [], target, 512, 64)
    context.append(9)
    scored.append(9)
    assert (head, target) == ([1, 2], [3, 4])
