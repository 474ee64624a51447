"""Splits documents into chunks that the encoder can read completely."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from ragself.corpus.files import Document
from ragself.errors import InputError
from ragself.schema import Chunk, Scalar

_CHARACTERS_PER_TOKEN = 4
# A tokenizer may count a blob of any length, such as base64, as one unknown word. Natural text has
# far fewer characters per token, so this limit affects blobs only.
_MOST_CHARACTERS_PER_TOKEN = 16
# The splitter takes quadratic time in the length of a text. Longer documents are cut first.
_PIECE_CHARACTERS = 100_000
_CUTS = ("\n# ", "\n## ", "\n\n", "\n", " ")

# Only a '#' in the first column begins a heading. An indented one is mostly a comment in a code
# sample (reStructuredText has no fences), so it is masked for the Markdown splitter.
_INDENTED_HASH = re.compile(r"^([ \t]+)#", re.MULTILINE)
_MASK = "\ue000"  # private use area: does not occur in texts for readers

_SPACE = re.compile(r"\s*")
_FENCE = re.compile(r"\s*(`{3,}(?=[^`]*$)|~{3,})")
_ATX = re.compile(r"#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(?:=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r"\s*$| {4}|\t|[-*+>|<]|#{1,6} |\d+[.)] |`{3}|~{3}")
_MARKUP = (
    (re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])"), r"\1"),  # links and images
    (re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`"), r"\1"),  # roles of reStructuredText
    (re.compile(r"</?(?:a|b|br|code|em|i|img|kbd|span|strong|su[bp])\b[^>]*>", re.IGNORECASE), ""),
    (re.compile(r"\s*\{[#.:][^}]*\}\s*$"), ""),  # attributes: {#anchor}
    (re.compile(r"(\*{1,3})(\S(?:.*?\S)?)\1(?!\w)"), r"\2"),
    (re.compile(r"`"), ""),
)

Size: TypeAlias = Callable[[str], int]
Span: TypeAlias = tuple[int, int]


class Heading(NamedTuple):
    """A heading: offsets of its start and end, and its title without markup."""

    start: int
    end: int
    title: str


def split(document: Document, tokenizer: Tokenizer | None, max_tokens: int) -> list[Chunk]:
    """Split a document into chunks, in reading order: at headings, paragraphs and sentences where possible.

    Ids are derived from source and text, so they stay the same when other parts of the document change.
    ``metadata`` holds ``source``, ``start_index`` (the offset in the document's text) and, if the document has
    headings, ``title``. A heading is in one chunk with the text below it, unless there is no such text or the heading
    alone is longer than half the maximum size of a chunk.

    Args:
        document: The document.
        tokenizer: Tokenizer of the encoder, which is not changed. None counts four characters as one token.
        max_tokens: Maximum number of tokens that the encoder reads, including special tokens. A chunk is filled to at
            least half of it where possible, and never exceeds it.

    Returns:
        The chunks. Empty if the document has no text.

    Raises:
        InputError: ``max_tokens`` leaves no room for text.
    """
    return _splitter(tokenizer, max_tokens).split(document)


@lru_cache(maxsize=1)  # copying a tokenizer takes longer than splitting a short document
def _splitter(tokenizer: Tokenizer | None, max_tokens: int) -> _Splitter:
    special = tokenizer.num_special_tokens_to_add(False) if tokenizer else 0
    if max_tokens <= special:
        raise InputError(f"max_tokens is {max_tokens}, but a chunk needs at least {special + 1}")
    return _Splitter(_counter(tokenizer), max_tokens - special)


@dataclass(frozen=True, slots=True)
class _Splitter:
    size: Size
    capacity: int

    def split(self, document: Document) -> list[Chunk]:
        text = document.text
        headings = _headings(text) if document.markdown else []
        occurrences: Counter[str] = Counter()
        chunks = []
        for start, end in self._joined(text, self._spans(text, document.markdown), headings):
            part = text[start:end]
            metadata: dict[str, Scalar] = {"source": document.source, "start_index": start}
            if (title := _title(text, start, end, headings)) is not None:
                metadata["title"] = title
            chunks.append(Chunk(_id(document.source, part, occurrences[part]), part, metadata))
            occurrences[part] += 1
        return chunks

    def _spans(self, text: str, markdown: bool) -> list[Span]:
        cutter = self._cutter(self.capacity, markdown)
        masked = _masked(text) if markdown else text
        found = [
            (start + offset, start + offset + len(part))
            for start, end in _pieces(masked)
            for offset, part in cutter.chunk_indices(masked[start:end])
        ]
        return [(start, end) for start, end in found if text[start:end].strip()]

    def _cutter(self, capacity: int, markdown: bool) -> MarkdownSplitter | TextSplitter:
        # The library assumes that no text has more tokens than bytes.
        kind = MarkdownSplitter if markdown else TextSplitter
        limits = (max(1, capacity // 2), max(1, capacity))
        return kind.from_callback(lambda text: self.size(text.replace(_MASK, "#")), limits)

    def _joined(self, text: str, spans: list[Span], headings: list[Heading]) -> Iterator[Span]:
        """Prepend spans that contain only headings to the next span."""
        pending: list[Span] = []
        for span in spans:
            if _lead(text, span[0], headings)[1] >= span[1]:
                pending.append(span)
            else:
                yield from self._below(text, pending, span)
                pending = []
        yield from pending

    def _below(self, text: str, above: list[Span], span: Span) -> Iterator[Span]:
        """Return the span with the headings above it, split again if they make it too long."""
        start, end = span
        while above and self.size(text[above[0][0] : start]) > self.capacity // 2:
            yield above.pop(0)
        first = above[0][0] if above else start
        if not above or self.size(text[first:end]) <= self.capacity:
            yield first, end
            return
        room = self.capacity - self.size(text[first:start]) - 1  # some tokenizers need one more token at the boundary
        cutter = self._cutter(room, markdown=True)
        (offset, part), *others = cutter.chunk_indices(_masked(text[start:end]))
        yield first, start + offset + len(part)
        yield from ((start + offset, start + offset + len(part)) for offset, part in others)


def _counter(tokenizer: Tokenizer | None) -> Size:
    if tokenizer is None:
        return lambda text: -(-len(text) // _CHARACTERS_PER_TOKEN)
    counting = Tokenizer.from_str(tokenizer.to_str())  # a copy: the truncation of the caller must not change
    counting.no_truncation()
    counting.no_padding()

    def size(text: str) -> int:
        tokens = len(counting.encode(text, add_special_tokens=False).ids)
        return max(tokens, len(text) // _MOST_CHARACTERS_PER_TOKEN)

    return size


def _masked(text: str) -> str:
    return _INDENTED_HASH.sub(rf"\1{_MASK}", text)


def _id(source: str, text: str, occurrence: int) -> str:
    return blake2b(f"{source}\0{text}\0{occurrence}".encode()).hexdigest()[:32]


def _pieces(text: str) -> Iterator[Span]:
    """Cut a text into pieces of bounded length, at headings, blank lines, lines or words."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        limit = start + _PIECE_CHARACTERS
        cuts = (text.rfind(cut, start + _PIECE_CHARACTERS // 2, limit) for cut in _CUTS)
        end = next((cut + 1 for cut in cuts if cut >= 0), limit)
        yield start, end
        start = end
    yield start, len(text)


def _headings(text: str) -> list[Heading]:
    """Headings of a Markdown text, without empty ones and without those in fenced code."""
    found: list[Heading] = []
    lines = text.split("\n")
    fence, start = "", 0
    for before, line, following in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        title, end = "", start + len(line)
        if fence:
            fence = "" if _closes(line, fence) else fence
        elif opening := _FENCE.match(line):
            fence = opening[1]
        elif atx := _ATX.match(line):
            title = _plain(atx[1])
        elif not before.strip() and _SETEXT.match(following) and not _NO_PARAGRAPH.match(line):
            title, end = _plain(line), end + 1 + len(following)
        if title:
            found.append(Heading(start, end, title))
        start += len(line) + 1
    return found


def _closes(line: str, fence: str) -> bool:
    return len(line.strip()) >= len(fence) and set(line.strip()) == {fence[0]}


def _plain(title: str) -> str:
    for pattern, replacement in _MARKUP:
        title = pattern.sub(replacement, title)
    return " ".join(title.split())


def _lead(text: str, start: int, headings: list[Heading]) -> tuple[str | None, int]:
    """Title of the heading above the text at ``start``, and the offset where the text below that heading begins."""
    index = bisect_right(headings, start, key=lambda heading: heading.start)
    title, body = (headings[index - 1].title, max(start, headings[index - 1].end)) if index else (None, start)
    # If another heading follows directly, without text between them, it is the nearer one.
    while index < len(headings) and _past_space(text, body) >= headings[index].start:
        title, body = headings[index].title, headings[index].end
        index += 1
    return title, body


def _past_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _title(text: str, start: int, end: int, headings: list[Heading]) -> str | None:
    title, _ = _lead(text, start, headings)
    if title is None and headings and headings[0].start < end:
        return headings[0].title  # text before the first heading belongs to that heading
    return title
