"""Probes: texts that stand for what users ask, made from what is at hand and split by document."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ragself.config import ProbesConfig
from ragself.corpus.words import Vocabulary, words
from ragself.probes.duplicates import groups
from ragself.probes.questions import Question
from ragself.schema import Chunk, Probe, ProbeKind, Split

_SAME = 0.8  # word overlap from which two queries count as one
_JUDGES = "more known items than probes.known_items"
_STRICT: tuple[Split, ...] = ("confirm", "select", "train")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n{2,}")
_EACH = 3  # spans of a chunk, at most
_PIECES = 12  # sentences and lines of a chunk that are looked at
_FEWEST, _REST, _LONGEST = 4, 8, 60  # words of a span at least, of the rest at least, of a span at most
_CUT = 8  # words that are asked of a text without sentences
_PROSE = 0.9  # share of letters and spaces


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of one pass.

    Attributes:
        probes: In a reproducible order.
        dropped: How many texts were not taken, by reason.
    """

    probes: tuple[Probe, ...]
    dropped: dict[str, int] = field(default_factory=dict)

    def of(self, *, split: Split, kinds: Sequence[ProbeKind] | None = None) -> list[Probe]:
        """The probes of one split, of the given kinds; None means all kinds."""
        return [p for p in self.probes if p.split == split and (kinds is None or p.kind in kinds)]


def make(
    chunks: Sequence[Chunk],
    queries: Sequence[str] | Mapping[str, int],
    config: ProbesConfig,
    seed: int,
    questions: Sequence[Question] = (),
    limit: int | None = None,
    need: int = 0,
) -> Probes:
    """Make probes from the user's queries, from questions written about chunks, and from the chunks themselves.

    What users ask teaches best (measured): with enough of it nothing else is trained on, and the others only judge.

    Args:
        chunks: The corpus.
        queries: What users asked, any number, without labels, as often as it was asked; or how often each was.
        config: How many of each kind at most.
        seed: Decides which are taken where there are more.
        questions: Written by a language model.
        limit: Probes that a language model is asked about, thinned out evenly; None means any number. Held-out known
            items beyond it are kept: that they are found costs no likelihood.
        need: Queries of users in the confirm split with which no likelihood of known items is needed there.
    """
    rng = np.random.default_rng(seed)
    dropped: Counter[str] = Counter()
    traffic = _traffic(Counter(queries), config, rng, dropped)
    queries_to_train_on = sum(probe.split == "train" for probe in traffic)
    written = _questions(chunks, questions, held_out=False)
    questions_to_train_on = sum(probe.split == "train" for probe in written)
    if queries_to_train_on >= config.min_train:
        written = _questions(chunks, questions, held_out=True)
    titles = _titles(chunks, dropped, held_out=False)
    titles_to_train_on = questions_to_train_on + sum(probe.split == "train" for probe in titles)
    spans = [
        span for span in _spans(chunks, config.known_items, held_out=False) if span.split != "train"
    ]  # spans only judge
    held = sum(probe.split == "confirm" for probe in [*traffic, *written, *titles, *spans])
    enough = queries_to_train_on < config.min_train <= queries_to_train_on + titles_to_train_on
    if enough and held >= need:
        titles = _sample(titles, config.titles, rng, "more titles than probes.titles", dropped)
    else:  # no title is trained on, so that all may judge
        half = max(config.known_items - sum(probe.split != "train" for probe in written), 0) // 2
        titles = _sample(_titles(chunks, Counter(), held_out=True), half, rng, _JUDGES, dropped)
        spans = _spans(chunks, config.known_items, held_out=True)
    room = config.known_items - sum(probe.split != "train" for probe in [*written, *titles])
    spans = _sample(spans, max(room, 0), rng, _JUDGES, dropped)
    return Probes(tuple(_thin([*traffic, *written, *titles, *spans], limit, need, rng, dropped)), dict(dropped))


def _traffic(
    queries: Counter[str], config: ProbesConfig, rng: np.random.Generator, dropped: Counter[str]
) -> list[Probe]:
    distinct: dict[str, str] = {}
    asked: Counter[str] = Counter()
    for query, times in queries.items():
        text = " ".join(query.split())
        key = " ".join(words(text))
        if key:
            distinct.setdefault(key, text)
            asked[key] += times
        else:
            dropped["query without a word"] += times
    taken = set(_take(sorted(distinct), config.traffic, rng, "more queries than probes.traffic", dropped))
    keys = [key for key in distinct if key in taken]
    if not keys:
        return []
    tokenised = [key.split() for key in keys]
    # Two wordings of one question must not lie on both sides of a split: the strictest that one of them calls for
    # holds for all, so that what is held out once never trains, whatever else is asked later.
    labels = groups(Vocabulary.build(tokenised).counts(tokenised), _SAME).tolist()
    strictest: dict[int, Split] = {}
    for key, label in zip(keys, labels, strict=True):
        strictest[label] = min(_split(key, held_out=False), strictest.get(label, "train"), key=_STRICT.index)
    probes = [
        _probe("traffic", distinct[key], distinct[key], None, strictest[label])
        for key, label in zip(keys, labels, strict=True)
    ]
    return [
        replace(probe, weight=float(min(asked[key], config.max_weight)))
        for probe, key in zip(probes, keys, strict=True)
    ]


