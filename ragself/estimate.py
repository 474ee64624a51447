"""Estimates the cost of a pass, from the same plan and without running it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ragself.config import Config
from ragself.cycle import MIN_DOCUMENTS, blocked_reason, tally
from ragself.engine.reembedding import reembedding
from ragself.engine.status import read_status
from ragself.engine.version_store import VersionStore
from ragself.errors import LimitError
from ragself.lm.cached_scorer import NOISE_PAIRS, LanguageModelScorer
from ragself.lm.gain import IRRELEVANT
from ragself.lm.prompts import QUESTION_TOKENS, TARGET_TOKENS, prompt
from ragself.probes.dataset import without
from ragself.probes.probes import make
from ragself.probes.questions import LOOKALIKES, plan
from ragself.probes.supervision import Supervision, affordable, scored, supervise, wanted_questions
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Forecast, Probe

_SAMPLE = 64  # number of prompts in the sample whose tokens are counted
_TRIAL = 4  # number of probes, each with a few documents, for timing a model without a recorded rate
_ENCODED = 32  # number of texts for timing the encoder
_PER_SCORE = 80  # bytes per stored score besides four per token of its target, measured with SQLite's overhead
_STAGES = ("train", "judge", "re-embed")


def forecast(store: VersionStore, queries: Mapping[str, int], config: Config, progress: Progress = silent) -> Forecast:
    """Plan a pass and estimate its maximum cost.

    Args:
        store: The knowledge base.
        queries: Texts that users searched for, with their counts.
        config: Settings.
        progress: Called with each stage that is timed, the number done and the total.

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
            # A question is scored with each of its look-alikes; then, as a probe, with its candidates.
            checked = questions * (min(LOOKALIKES + 1, len(chunks)) + IRRELEVANT)
            to_score = sum(probe.scored for probe in probes.probes)
            scorable = min(to_score + questions, affordable(config, questions) or sys.maxsize)
            prompts = checked + scorable * width + NOISE_PAIRS
            context, target = _lengths(supervision, chunks, probes.probes, config)
            about_questions = checked + questions + min(questions, scorable) * width
            tokens = int(prompts * (context + target) + about_questions * QUESTION_TOKENS + questions * context)
            rates["tokens"] = _scoring_rate(supervision, chunks, probes.probes, progress)
            seconds["score"] = tokens / rates["tokens"]
            space["scores.db"] = int(prompts * (_PER_SCORE + 4 * target))
            if config.train.objective != "distill":
                from ragself.training import lm_loss as backprop  # loads torch, as the language model does

                inside, forwards = backprop.forecast(config.train, context, target)
                if not config.generator.url:  # else the server was timed, not the model in this process
                    through = forwards * inside / rates["tokens"]
        texts, query_texts = _to_encode(store, chunks, probes.probes)
        encode = len(texts) + len(query_texts)
        if encode:
            rates["encode"] = _encoding_rate(store, texts, query_texts, progress)
            seconds["encode"] = encode / rates["encode"]
        again = reembedding(store.base, _documents(chunks, probes.probes), config.train)
        if again is not None:
            seconds["encode by lora"] = again.seconds
        last: dict[str, Any] = next(
            (event["report"] for event in reversed(store.registry.history()) if event.get("report")), {}
        )
        same = (last.get("objective") or {}).get("name", "distill") == config.train.objective
        stages = _STAGES if same else _STAGES[1:]  # the training time of another objective does not apply
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
    """Mean number of tokens of context and target, from a sample."""
    assert supervision.generator is not None
    random = np.random.default_rng(0)
    documents = [chunks[row].text for row in random.permutation(len(chunks))[:_SAMPLE]]
    sample = [probes[row] for row in random.permutation(len(probes))[:_SAMPLE]] or [_any(chunks[0])]
    made = [prompt(document, sample[row % len(sample)]) for row, document in enumerate(documents)]
    bodies = supervision.generator.encode([one.document for one in made])
    frames = supervision.generator.encode([one.head + one.tail for one in made])
    targets = supervision.generator.encode([one.target for one in made])
    context = np.mean([min(len(body), config.generator.context) for body in bodies]) + np.mean([len(f) for f in frames])
    return float(context), float(np.mean([min(len(target), TARGET_TOKENS) for target in targets]))


def _scoring_rate(
    supervision: Supervision, chunks: Sequence[Chunk], probes: Sequence[Probe], progress: Progress
) -> float:
    """Tokens per second of the language model: the recorded rate, or one measured now on a few texts."""
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


def _to_encode(store: VersionStore, chunks: Sequence[Chunk], probes: Sequence[Probe]) -> tuple[list[str], list[str]]:
    """Texts without a cached vector: documents with the passages of probes, and queries."""
    queries = store.base.missing([probe.text for probe in probes], "query")
    return store.base.missing(_documents(chunks, probes), "document"), queries


def _documents(chunks: Sequence[Chunk], probes: Sequence[Probe]) -> list[str]:
    """The texts of the chunks, and the passages: source chunks without their probe's text."""
    by_id = {chunk.id: chunk.text for chunk in chunks}
    return [*by_id.values(), *(without(by_id[probe.source], probe) for probe in probes if probe.source is not None)]


def _encoding_rate(store: VersionStore, documents: Sequence[str], queries: Sequence[str], progress: Progress) -> float:
    """Texts per second of the encoder, measured on a few texts, whose vectors stay in the cache."""
    encode, texts = (store.base.documents, documents) if documents else (store.base.queries, queries)
    encode(texts[:1], progress)  # loads the model
    sample = texts[1 : 1 + _ENCODED] or texts
    began = time.perf_counter()
    encode(sample, progress)
    return len(sample) / max(time.perf_counter() - began, 1e-3)


def _index_bytes(store: VersionStore, config: Config, chunks: int) -> int:
    """Bytes of a new index, at the size per vector of the existing ones; 0 if no adapter changes vectors."""
    if not {"residual", "lora"} & set(config.train.adapters):
        return 0
    versions = {version.collection for version in store.registry.versions()}
    here = read_status(store.directory).bytes["versions"]
    return int(here / max(chunks * len(versions), 1) * chunks)


def within(tokens: int, cost: Forecast, config: Config) -> Config:
    """Settings of a pass that costs at most `tokens` language model tokens, by scoring fewer pairs.

    Raises:
        LimitError: The tokens are too few for training.
    """
    if cost.tokens + cost.inside <= tokens:
        return config
    pairs = int(cost.prompts * max(tokens - cost.inside, 0) / cost.tokens)
    need = config.generator.candidates * config.gate.min_probes
    if pairs < need:
        raise LimitError(
            f"A pass would cost about {cost.tokens + cost.inside:,} tokens, and {tokens:,} are left for today: too few "
            "for training. Raise watch.tokens, or wait."
        )
    return config.model_copy(update={"generator": config.generator.model_copy(update={"pairs": pairs})})
