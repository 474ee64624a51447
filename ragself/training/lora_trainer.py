"""Tuning the encoder itself: LoRA learns the teacher's law, alone or under an adapter that stays as it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ragself.adapters.adapter import Adapter
from ragself.adapters.io import fingerprint
from ragself.adapters.lora import Lora
from ragself.encoders.encoder import Encoder
from ragself.progress import Progress, silent
from ragself.training.distillation import Lesson, Schedule, Student
from ragself.training.optimizer import Course, descend, turn

STAGE = "train lora"


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned.

    Attributes:
        lora: At the best look, over the inner adapter, bound to nothing.
        loss: KL divergence of each step.
        held: KL divergence of the held-out probes at each look, the first before anything is learned.
    """

    lora: Lora
    loss: tuple[float, ...]
    held: tuple[float, ...]


def tune(
    lesson: Lesson,
    encoder: Encoder,
    inner: Adapter | None,
    schedule: Schedule,
    state: Path | None = None,
    progress: Progress = silent,
) -> Learned:
    """Minimise KL(teacher || student) plus the distance to the base vectors. Deterministic on a CPU.

    Args:
        lesson: What to learn from.
        encoder: The base, which stays as it is.
        inner: Frozen, applied to the vectors; None or a Residual.
        schedule: How.
        state: A ``.safetensors`` file to go on from and to write to; None keeps nothing.
        progress: Told of steps.

    Raises:
        EncoderError: The encoder has no module for LoRA.
        StoreError: The state cannot be written.
    """
    run = _Distillation(lesson, encoder, inner, schedule)
    course = Course(schedule.steps, schedule.every, schedule.patience)
    loss, held = descend(run, course, state, progress, STAGE)
    return Learned(replace(run.student.reader.lora(schedule.sides), inner=inner), loss, held)


class _Distillation:
    """The student's divergence from its teacher, to be lowered."""

    def __init__(self, lesson: Lesson, encoder: Encoder, inner: Adapter | None, schedule: Schedule) -> None:
        self.student = Student(lesson, encoder, inner, schedule)
        self.lesson, self.schedule = lesson, schedule
        self.rates = ((tuple(self.student.reader.weights), schedule.rate), (("log_tau",), schedule.rate_tau))
        self.key = _key(lesson, encoder, inner, schedule)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """LoRA's, and the temperature."""
        return self.student.weights

    def learn(self, step: int) -> float:
        """Add the gradient of a batch; its KL divergence."""
        schedule, student, split = self.schedule, self.student, self.lesson.train
        rows = turn(np.arange(len(split.texts)), schedule.batch, schedule.seed, step)
        columns = student.columns(split, rows, np.random.default_rng([schedule.seed, step]))
        weights = split.weights[rows] / split.weights[rows].sum()
        total = 0.0
        for part in student.groups(split, rows, columns):  # probes do not depend on each other
            divergence, moved = student.loss(split, rows[part], columns[part])
            loss = divergence @ torch.from_numpy(weights[part])
            (loss + schedule.anchor * moved * (len(part) / len(rows))).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def look(self) -> float | None:
        """KL divergence of the held-out probes."""
        return self.student.divergence() if len(self.lesson.held.texts) else None


def _key(lesson: Lesson, encoder: Encoder, inner: Adapter | None, schedule: Schedule) -> str:
    """Hash of all that the bits of a run depend on."""
    digest = hashlib.blake2b(repr((fingerprint(encoder.fingerprint, inner), schedule)).encode(), digest_size=16)
    for split in (lesson.train, lesson.held):
        digest.update("\0".join(split.texts).encode("utf-8", "surrogatepass"))
        for array in (split.queries, split.candidates, split.target, split.leaks, split.weights, split.lexical):
            digest.update(np.ascontiguousarray(array).data)
    digest.update(np.ascontiguousarray(lesson.documents).data)
    return digest.hexdigest()
