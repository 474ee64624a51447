"""Fine-tuning of the encoder: the teacher is distilled into LoRA, alone or under a frozen adapter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ragself.adapters.lora import Lora
from ragself.adapters.protocol import Adapter
from ragself.adapters.ranking_file import fingerprint
from ragself.encoders.encoder import Encoder
from ragself.progress import Progress, silent
from ragself.training.lora_student import LoraData, LoraSettings, LoraStudent
from ragself.training.optimizer import EarlyStopping, batch_rows, minimize

STAGE = "train lora"


@dataclass(frozen=True, slots=True)
class TrainedLora:
    """Result of the training of LoRA.

    Attributes:
        lora: LoRA at the best evaluation, with its inner adapter, not bound to an encoder.
        loss: KL divergence of each step.
        held: KL divergence of the held-out probes at each evaluation, the first before training.
    """

    lora: Lora
    loss: tuple[float, ...]
    held: tuple[float, ...]


def train_lora(
    data: LoraData,
    encoder: Encoder,
    inner: Adapter | None,
    settings: LoraSettings,
    state: Path | None = None,
    progress: Progress = silent,
) -> TrainedLora:
    """Minimise KL(teacher || student) plus the distance to the base vectors. Deterministic on a CPU.

    Args:
        data: Training data.
        encoder: The base encoder, which is not changed.
        inner: Frozen adapter of the vectors; None or a Residual.
        settings: Steps, sizes, rates and seed.
        state: ``.safetensors`` file to resume from and to save to; None saves nothing.
        progress: Called with the stage, steps done and total.

    Raises:
        EncoderError: The encoder has no module for LoRA.
        StoreError: The state cannot be written.
    """
    run = _Distillation(data, encoder, inner, settings)
    stopping = EarlyStopping(settings.steps, settings.every, settings.patience)
    loss, held = minimize(run, stopping, state, progress, STAGE)
    return TrainedLora(replace(run.student.reader.lora(settings.sides), inner=inner), loss, held)


class _Distillation:
    """Objective: the divergence of the student from its teacher."""

    def __init__(self, data: LoraData, encoder: Encoder, inner: Adapter | None, settings: LoraSettings) -> None:
        self.student = LoraStudent(data, encoder, inner, settings)
        self.data, self.settings = data, settings
        self.rates = ((tuple(self.student.reader.weights), settings.rate), (("log_tau",), settings.rate_tau))
        self.key = _key(data, encoder, inner, settings)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Weights of LoRA, and the temperature."""
        return self.student.weights

    def accumulate_gradient(self, step: int) -> float:
        """Add the gradient of a batch and return its KL divergence."""
        settings, student, split = self.settings, self.student, self.data.train
        rows = batch_rows(np.arange(len(split.texts)), settings.batch, settings.seed, step)
        columns = student.columns(split, rows, np.random.default_rng([settings.seed, step]))
        weights = split.weights[rows] / split.weights[rows].sum()
        total = 0.0
        for part in student.groups(split, rows, columns):  # probes are independent
            divergence, moved = student.loss(split, rows[part], columns[part])
            loss = divergence @ torch.from_numpy(weights[part])
            (loss + settings.anchor * moved * (len(part) / len(rows))).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def evaluate(self) -> float | None:
        """KL divergence of the held-out probes; None if there are none."""
        return self.student.divergence() if len(self.data.held.texts) else None


def _key(data: LoraData, encoder: Encoder, inner: Adapter | None, settings: LoraSettings) -> str:
    """Hash of all inputs that determine the bits of a run."""
    digest = hashlib.blake2b(repr((fingerprint(encoder.fingerprint, inner), settings)).encode(), digest_size=16)
    for split in (data.train, data.held):
        digest.update("\0".join(split.texts).encode("utf-8", "surrogatepass"))
        for array in (split.queries, split.candidates, split.target, split.leaks, split.weights, split.lexical):
            digest.update(np.ascontiguousarray(array).data)
    digest.update(np.ascontiguousarray(data.documents).data)
    return digest.hexdigest()
