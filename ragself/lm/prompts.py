"""Prompts for the language model: templates that join a document, a query and a target into one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragself.schema import Probe, ProbeKind

QUESTION_TOKENS = 48  # maximum length of a written question
TARGET_TOKENS = 128  # maximum length of a scored target; its end adds little to its beginning


@dataclass(frozen=True, slots=True)
class Template:
    """The text around a document.

    Attributes:
        name: Name and version; part of the key of cached scores, so that a changed wording is scored again.
        head: Text before the document.
        tail: Text between document and target; ``{query}`` is replaced by the probe's text.
    """

    name: str
    head: str
    tail: str


QUESTION = Template("question/1", "Passage:", "\n\nQuestion:")
TITLE = Template("title/1", "Passage:", "\n\nTitle:")
SUMMARY = Template("summary/1", "Passage:", "\n\nSummary:")
CONTINUATION = Template("continuation/1", "Passage:", "\n\nText: {query}")

TEMPLATES: Mapping[ProbeKind, Template] = {
    "traffic": QUESTION,
    "question": QUESTION,
    "title": TITLE,
    "span": SUMMARY,
}


@dataclass(frozen=True, slots=True)
class Writing:
    """Prompts for writing a question. Decoding is greedy, not random.

    Attributes:
        name: Name and version; part of the key of cached questions.
        chat: Prompt for a model that follows instructions.
        plain: Prompt for a base model that continues texts.
    """

    name: str
    chat: str
    plain: str


WRITINGS = (
    Writing(
        "write-question/1",
        "Write one question that the passage below answers, worded as someone would ask who has not read it. "
        "Write it in the language of the passage. Answer with the question alone.\n\nPassage: {document}",
        "Passage: {document}\n\nQuestion:",
    ),
    Writing(
        "write-search/1",
        "Write what someone would type into a search box to find the passage below: a few telling words. "
        "Write it in the language of the passage. Answer with these words alone.\n\nPassage: {document}",
        "Passage: {document}\n\nSearch query:",
    ),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to score, in pieces that are tokenised separately, so that the target's tokens are always the same.

    The language model reads head, document, tail and target as one text; log p of the target's tokens is the score.
    A piece begins with its space, because byte-level tokenizers split there anyway.
    """

    head: str
    document: str
    tail: str
    target: str


def template(probe: Probe) -> Template:
    """The template of a probe: by its kind, or a continuation if its target is not its text."""
    return TEMPLATES[probe.kind] if probe.target == probe.text else CONTINUATION


def prompt(document: str, probe: Probe) -> Prompt:
    r"""Build the prompt for log p(target | document, query) with the template of the probe.

    Args:
        document: The context.
        probe: Probe whose target is scored. Its text is the query; if it is not the target, the context contains it.

    >>> probe = Probe("1", "how fast may I call?", "how fast may I call?", "traffic", None, "train")
    >>> prompt("Five requests a second.", probe)
    Prompt(head='Passage:', document=' Five requests a second.', tail='\n\nQuestion:', target=' how fast may I call?')
    """
    made = template(probe)
    return Prompt(made.head, " " + document, made.tail.replace("{query}", probe.text), " " + probe.target)


def lay_out(
    begin: Sequence[int],
    head: Sequence[int],
    document: Sequence[int],
    tail: Sequence[int],
    target: Sequence[int],
    room: int,
    limit: int,
) -> tuple[list[int], list[int]]:
    """Join the tokens of a prompt within the limits: the document is cut first, the target is kept.

    Args:
        begin: Tokens that the model's tokenizer puts before every text, often one or none.
        head: Tokens of the piece before the document.
        document: Tokens of the document; its end is cut.
        tail: Tokens of the piece after the document; its beginning is cut if cutting the document is not enough.
        target: Tokens to score; only the first `TARGET_TOKENS` are used.
        room: Maximum number of tokens of the document.
        limit: Maximum number of tokens in total; at least 16.

    Returns:
        Context and target.
    """
    scored = list(target[: min(TARGET_TOKENS, limit // 2)])
    left = limit - len(scored) - len(begin) - len(head)
    end = list(tail[max(len(tail) - left, 0) :])
    return [*begin, *head, *document[: max(min(room, left - len(end)), 0)], *end], scored
