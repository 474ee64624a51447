"""The candidates for the next version: adapters trained in different ways, and one that is not trained at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ragself.config import TrainConfig
from ragself.learn.study import Study
from ragself.learn.teacher import trust
from ragself.models.adapter import Adapter
from ragself.models.hybrid import UNTRAINED, Hybrid
from ragself.models.lexicon import Lexicon
from ragself.models.residual import Residual
from ragself.progress import Progress, silent


def untrained(base: int, lexicon: Lexicon, width: int, texts: Sequence[str]) -> Hybrid:
    """The base vectors unchanged, widened by a sketch of word weights that were counted in `texts`, not learned."""
    nothing = Residual(np.zeros((base, 1), np.float32), np.zeros((1, base), np.float32))
    return Hybrid.around(nothing, lexicon, UNTRAINED, width, texts)


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
    from ragself.learn.train import Lesson, Schedule, Words, train  # loads torch, which only training needs

    used, inverse = np.unique(study.candidates[rows], return_inverse=True)
    lesson = Lesson(
        study.queries[rows],
        study.documents[used],
        inverse.reshape(len(rows), -1).astype(np.int64),
        study.gains[rows],
        study.weights[rows],
        trust(weight, study.lengths[rows]),
    )
    schedule = Schedule(config.steps, strength=weight, width=config.sketch, seed=config.seed)
    if kind == "residual":
        learned = train(lesson, schedule, progress, "train residual")
        return Residual(learned.down, learned.up)
    asked, searched = [study.probes[row].text for row in rows], [study.texts[row] for row in used]
    words = Words(
        lexicon.weigh(asked, "query"),
        lexicon.weigh(searched, "document"),
        lexicon.levels(asked, "query"),
        lexicon.levels(searched, "document"),
        lexicon.balance,
    )
    learned = train(replace(lesson, words=words), schedule, progress, "train hybrid")
    assert learned.log_weight is not None  # there are words in the lesson
    residual = Residual(learned.down, learned.up)
    return Hybrid.around(
        residual, lexicon.learned(learned.log_weight), learned.strength, config.sketch, study.texts[: study.size]
    )
