"""Builds probes, texts that stand for user queries, from queries, questions and chunks, and splits them."""

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

_SAME = 0.8  # minimum word overlap at which two queries go into the same split
_JUDGES = "more known items than probes.known_items"
_STRICT: tuple[Split, ...] = ("confirm", "select", "train")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n{2,}")
_EACH = 3  # maximum number of spans per chunk
_PIECES = 12  # maximum number of sentences or paragraphs of a chunk to examine
_FEWEST, _REST, _LONGEST = 4, 8, 60  # words: minimum of a span, minimum of the rest of its chunk, maximum of a span
_CUT = 8  # maximum length in words of a span from a text without sentences
_PROSE = 0.9  # minimum share of letters and spaces in prose


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of one pass.

    Attributes:
        probes: The probes in a reproducible order.
        dropped: Number of dropped texts, by reason.
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
    """Make probes from user queries, from questions written about chunks, and from the chunks themselves.

    User queries are the best training data (measured). If there are enough, only they are used for training, and the
    other kinds only for evaluation.

    Args:
        chunks: The corpus.
        queries: Texts that users searched for, unlabelled and with repetitions; or the count of each text.
        config: Maximum numbers of each kind.
        seed: Seed for sampling where there are more.
        questions: Questions that a language model wrote.
        limit: Maximum number of probes that a language model scores, sampled evenly; None means any number. Held-out
            known items beyond it stay unscored: their rank needs no likelihood.
        need: Minimum number of scored user queries in the confirm split. With fewer, or with 0, known items there are
            scored, too.
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
    ]  # spans are for evaluation only
    held = sum(probe.split == "confirm" for probe in [*traffic, *written, *titles, *spans])
    enough = queries_to_train_on < config.min_train <= queries_to_train_on + titles_to_train_on
    if enough and held >= need:
        titles = _sample(titles, config.titles, rng, "more titles than probes.titles", dropped)
    else:  # no title is trained on, so that all can be held out
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
    counts: Counter[str] = Counter()
    for query, times in queries.items():
        text = " ".join(query.split())
        key = " ".join(words(text))
        if key:
            distinct.setdefault(key, text)
            counts[key] += times
        else:
            dropped["query without a word"] += times
    taken = set(_take(sorted(distinct), config.traffic, rng, "more queries than probes.traffic", dropped))
    keys = [key for key in distinct if key in taken]
    if not keys:
        return []
    tokenised = [key.split() for key in keys]
    # Two wordings of one question must not be in different splits. All take the strictest split of any of them, so
    # that a query once held out is never trained on, whatever queries follow.
    labels = groups(Vocabulary.build(tokenised).counts(tokenised), _SAME).tolist()
    strictest: dict[int, Split] = {}
    for key, label in zip(keys, labels, strict=True):
        strictest[label] = min(_split(key, held_out=False), strictest.get(label, "train"), key=_STRICT.index)
    probes = [
        _probe("traffic", distinct[key], distinct[key], None, strictest[label])
        for key, label in zip(keys, labels, strict=True)
    ]
    return [
        replace(probe, weight=float(min(counts[key], config.max_weight)))
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
        else:  # a heading belongs to the first chunk below it
            split = _split(owners[0].source, held_out=held_out)
            probes.append(_probe("title", title, title, owners[0].id, split))
    return probes


def _spans(chunks: Sequence[Chunk], most: int, *, held_out: bool) -> list[Probe]:
    """Sentences of chunks, which the rest of their chunk should answer: one per chunk, or more if chunks are few.

    They are the first sentences or lines that read as prose. In code these are comments, never signatures. Of a text
    without sentences, the first words are taken.
    """
    each = min(max(most // max(len(chunks), 1), 1), _EACH)
    return [
        _probe("span", span, span, chunk.id, _split(chunk.source, held_out=held_out))
        for chunk in chunks
        for span in _sentences(_body(chunk), each)
    ]


def _sentences(body: str, most: int) -> list[str]:
    """Spans of a text, at most `most`."""
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
    """True if a text is prose rather than code: few characters other than letters and spaces."""
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return letters >= _PROSE * len(text)


def _body(chunk: Chunk) -> str:
    """The text after its title, which may occur twice: in the document and added by the loader."""
    body, title = chunk.text.strip(), (chunk.title or "").lstrip("# ")
    while title and (rest := body.lstrip("# \n")).startswith(title):
        body = rest.removeprefix(title).lstrip("# \n").strip()
    return body


def _probe(kind: ProbeKind, text: str, target: str, source: str | None, split: Split) -> Probe:
    identity = hashlib.blake2b(f"{kind}\0{text}\0{source}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Probe(identity, text, target, kind, source, split)


def _split(group: str, *, held_out: bool) -> Split:
    """The split of a group, stable as the corpus grows: train for four fifths, or for none with `held_out`."""
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
    """Limit the scored probes to about `limit`: the same share of each kind and split, at least one of each.

    The others are dropped, or kept unscored as known items if they are held out and have a source.
    """
    if limit is None:
        return probes
    preferred = [row for row, probe in enumerate(probes) if probe.split != "confirm" or probe.kind == "traffic"]
    scored = _shared(probes, preferred, limit, rng)
    held = sum(probes[row].kind == "traffic" and probes[row].split == "confirm" for row in scored)
    if held < need or not need:  # too few queries for evaluation: known items stand for them
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
    """At most `limit` items in random order; the number of the others is added to `dropped` under `reason`."""
    if len(ordered) > limit:
        dropped[reason] += len(ordered) - limit
    return [ordered[row] for row in rng.permutation(len(ordered))[:limit]]
