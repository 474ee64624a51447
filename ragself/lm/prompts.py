"""What a language model is asked: how a document, a query and a target become one text. Templates are data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragself.schema import Probe, ProbeKind

QUESTION_TOKENS = 48  # that a written question may have
TARGET_TOKENS = 128  # of a target that are scored; its end says little that its beginning does not


@dataclass(frozen=True, slots=True)
class Template:
    """The text around a document.

    Attributes:
        name: With its version; part of the key of stored scores, so that a change of wording scores anew.
        head: Before the document.
        tail: After the document and before the target; ``{query}`` stands for the probe's text.
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
    """How a question is asked for. The likeliest answer is taken: nothing is drawn at random.

    Attributes:
        name: With its version; part of the key of stored questions.
        chat: For a model that follows instructions.
        plain: For one that continues texts.
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
    """One thing to score, as pieces that are tokenised apart, so that the target's tokens are always the same.

    The language model reads head, document, tail and target in one; log p of the target's tokens is the score.
    A piece begins with its space: byte-level tokenizers cut there anyway.
    """

    head: str
    document: str
    tail: str
    target: str


def template(probe: Probe) -> Template:
    """The template of a probe: by its kind, or a continuation where its target is not its text."""
    return TEMPLATES[probe.kind] if probe.target == probe.text else CONTINUATION


def prompt(document: str, probe: Probe) -> Prompt:
    r"""What is scored: log p(target | document, query), worded by the template of the probe.

    Args:
        document: The context.
        probe: Whose target is scored. Its text is the query, which the context holds too where it is not the target.

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
    """Put the tokens of a prompt together so that it fits; the document gives way, the target survives.

    Args:
        begin: What the model's tokenizer puts before every text, often one token or none.
        head: Tokens of the piece before the document.
        document: Tokens of the document; its end is cut.
        tail: Tokens of the piece after the document; its beginning is cut where even that must be.
        target: Tokens to score, the first `TARGET_TOKENS` of which are taken.
        room: Tokens of the document at most.
        limit: Tokens of all at most; at least 16.

    Returns:
        Context and target.
    """
    scored = list(target[: min(TARGET_TOKENS, limit // 2)])
    left = limit - len(scored) - len(begin) - len(head)
    end = list(tail[max(len(tail) - left, 0) :])
    return [*begin, *head, *document[: max(min(room, left - len(end)), 0)], *end], scored
