"""The candidates for the next version: rankings that were trained in different ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.config import TrainConfig
from ragself.encoders.vectors import BaseVectors
from ragself.lexical.weights import Weights
from ragself.probes.dataset import Study
from ragself.probes.targets import law, trust
from ragself.progress import Progress, silent

if TYPE_CHECKING:
    from ragself.training.distillation import Probed
    from ragself.training.lm_loss import Backprop

ORDER = ("weights", "residual", "lora")  # each may start from what those before it have learned


@dataclass(frozen=True, slots=True)
class Bench:
    """What training the encoder itself needs.

    Attributes:
        base: The encoder, and where its vectors are.
        inner: The ranking that LoRA is trained under; its adapter is None or a residual.
        state: A file to go on from where training was killed.
        backprop: What lowers a language model's loss; None distils its likelihoods.
    """

    base: BaseVectors
    inner: Ranking
    state: Path
    backprop: Backprop | None = None


def inner(trained: Mapping[str, Ranking]) -> Ranking:
    """What LoRA is trained under: the last of the others, or nothing that was learned."""
    return next((trained[kind] for kind in ("residual", "weights") if kind in trained), Ranking())


def teach(
    kind: str,
    study: Study,
    rows: NDArray[np.int64],
    weight: float,
    config: TrainConfig,
    progress: Progress = silent,
    bench: Bench | None = None,
) -> Ranking:
    """Train a ranking of a kind.

    Args:
        kind: ``weights``, ``residual`` or ``lora``.
        study: The probes and what the teacher knows of them.
        rows: Which of them to train on.
        weight: The teacher's.
        config: Steps and seed.
        progress: Told of steps.
        bench: What ``lora`` and objectives that backpropagate need besides; others do without.

    Raises:
        EncoderError: The encoder has no module for LoRA.
        GeneratorError: The objective cannot be learned with the language model.
    """
    if bench is not None and bench.backprop is not None:
        return bench.backprop.teach(kind, bench.inner, bench.state)
    if kind == "lora":
        assert bench is not None
        return _tuned(study, rows, weight, config, bench, progress)
    from ragself.training.trainer import Lesson, Schedule, train  # loads torch, which only training needs

    lesson = Lesson(
        study.queries[rows],
        study.documents,
        study.candidates[rows],
        target(study, rows, weight),
        np.isneginf(study.gains[rows]),
        study.weights[rows],
        study.words,
        study.matches.take(rows),
        study.tau,
        Weights(),
    )
    schedule = Schedule(steps=config.steps, seed=config.seed, **({} if kind == "residual" else {"rank": 0}))
    return train(lesson, schedule, progress, f"train {kind}").ranking


def target(study: Study, rows: NDArray[np.int64], weight: float) -> NDArray[np.float32]:
    """The teacher's law over the candidates of some probes, (len(rows), K) float32."""
    return law(study.gains[rows], study.floor[rows], trust(weight, study.lengths[rows]), study.tau)


def _tuned(
    study: Study, rows: NDArray[np.int64], weight: float, config: TrainConfig, bench: Bench, progress: Progress
) -> Ranking:
    from ragself.training.distillation import Lesson, Schedule
    from ragself.training.lora_trainer import tune

    kinds = sorted({study.probes[row].kind for row in rows})  # of others it learns nothing, and would seem to stand
    held = study.rows("select", kinds)
    held = held[study.judged[0][held]]
    used, inverse = np.unique(study.candidates[np.concatenate([rows, held])], return_inverse=True)
    places = inverse.reshape(-1, study.candidates.shape[1]).astype(np.int64)
    lesson = Lesson(
        _probed(study, rows, places[: len(rows)], weight, bench.inner),
        _probed(study, held, places[len(rows) :], weight, bench.inner),
        [study.texts[row] for row in used],
        study.documents[used],
    )
    batch = 32 if config.lora_sides == "query" else 16  # a step with documents takes as long as twenty without
    schedule = Schedule(config.lora_sides, config.lora_steps, config.lora_rank, batch, seed=config.seed)
    learned = tune(lesson, bench.base.encoder, bench.inner.adapter, schedule, bench.state, progress)
    return Ranking(learned.lora.bound(bench.base, progress), bench.inner.weights)


def _probed(study: Study, rows: NDArray[np.int64], places: NDArray[np.int64], weight: float, inner: Ranking) -> Probed:
    """Probes with the teacher's law: the one place where it is decided what LoRA learns towards."""
    from ragself.training.distillation import Probed

    texts = [study.probes[row].text for row in rows]
    lexical = study.matches.take(rows).scores(inner.weights, study.words.log_weight(inner.weights))
    out = np.isneginf(study.gains[rows])
    return Probed(texts, study.queries[rows], places, target(study, rows, weight), out, study.weights[rows], lexical)
