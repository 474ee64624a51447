"""The candidates for the next version: adapters trained in different ways, and one that is not trained at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ragself.config import TrainConfig
from ragself.learn.calibrate import WEIGHT
from ragself.learn.study import Study
from ragself.learn.teacher import law, trust
from ragself.models.adapter import Adapter
from ragself.models.hybrid import Hybrid
from ragself.models.lexicon import Lexicon
from ragself.models.residual import Residual
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress, silent

if TYPE_CHECKING:
    from ragself.learn.backprop import Backprop
    from ragself.learn.frame import Probed


def lexicon_of(study: Study) -> Lexicon:
    """Words of the corpus, and which of them are asked in training; what is held out is not looked at."""
    asked = [study.probes[row].text for row in study.rows("train", ["traffic"])]
    return Lexicon.fit(study.texts[: study.size], asked)


def untrained(study: Study, lexicon: Lexicon, weight: float, width: int) -> Hybrid:
    """The base vectors unchanged, widened by a sketch of word weights that were counted in the corpus, not learned.

    Args:
        study: What the corpus is, and the temperature of its cosines.
        lexicon: Of the corpus.
        weight: The teacher's; more than the usual one says nothing about words that nothing was learned for.
        width: Of the sketch.
    """
    base = study.documents.shape[1]
    nothing = Residual(np.zeros((base, 1), np.float32), np.zeros((1, base), np.float32))
    return Hybrid.around(nothing, lexicon, min(weight, WEIGHT) * study.tau, width, study.texts[: study.size])


@dataclass(frozen=True, slots=True)
class Bench:
    """What training the encoder itself needs.

    Attributes:
        base: The encoder, and where its vectors are.
        inner: The adapter that is put around it, trained before; None for none.
        state: A file to go on from where training was killed.
        backprop: What lowers a language model's loss; None distils its likelihoods.
    """

    base: BaseVectors
    inner: Adapter | None
    state: Path
    backprop: Backprop | None = None


def teach(
    kind: str,
    study: Study,
    rows: NDArray[np.int64],
    lexicon: Lexicon,
    weight: float,
    config: TrainConfig,
    progress: Progress = silent,
    bench: Bench | None = None,
) -> Adapter:
    """Train an adapter of a kind.

    Args:
        kind: ``residual``, ``hybrid`` or ``lora``.
        study: The probes and what the teacher knows of them.
        rows: Which of them to train on.
        lexicon: Word weights of the corpus, where training begins.
        weight: The teacher's.
        config: Steps, width and seed.
        progress: Told of steps.
        bench: What ``lora`` and objectives that backpropagate need besides; others do without.

    Raises:
        EncoderError: The encoder has no module for LoRA.
        GeneratorError: The objective cannot be learned with the language model.
    """
    if bench is not None and bench.backprop is not None:
        return bench.backprop.teach(kind, bench.inner if kind == "lora" else None, bench.state)
    if kind == "lora":
        assert bench is not None
        return _tuned(study, rows, weight, config, bench, progress)
    from ragself.learn.student import Words
    from ragself.learn.train import Lesson, Schedule, train  # loads torch, which only training needs

    used, inverse = np.unique(study.candidates[rows], return_inverse=True)
    lesson = Lesson(
        study.queries[rows],
        study.documents[used],
        inverse.reshape(len(rows), -1).astype(np.int64),
        study.gains[rows],
        study.weights[rows],
        trust(weight, study.lengths[rows]),
        study.tau,
    )
    schedule = Schedule(steps=config.steps, strength=weight, width=config.sketch, seed=config.seed)
    if kind == "residual":
        learned = train(lesson, schedule, progress, "train residual")
        return Residual(learned.down, learned.up)
    asked, searched = [study.probes[row].text for row in rows], [study.texts[row] for row in used]
    words = Words.of(lexicon, asked, searched)
    learned = train(replace(lesson, words=words), schedule, progress, "train hybrid")
    return made(learned.down, learned.up, learned.log_weight, learned.strength, lexicon, study, config.sketch)


def made(
    down: NDArray[np.float32],
    up: NDArray[np.float32],
    log_weight: NDArray[np.float32] | None,
    strength: float,
    lexicon: Lexicon,
    study: Study,
    width: int,
) -> Adapter:
    """The residual that was learned, and with words the hybrid.

    Args:
        down, up: Of the residual.
        log_weight: Logarithms of what was learned of each word, (V,); None where there were no words.
        strength: Of the lexical score, in cosine per nat.
        lexicon: Word weights, as before.
        study: What the corpus is.
        width: Of the sketch.
    """
    residual = Residual(down, up)
    if log_weight is None:
        return residual
    return Hybrid.around(residual, lexicon.learned(log_weight), strength, width, study.texts[: study.size])


def _tuned(
    study: Study, rows: NDArray[np.int64], weight: float, config: TrainConfig, bench: Bench, progress: Progress
) -> Adapter:
    from ragself.learn.distil import Lesson, Schedule
    from ragself.learn.tune import tune

    kinds = sorted({study.probes[row].kind for row in rows})  # of others it learns nothing, and would seem to stand
    held = study.rows("select", kinds)
    held = held[study.judged[0][held]]
    used, inverse = np.unique(study.candidates[np.concatenate([rows, held])], return_inverse=True)
    places = inverse.reshape(-1, study.candidates.shape[1]).astype(np.int64)
    lesson = Lesson(
        _probed(study, rows, places[: len(rows)], weight),
        _probed(study, held, places[len(rows) :], weight),
        [study.texts[row] for row in used],
        study.documents[used],
    )
    batch = 32 if config.lora_sides == "query" else 16  # a step with documents takes as long as twenty without
    schedule = Schedule(config.lora_sides, config.lora_steps, config.lora_rank, batch, seed=config.seed)
    learned = tune(lesson, bench.base.encoder, bench.inner, schedule, bench.state, progress)
    return learned.lora.bound(bench.base, progress)


def _probed(study: Study, rows: NDArray[np.int64], places: NDArray[np.int64], weight: float) -> Probed:
    """Probes with the teacher's law: the one place where it is decided what LoRA learns towards."""
    from ragself.learn.frame import Probed

    gains, texts = study.gains[rows], [study.probes[row].text for row in rows]
    mass = law(gains, study.base[rows], trust(weight, study.lengths[rows]), study.tau)
    return Probed(texts, study.queries[rows], places, mass, np.isneginf(gains), study.weights[rows])
