"""What trainers without labels learn from: pairs of texts made from documents alone. Nothing here loads a trainer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ragself.config import ProbesConfig
from ragself.corpus.words import words
from ragself.probes.dataset import without
from ragself.probes.probes import make
from ragself.schema import Chunk

LEAST_WORDS = 8  # of a document that two crops are cut from
SHARE = (0.1, 0.5)  # of a document that a crop holds, at least and at most (Izacard et al. 2022: .05 to .5)
DELETED = 0.6  # share of the words that the noise of TSDAE takes away (Wang et al. 2021)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Pair:
    """A text that asks and a text that it should find.

    Attributes:
        query: What asks.
        positive: What it should find.
        source: Id of the chunk that both come from.
    """

    query: str
    positive: str
    source: str


Draw = Callable[[str, np.random.Generator], tuple[str, str] | None]
"""Makes a pair of texts of a document; None where it is too short for that."""


def known_items(chunks: Sequence[Chunk], limit: int, seed: int) -> list[Pair]:
    """Title of a document, or its first sentence where it has none, and the document without it.

    A pair whose positive still holds the query, word for word, is not taken.

    Args:
        chunks: The corpus.
        limit: Pairs at most, in random order, one a document.
        seed: Of that order.
    """
    texts = {chunk.id: chunk.text for chunk in chunks}
    probes = make(chunks, (), ProbesConfig(titles=len(chunks), known_items=4 * len(chunks)), seed).probes
    pairs: dict[str, Pair] = {}
    for probe in sorted(probes, key=lambda probe: probe.kind == "span"):  # titles first
        if probe.source is not None and probe.source not in pairs:
            pair = Pair(probe.text, without(texts[probe.source], probe), probe.source)
            if not holds(pair.positive, pair.query):
                pairs[probe.source] = pair
    found = list(pairs.values())
    return [found[row] for row in np.random.default_rng(seed).permutation(len(found))[:limit]]


def holds(text: str, part: str) -> bool:
    """Whether a text has all words of another in a row."""
    return f" {' '.join(words(part))} " in f" {' '.join(words(text))} "


def crops(text: str, random: np.random.Generator) -> tuple[str, str] | None:
    """Two runs of words of a document, drawn independently of each other, so that they may overlap."""
    parts = text.split()
    return (_crop(parts, random), _crop(parts, random)) if len(parts) >= LEAST_WORDS else None


def cloze(text: str, random: np.random.Generator) -> tuple[str, str] | None:
    """A sentence of a document and the document without it, wherever it occurs (Lee et al. 2019)."""
    parts = sentences(text)
    if len(parts) < 2:
        return None
    asked = parts[int(random.integers(len(parts)))]
    rest = " ".join(part for part in parts if part != asked)
    return (asked, rest) if rest and not holds(rest, asked) else None


def damaged(text: str, random: np.random.Generator) -> tuple[str, str] | None:
    """A text without `DELETED` of its words, at least one of which stays; and the whole text.

    Words are what stands between spaces: sentence-transformers takes those of nltk, whose data must be downloaded.
    """
    parts = text.split()
    if not parts:
        return None
    kept = random.random(len(parts)) >= DELETED
    kept[int(random.integers(len(parts)))] |= not kept.any()
    return " ".join(part for part, stays in zip(parts, kept, strict=True) if stays), text


def sentences(text: str) -> list[str]:
    """What lies between full stops or line breaks, without what has no word."""
    return [part.strip() for part in _SENTENCE.split(text) if words(part)]


def stream(texts: Sequence[str], draw: Draw, seed: int) -> Iterator[tuple[str, str]]:
    """Pairs without end: one of each text in random order, then again, so that no batch has a text twice.

    Raises:
        ValueError: No text gives one.
    """
    random = np.random.default_rng(seed)
    while True:
        fruitless = True
        for row in random.permutation(len(texts)).tolist():
            pair = draw(texts[row], random)
            if pair is not None:
                fruitless = False
                yield pair
        if fruitless:
            raise ValueError(f"None of {len(texts)} texts is long enough to make a pair of; expected whole documents.")


def _crop(parts: Sequence[str], random: np.random.Generator) -> str:
    length = max(int(len(parts) * random.uniform(*SHARE)), 1)
    start = int(random.integers(len(parts) - length + 1))
    return " ".join(parts[start : start + length])
