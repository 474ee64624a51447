"""Candidates for the next version: rankings trained in different ways."""

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
from ragself.probes.dataset import Dataset
from ragself.probes.targets import gain_weights, target_distribution
from ragself.progress import Progress, silent

if TYPE_CHECKING:
    from ragself.training.lm_loss import LmTrainer
    from ragself.training.lora_student import Probed

ORDER = ("weights", "residual", "lora")  # of training: a kind may build on the kinds before it


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """Inputs for training the encoder itself.

    Attributes:
        base: The encoder with its base vectors.
        inner: Ranking that LoRA is trained under; its adapter is None or a residual.
        state: File from which a killed training resumes.
        backprop: Trainer that minimises a language model's loss; None distils its likelihoods.
    """

    base: BaseVectors
    inner: Ranking
    state: Path
    backprop: LmTrainer | None = None


def inner(trained: Mapping[str, Ranking]) -> Ranking:
    """Ranking that LoRA is trained under: the last one trained of the other kinds, or the untrained one."""
    return next((trained[kind] for kind in ("residual", "weights") if kind in trained), Ranking())


def train_candidate(
    kind: str,
    dataset: Dataset,
    rows: NDArray[np.int64],
    weight: float,
    config: TrainConfig,
    progress: Progress = silent,
    context: TrainingContext | None = None,
) -> Ranking:
    """Train a ranking of one kind.

    Args:
        kind: ``weights``, ``residual`` or ``lora``.
        dataset: Probes with the teacher's evidence.
        rows: Rows of the probes to train on.
        weight: Weight of the likelihood gain in the teacher's targets.
        config: Steps and seed.
        progress: Called with the stage, steps done and total.
        context: Further inputs for ``lora`` and for objectives that backpropagate; other kinds need None.

    Raises:
        EncoderError: The encoder has no module for LoRA.
        GeneratorError: The objective does not work with the language model.
    """
    if context is not None and context.backprop is not None:
        return context.backprop.train(kind, context.inner, context.state)
    if kind == "lora":
        assert context is not None
        return _tuned(dataset, rows, weight, config, context, progress)
    from ragself.training.train_vectors import (  # imports torch, which only training needs
        VectorData,
        VectorSettings,
        train,
    )

    data = VectorData(
        dataset.queries[rows],
        dataset.documents,
        dataset.candidates[rows],
        target(dataset, rows, weight),
        np.isneginf(dataset.gains[rows]),
        dataset.weights[rows],
        dataset.words,
        dataset.matches.take(rows),
        dataset.tau,
        Weights(),
    )
    settings = VectorSettings(steps=config.steps, seed=config.seed, **({} if kind == "residual" else {"rank": 0}))
    return train(data, settings, progress, f"train {kind}").ranking


def target(dataset: Dataset, rows: NDArray[np.int64], weight: float) -> NDArray[np.float32]:
    """Teacher's distribution over the candidates of some probes, (len(rows), K) float32."""
    return target_distribution(
        dataset.gains[rows], dataset.untrained[rows], gain_weights(weight, dataset.lengths[rows]), dataset.tau
    )


def _tuned(
    dataset: Dataset,
    rows: NDArray[np.int64],
    weight: float,
    config: TrainConfig,
    context: TrainingContext,
    progress: Progress,
) -> Ranking:
    from ragself.training.lora_student import LoraData, LoraSettings
    from ragself.training.train_lora import train_lora

    kinds = sorted({dataset.probes[row].kind for row in rows})  # probes of other kinds would show no gain
    held = dataset.rows("select", kinds)
    held = held[dataset.judged[0][held]]
    used, inverse = np.unique(dataset.candidates[np.concatenate([rows, held])], return_inverse=True)
    places = inverse.reshape(-1, dataset.candidates.shape[1]).astype(np.int64)
    data = LoraData(
        _probed(dataset, rows, places[: len(rows)], weight, context.inner),
        _probed(dataset, held, places[len(rows) :], weight, context.inner),
        [dataset.texts[row] for row in used],
        dataset.documents[used],
    )
    batch = 32 if config.lora.sides == "query" else 16  # a step with documents takes as long as 20 without
    settings = LoraSettings(config.lora.sides, config.lora.steps, config.lora.rank, batch, seed=config.seed)
    learned = train_lora(data, context.base.encoder, context.inner.adapter, settings, context.state, progress)
    return Ranking(learned.lora.bound(context.base, progress), context.inner.weights)


def _probed(
    dataset: Dataset, rows: NDArray[np.int64], places: NDArray[np.int64], weight: float, inner: Ranking
) -> Probed:
    """Probes with the teacher's distribution. The training target of LoRA is defined here alone."""
    from ragself.training.lora_student import Probed

    texts = [dataset.probes[row].text for row in rows]
    lexical = dataset.matches.take(rows).scores(inner.weights, dataset.words.log_weight(inner.weights))
    out = np.isneginf(dataset.gains[rows])
    return Probed(
        texts, dataset.queries[rows], places, target(dataset, rows, weight), out, dataset.weights[rows], lexical
    )
