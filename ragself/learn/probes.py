"""Probes: texts that stand for what users ask, made from what is at hand and split by document."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ragself.config import ProbesConfig
from ragself.corpus.words import Vocabulary, words
from ragself.learn.duplicates import groups
from ragself.schema import Chunk, Probe, ProbeKind, Split

_SAME = 0.8  # word overlap from which two queries count as one
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n{2,}")


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of one pass.

    Attributes:
        probes: In random but reproducible order.
        dropped: How many texts were not taken, by reason.
    """

    probes: tuple[Probe, ...]
    dropped: dict[str, int] = field(default_factory=dict)

    def worth_studying(self, need: int) -> tuple[Probe, ...]:
        """All that are held out, and of the others the kind that is best to train on.

        What users ask teaches best: with at least `need` queries nothing else is trained on. Titles come
        second. Spans are never trained on; they only judge.
        """
        queries = sum(p.kind == "traffic" and p.split == "train" for p in self.probes)
        kind = "traffic" if queries >= need else "title"
        return tuple(p for p in self.probes if p.split != "train" or p.kind == kind)

    def of(self, *, split: Split, kinds: Sequence[ProbeKind] | None = None) -> list[Probe]:
        """The probes of one split, of the given kinds; None means all kinds."""
        return [p for p in self.probes if p.split == split and (kinds is None or p.kind in kinds)]


def make(chunks: Sequence[Chunk], queries: Sequence[str], config: ProbesConfig, seed: int) -> Probes:
    """Make probes from the user's queries and from the chunks themselves.

    Args:
        chunks: The corpus.
        queries: What users asked, any number, without labels.
        config: How many of each kind at most.
        seed: Decides which are taken where there are more.
    """
    rng = np.random.default_rng(seed)
    dropped: Counter[str] = Counter()
    found = [
        *_sample(_traffic(queries, dropped), config.traffic, rng, "more queries than probes.traffic", dropped),
        *_sample(_titles(chunks, dropped), config.titles, rng, "more titles than probes.titles", dropped),
        *_sample(_spans(chunks) if config.spans else [], config.spans, rng, "more spans than probes.spans", dropped),
    ]
    return Probes(tuple(found), dict(dropped))


def _traffic(queries: Sequence[str], dropped: Counter[str]) -> list[Probe]:
    distinct: dict[str, str] = {}
    for query in queries:
        text = " ".join(query.split())
        key = " ".join(words(text))
        if not key:
            dropped["query without a word"] += 1
        elif key in distinct:
            dropped["query asked before"] += 1
        else:
            distinct[key] = text
    tokenised = [key.split() for key in distinct]
    if not tokenised:
        return []
    # Two wordings of one question must not lie on both sides of a split: the group decides, not the text.
    labels = groups(Vocabulary.build(tokenised).counts(tokenised), _SAME)
    keys = list(distinct)
    first = {label: keys[row] for row, label in reversed(list(enumerate(labels)))}
    return [
        _probe("traffic", text, text, None, group=first[label])
        for text, label in zip(distinct.values(), labels, strict=True)
    ]


def _titles(chunks: Sequence[Chunk], dropped: Counter[str]) -> list[Probe]:
    by_title: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.title is not None:
            by_title.setdefault(" ".join(words(chunk.title)), []).append(chunk)
    probes = []
    for key, owners in by_title.items():
        title = owners[0].title
        assert title is not None  # only chunks with a title are in by_title
        if len({chunk.source for chunk in owners}) > 1:
            dropped["title of several documents"] += len(owners)
        elif len(key.split()) < 2:
            dropped["title of fewer than two words"] += len(owners)
        else:  # a heading's first chunk is the one it announces
            probes.append(_probe("title", title, title, owners[0].id, group=owners[0].source))
    return probes


def _spans(chunks: Sequence[Chunk]) -> list[Probe]:
    """First sentence of a chunk, and what follows as the target."""
    probes = []
    for chunk in chunks:
        body = chunk.text.removeprefix(chunk.title or "").strip()
        parts = _SENTENCE.split(body, maxsplit=1)
        if len(parts) == 2 and len(words(parts[0])) >= 4 and len(words(parts[1])) >= 8:
            probes.append(_probe("span", parts[0].strip(), parts[1].strip(), chunk.id, group=chunk.source))
    return probes


def _probe(kind: ProbeKind, text: str, target: str, source: str | None, group: str) -> Probe:
    identity = hashlib.blake2b(f"{kind}\0{text}\0{source}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Probe(identity, text, target, kind, source, _split(group))


def _split(group: str) -> Split:
    """Four fifths train; the rest is held out, half to select and half to confirm. Stable as the corpus grows."""
    digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    part = int.from_bytes(digest, "big") % 10
    return "select" if part == 0 else "confirm" if part == 1 else "train"


def _sample(
    probes: list[Probe], limit: int, rng: np.random.Generator, reason: str, dropped: Counter[str]
) -> list[Probe]:
    ordered = sorted(probes, key=lambda probe: probe.id)
    if len(ordered) > limit:
        dropped[reason] += len(ordered) - limit
    return [ordered[row] for row in rng.permutation(len(ordered))[:limit]]
