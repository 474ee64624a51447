"""Generation and filtering of questions that a language model writes about chunks: known items like user queries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.words import Vocabulary, words
from ragself.lm.language_model import LanguageModel, identify
from ragself.lm.likelihood_scorer import LikelihoodScorer
from ragself.lm.prompts import QUESTION_TOKENS, WRITINGS, Writing
from ragself.lm.score_cache import ScoreCache, digest
from ragself.probes.duplicates import groups
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Probe

LOOKALIKES = 15  # number of chunks most similar to the source, against which a question is checked
TOP = 3  # worst rank by p(question | document) that the source may have among them
_LEAST_WORDS = 12  # minimum number of words of a chunk to write a question about
_SAME = 0.8  # minimum word overlap at which two questions count as one
_CHARACTERS = 3000  # maximum number of characters of a chunk in the prompt: a question is about one thing
_TEMPLATE = 64  # tokens reserved for the chat template
_THOUGHT = re.compile(r"^.*</think>|<think>.*$", re.DOTALL)  # the chat template may hold the opening tag
_LABEL = re.compile(r"^((question|search query|search|query|q)\s*\d*\s*[:.)]|\d{1,2}[.)]|[-•])\W*\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the id of the chunk that it was written about."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of one pass.

    Attributes:
        questions: The accepted questions.
        dropped: Number of dropped questions, by reason.
        checked: Number of questions that were checked against look-alikes of their source.
    """

    questions: tuple[Question, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    checked: int = 0


def write(
    chunks: Sequence[Chunk], count: int, generator: LanguageModel, cache: ScoreCache, progress: Progress = silent
) -> Questions:
    """Write questions with the language model: one per chunk, or a question and a search query if chunks are too few.

    Args:
        chunks: The corpus. Chunks are taken from as many documents as possible.
        count: Number of questions to request.
        generator: The language model.
        cache: Store of written questions; they are read from it, and new ones are added.
        progress: Called with the number of questions written and the total.

    Raises:
        GeneratorError: The model cannot be reached. Questions written before that stay in the cache.
    """
    jobs = plan(chunks, count)
    written = _written(jobs, generator, cache, progress)
    dropped: Counter[str] = Counter()
    kept: dict[str, Question] = {}
    for (chunk, _), text in zip(jobs, written, strict=True):
        question, reason = _clean(text, chunk)
        key = " ".join(words(question))
        if not reason and key in kept:
            reason = "question written before"
        if reason:
            dropped[reason] += 1
        else:
            kept[key] = Question(question, chunk.id)
    if not kept:
        return Questions((), dict(dropped))
    tokenised = [key.split() for key in kept]
    labels = groups(Vocabulary.build(tokenised).counts(tokenised), _SAME)
    first = dict(zip(reversed(labels.tolist()), reversed(list(kept.values())), strict=True))
    if len(first) < len(kept):
        dropped["question written before"] += len(kept) - len(first)
    return Questions(tuple(question for question in kept.values() if question in set(first.values())), dict(dropped))


def plan(chunks: Sequence[Chunk], count: int) -> list[tuple[Chunk, Writing]]:
    """The chunks to write about, each with a kind of prompt: one per document in turn, stable as the corpus grows."""
    by_source: dict[str, list[Chunk]] = {}
    for chunk in sorted(chunks, key=lambda chunk: digest(chunk.id)):
        if len(words(chunk.text)) >= _LEAST_WORDS:
            by_source.setdefault(chunk.source, []).append(chunk)
    ordered = sorted(
        ((turn, digest(source), chunk) for source, own in by_source.items() for turn, chunk in enumerate(own)),
        key=lambda item: item[:2],
    )
    return [(chunk, writing) for writing in WRITINGS for _, _, chunk in ordered][:count]


def keep_found(
    written: Questions,
    chunks: Sequence[Chunk],
    vectors: NDArray[np.float32],
    scorer: Callable[[Sequence[str], int], LikelihoodScorer],
    progress: Progress = silent,
) -> Questions:
    """Keep a question if, among the chunks most similar to its source, the source is in the top three by likelihood.

    Args:
        written: Questions about `chunks`.
        chunks: The N chunks of the corpus.
        vectors: (N, base) base vectors of the chunks.
        scorer: Makes a scorer from documents and the number of those that belong to the corpus.
        progress: Called with the number of pairs scored and the total.
    """
    if not written.questions:
        return written
    row_of = {chunk.id: row for row, chunk in enumerate(chunks)}
    sources = np.array([row_of[question.source] for question in written.questions])
    width = min(LOOKALIKES + 1, len(chunks))
    candidates = np.empty((len(sources), width), dtype=np.int64)
    for at, source in enumerate(sources.tolist()):
        likeness = vectors @ vectors[source]
        likeness[source] = np.inf
        candidates[at] = np.argsort(-likeness, kind="stable")[:width]  # the source first
    probes = [Probe(question.source, question.text, question.text, "question", question.source, "train")
              for question in written.questions]  # fmt: skip
    gains = scorer([chunk.text for chunk in chunks], len(chunks)).gains(probes, candidates, progress)
    better = (gains[:, 1:] > gains[:, :1]).sum(axis=1)
    found = np.isfinite(gains[:, 0]) & (better < TOP)
    dropped = dict(written.dropped)
    if not found.all():
        dropped[f"question whose source is not in the top {TOP} of its look-alikes"] = int((~found).sum())
    kept = tuple(question for question, good in zip(written.questions, found, strict=True) if good)
    return Questions(kept, dropped, len(found))


def _written(
    jobs: Sequence[tuple[Chunk, Writing]], generator: LanguageModel, cache: ScoreCache, progress: Progress
) -> list[str]:
    """The text for each job, from the cache or newly written; empty where the model wrote nothing."""
    if not jobs:
        return []
    model = cache.latest(generator.name)

    def keys() -> list[bytes]:
        name = f"{generator.name}#{model.id if model else ''}"
        return [digest(name, writing.name, chunk.text) for chunk, writing in jobs]

    found = cache.look_up_texts(keys())
    if model is None or len(found) < len(set(keys())):
        model = identify(generator, cache)
        found = cache.look_up_texts(keys())
    total = len(set(keys()))
    done = len(found)
    for writing in WRITINGS:
        missing = {
            key: chunk.text for key, (chunk, of) in zip(keys(), jobs, strict=True) if of is writing and key not in found
        }
        if not missing:
            continue
        order = list(missing)
        for batch in generator.write(_shown(list(missing.values()), writing, generator), writing):
            texts = [(order[position], text or "") for position, text in batch]
            cache.store_texts(model, texts)
            found.update(texts)
            done += len(batch)
            progress("write questions", min(done, total), total)
    return [found.get(key, "") for key in keys()]


def _shown(documents: Sequence[str], writing: Writing, generator: LanguageModel) -> list[str]:
    """Documents truncated so that the instruction and the answer fit into the model's context."""
    (frame,) = generator.encode([writing.chat.format(document="")])
    room = max(generator.limit - len(frame) - QUESTION_TOKENS - _TEMPLATE, 16)
    texts = [document[:_CHARACTERS] for document in documents]
    # A token is at least one byte, so short texts need no counting.
    long = [row for row, text in enumerate(texts) if len(text.encode()) > room]
    while long:
        counts = [len(ids) for ids in generator.encode([texts[row] for row in long])]
        for row, count in zip(long, counts, strict=True):
            if count > room:  # the beginning may have more tokens than the end: count again
                texts[row] = texts[row][: int(len(texts[row]) * room / count)]
        long = [row for row, count in zip(long, counts, strict=True) if count > room]
    return texts


def _clean(text: str, chunk: Chunk) -> tuple[str, str]:
    """The question in a model's output, and the reason why it is dropped; an empty reason means that it is kept."""
    lines = [line.strip() for line in _THOUGHT.sub("", text.replace("\ufffd", "")).splitlines()]
    line = next((line for line in lines if line), "")
    question = " ".join(_LABEL.sub("", line.strip("*_#>` ")).strip("\"'“”„«» *").split())
    count = len(words(question))
    if count < 3:
        return question, "question of fewer than three words"
    if count > 40:
        return question, "question of more than forty words"
    if f" {' '.join(words(question))} " in f" {' '.join(words(chunk.text))} ":
        return question, "question that its source holds word for word"
    return question, ""
