"""The candidates for the next version: adapters trained in different ways, and one that is not trained at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ragself.config import TrainConfig
from ragself.learn.study import Study
from ragself.models.adapter import Adapter
from ragself.models.hybrid import Hybrid
from ragself.models.lexicon import Lexicon
from ragself.models.residual import Residual
from ragself.progress import Progress, silent

UNTRAINED_MIX = 0.2  # gained on every collection measured


def untrained(base: int, lexicon: Lexicon, width: int, mix: float = UNTRAINED_MIX) -> Hybrid:
    """The base vectors unchanged, widened by a sketch of word weights that were counted, not learned."""
    nothing = Residual(np.zeros((base, 1), np.float32), np.zeros((1, base), np.float32))
    return Hybrid(nothing, lexicon, mix, width)


def teach(
    kind: str,
    study: Study,
    rows: NDArray[np.int64],
    lexicon: Lexicon,
    weight: float,
    config: TrainConfig,
    progress: Progress = silent,
) -> Adapter:
    """Train an adapter of a kind.

    Args:
        kind: ``residual`` or ``hybrid``.
        study: The probes and what the teacher knows of them.
        rows: Which of them to train on.
        lexicon: Word weights of the corpus, where training begins.
        weight: The teacher's.
        config: Steps, width and seed.
        progress: Told of steps.
    """
    from ragself.learn.train import Lesson, Schedule, train  # loads torch, which only training needs

    used, inverse = np.unique(study.candidates[rows], return_inverse=True)
    lesson = Lesson(
        study.queries[rows],
        study.documents[used],
        inverse.reshape(len(rows), -1).astype(np.int64),
        study.gains[rows],
        study.weights[rows],
    )
    schedule = Schedule(weight, steps=config.steps, width=config.sketch, seed=config.seed)
    if kind == "residual":
        learned = train(lesson, schedule, progress, "train residual")
        return Residual(learned.down, learned.up)
    lesson = replace(
        lesson,
        query_words=lexicon.weigh([study.probes[row].text for row in rows], "query"),
        document_words=lexicon.weigh([study.texts[row] for row in used], "document"),
    )
    learned = train(lesson, schedule, progress, "train hybrid")
    assert learned.log_weight is not None  # there are words in the lesson
    return Hybrid(Residual(learned.down, learned.up), lexicon.learned(learned.log_weight), learned.mix, config.sketch)