def _questions(chunks: Sequence[Chunk], questions: Sequence[Question], *, held_out: bool) -> list[Probe]:
    documents = {chunk.id: chunk.source for chunk in chunks}
    return [
        _probe("question", q.text, q.text, q.source, _split(documents[q.source], held_out=held_out)) for q in questions
    ]


def _titles(chunks: Sequence[Chunk], dropped: Counter[str], *, held_out: bool) -> list[Probe]:
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
            split = _split(owners[0].source, held_out=held_out)
            probes.append(_probe("title", title, title, owners[0].id, split))
    return probes


def _spans(chunks: Sequence[Chunk], most: int, *, held_out: bool) -> list[Probe]:
    """Sentences of chunks, to be found in the rest of their chunk: one of each chunk, or more where chunks are few.

    They are the first sentences or lines that read as prose: of code that is comments, never signatures. Text without
    sentences is cut after its first words.
    """
    each = min(max(most // max(len(chunks), 1), 1), _EACH)
    return [
        _probe("span", span, span, chunk.id, _split(chunk.source, held_out=held_out))
        for chunk in chunks
        for span in _sentences(_body(chunk), each)
    ]


def _sentences(body: str, most: int) -> list[str]:
    """What can be asked of a text, at most so many."""
    total = len(words(body))
    pieces: list[str] = _SENTENCE.split(body, maxsplit=_PIECES)[:_PIECES]
    found: list[str] = []
    for piece in pieces:
        for part in dict.fromkeys((piece, *piece.split("\n"))):
            if _FEWEST <= len(words(part)) <= min(_LONGEST, total - _REST) and _reads_as_prose(part):
                found.append(part.strip())
                break
    if found or not _reads_as_prose(body) or total < _FEWEST + _REST:
        return found[:most]
    runs = list(re.finditer(r"\S+", body))
    end = min(_CUT, len(runs) // 2)
    return [body[: runs[end - 1].end()].strip()] if end >= _FEWEST else []


def _reads_as_prose(text: str) -> bool:
    """Whether a text is words rather than code: few signs among its letters."""
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return letters >= _PROSE * len(text)


def _body(chunk: Chunk) -> str:
    """The text after its title, which may be there twice: from the document and from whoever loaded it."""
    body, title = chunk.text.strip(), (chunk.title or "").lstrip("# ")
    while title and (rest := body.lstrip("# \n")).startswith(title):
        body = rest.removeprefix(title).lstrip("# \n").strip()
    return body


def _probe(kind: ProbeKind, text: str, target: str, source: str | None, split: Split) -> Probe:
    identity = hashlib.blake2b(f"{kind}\0{text}\0{source}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Probe(identity, text, target, kind, source, split)


def _split(group: str, *, held_out: bool) -> Split:
    """Stable as the corpus grows: four fifths train and the rest is held out, or all of it is (`held_out`)."""
    digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    part = int.from_bytes(digest, "big") % 10
    if held_out:
        return "select" if part % 2 == 0 else "confirm"
    return "select" if part == 0 else "confirm" if part == 1 else "train"


def _sample(
    probes: list[Probe], limit: int, rng: np.random.Generator, reason: str, dropped: Counter[str]
) -> list[Probe]:
    by_id = {probe.id: probe for probe in probes}
    return [by_id[id] for id in _take(sorted(by_id), limit, rng, reason, dropped)]


def _thin(
    probes: list[Probe], limit: int | None, need: int, rng: np.random.Generator, dropped: Counter[str]
) -> list[Probe]:
    """Let at most `limit` probes be scored, the same share of each kind and split, at least one.

    The others are dropped, or kept as known items where they are held out and have a source.
    """
    if limit is None:
        return probes
    asked = [row for row, probe in enumerate(probes) if probe.split != "confirm" or probe.kind == "traffic"]
    scored = _shared(probes, asked, limit, rng)
    held = sum(probes[row].kind == "traffic" and probes[row].split == "confirm" for row in scored)
    if held < need or not need:  # too few queries to judge by: known items stand for them
        scored = _shared(probes, range(len(probes)), limit, rng)
    out = []
    for row, probe in enumerate(probes):
        if row in scored:
            out.append(probe)
        elif probe.split != "train" and probe.source is not None:
            out.append(replace(probe, scored=False))
        else:
            dropped["more probes than generator.pairs allows"] += 1
    return out


def _shared(probes: Sequence[Probe], rows: Sequence[int], limit: int, rng: np.random.Generator) -> set[int]:
    of: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        of.setdefault((probes[row].kind, probes[row].split), []).append(row)
    share = min(limit / max(len(rows), 1), 1.0)
    return {row for own in of.values() for row in rng.permutation(own)[: max(int(len(own) * share), 1)].tolist()}


def _take(ordered: list[str], limit: int, rng: np.random.Generator, reason: str, dropped: Counter[str]) -> list[str]:
    """At most `limit` of them in random order, and the count of the others under `reason`."""
    if len(ordered) > limit:
        dropped[reason] += len(ordered) - limit
    return [ordered[row] for row in rng.permutation(len(ordered))[:limit]]
