"""What a pass would cost: the same plan as the pass, with nothing done."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ragself.config import Config
from ragself.cycle import MIN_DOCUMENTS, blocked_reason, tally
from ragself.engine.engine import Store
from ragself.engine.reembedding import reembedding
from ragself.engine.status import read_status
from ragself.errors import LimitError
from ragself.lm.gain import IRRELEVANT
from ragself.lm.prompts import QUESTION_TOKENS, TARGET_TOKENS, prompt
from ragself.lm.scorer import NOISE_PAIRS, LanguageModelScorer
from ragself.probes.dataset import without
from ragself.probes.probes import make
from ragself.probes.questions import LOOKALIKES, plan
from ragself.probes.supervision import Supervision, affordable, scored, supervise, wanted_questions
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Forecast, Probe

_SAMPLE = 64  # prompts whose tokens are counted
_TRIAL = 4  # probes, each with a few documents, that a model is timed with that was never timed
_ENCODED = 32  # texts that the encoder is timed with
_PER_SCORE = 80  # bytes of a stored score besides four for each token of its target, measured with SQLite's overhead
_STAGES = ("train", "judge", "re-embed")


def forecast(store: Store, queries: Mapping[str, int], config: Config, progress: Progress = silent) -> Forecast:
    """Plan a pass and tell what it would take at most.

    Args:
        store: The knowledge base.
        queries: What users asked, and how often.
        config: Settings.
        progress: Told of what is timed.

    Raises:
        GeneratorError: The language model cannot be loaded or reached.
    """
    chunks = store.journal.chunks()
    with supervise(config, store.directory) as supervision:
        reads = supervision.generator is not None and len(chunks) >= MIN_DOCUMENTS
        questions = len(plan(chunks, wanted_questions(config))) if reads else 0
        probes = make(
            chunks,
            queries,
            config.probes,
            config.train.seed,
            limit=affordable(config, questions),
            need=config.gate.min_probes,
        )
        missing = blocked_reason(chunks, probes, config) if not questions else None
        seconds: dict[str, float] = {}
        rates: dict[str, float] = {}
        space: dict[str, int] = {}
        prompts = tokens = inside = 0
        through = None
        if reads:
            teacher = scored(config) or config.teacher
            width = min(teacher.dense + teacher.lexical + teacher.random, len(chunks)) + IRRELEVANT
            # A question is read with each of its look-alikes; then, as a probe, with its candidates.
            checked = questions * (min(LOOKALIKES + 1, len(chunks)) + IRRELEVANT)
            to_score = sum(probe.scored for probe in probes.probes)
            asked = min(to_score + questions, affordable(config, questions) or sys.maxsize)
            prompts = checked + asked * width + NOISE_PAIRS
            context, target = _lengths(supervision, chunks, probes.probes, config)
            about_questions = checked + questions + min(questions, asked) * width
            tokens = int(prompts * (context + target) + about_questions * QUESTION_TOKENS + questions * context)
            rates["tokens"] = _scoring_rate(supervision, chunks, probes.probes, progress)
            seconds["score"] = tokens / rates["tokens"]
            space["scores.db"] = int(prompts * (_PER_SCORE + 4 * target))
            if config.train.objective != "distill":
                from ragself.training import lm_loss as backprop  # loads torch, as the language model does

                inside, forwards = backprop.forecast(config.train, context, target)
                if not config.generator.url:  # else it was the server that was timed
                    through = forwards * inside / rates["tokens"]
        texts, asked_texts = _to_encode(store, chunks, probes.probes)
        encode = len(texts) + len(asked_texts)
        if encode:
            rates["encode"] = _encoding_rate(store, texts, asked_texts, progress)
            seconds["encode"] = encode / rates["encode"]
        again = reembedding(store.base, _documents(chunks, probes.probes), config.train)
        if again is not None:
            seconds["encode anew"] = again.seconds
        last: dict[str, Any] = next(
            (event["report"] for event in reversed(store.registry.history()) if event.get("report")), {}
        )
        same = (last.get("objective") or {}).get("name", "distill") == config.train.objective
        stages = _STAGES if same else _STAGES[1:]  # what another objective took to train says nothing
        seconds.update({stage: value for stage, value in last.get("seconds", {}).items() if stage in stages})
        if through is not None:
            seconds["train"] = through
        space["versions"] = _index_bytes(store, config, len(chunks))
        return Forecast(
            scorer=supervision.name,
            documents=len(chunks),
            probes=tally(probes),
            questions=questions,
            prompts=prompts,
            stored=len(supervision.cache) if supervision.cache else 0,
            tokens=tokens,
            inside=inside,
            encode=encode,
            rates={name: round(rate, 1) for name, rate in rates.items()},
            seconds={stage: round(value, 1) for stage, value in seconds.items()},
            bytes=space,
            blocked_reason=missing,
            reembedding=again,
        )


def _lengths(
    supervision: Supervision, chunks: Sequence[Chunk], probes: Sequence[Probe], config: Config
) -> tuple[float, float]:
    """Mean tokens of context and target, from a sample."""
    assert supervision.generator is not None
    random = np.random.default_rng(0)
    documents = [chunks[row].text for row in random.permutation(len(chunks))[:_SAMPLE]]
    asked = [probes[row] for row in random.permutation(len(probes))[:_SAMPLE]] or [_any(chunks[0])]
    made = [prompt(document, asked[row % len(asked)]) for row, document in enumerate(documents)]
    bodies = supervision.generator.encode([one.document for one in made])
    frames = supervision.generator.encode([one.head + one.tail for one in made])
    targets = supervision.generator.encode([one.target for one in made])
    context = np.mean([min(len(body), config.generator.context) for body in bodies]) + np.mean([len(f) for f in frames])
    return float(context), float(np.mean([min(len(target), TARGET_TOKENS) for target in targets]))


def _scoring_rate(
    supervision: Supervision, chunks: Sequence[Chunk], probes: Sequence[Probe], progress: Progress
) -> float:
    """Tokens a second: as when it last scored, or of a few texts now."""
    assert supervision.generator is not None
    assert supervision.cache is not None
    model = supervision.cache.latest(supervision.generator.name)
    if model is not None and model.rate:
        return model.rate
    scorer = supervision.scorer([chunk.text for chunk in chunks], len(chunks))
    assert isinstance(scorer, LanguageModelScorer)
    trial = list(probes[:_TRIAL]) or [_any(chunks[0])]
    rows = np.random.default_rng(0).integers(len(chunks), size=(len(trial), 6))
    return scorer.time(trial, rows, progress)


def _any(chunk: Chunk) -> Probe:
    text = chunk.text[:60]
    return Probe("trial", text, text, "question", chunk.id, "train")


def _to_encode(store: Store, chunks: Sequence[Chunk], probes: Sequence[Probe]) -> tuple[list[str], list[str]]:
    """Texts without a vector: documents, also as they are shown to their own probes, and probes."""
    asked = store.base.missing([probe.text for probe in probes], "query")
    return store.base.missing(_documents(chunks, probes), "document"), asked


def _documents(chunks: Sequence[Chunk], probes: Sequence[Probe]) -> list[str]:
    """Texts that are searched: the chunks, and those that are shown to their own probes."""
    by_id = {chunk.id: chunk.text for chunk in chunks}
    return [*by_id.values(), *(without(by_id[probe.source], probe) for probe in probes if probe.source is not None)]


def _encoding_rate(store: Store, documents: Sequence[str], queries: Sequence[str], progress: Progress) -> float:
    """Texts a second, of a few that need not be encoded again."""
    encode, texts = (store.base.documents, documents) if documents else (store.base.queries, queries)
    encode(texts[:1], progress)  # the model is loaded
    sample = texts[1 : 1 + _ENCODED] or texts
    began = time.perf_counter()
    encode(sample, progress)
    return len(sample) / max(time.perf_counter() - began, 1e-3)


def _index_bytes(store: Store, config: Config, chunks: int) -> int:
    """Size of a new index, as large by number of the vectors as those that are here; 0 where no vector can move."""
    if not {"residual", "lora"} & set(config.train.adapters):
        return 0
    versions = {version.collection for version in store.registry.versions()}
    here = read_status(store.directory).bytes["versions"]
    return int(here / max(chunks * len(versions), 1) * chunks)


def within(tokens: int, cost: Forecast, config: Config) -> Config:
    """The settings of a pass that costs at most so many tokens of a language model, by scoring fewer pairs.

    Raises:
        LimitError: So few are left that nothing could be learned.
    """
    if cost.tokens + cost.inside <= tokens:
        return config
    pairs = int(cost.prompts * max(tokens - cost.inside, 0) / cost.tokens)
    need = config.generator.candidates * config.gate.min_probes
    if pairs < need:
        raise LimitError(
            f"A pass would cost about {cost.tokens + cost.inside:,} tokens, and {tokens:,} are left for today: too few "
            "to learn from. Raise watch.tokens, or wait."
        )
    return config.model_copy(update={"generator": config.generator.model_copy(update={"pairs": pairs})})
