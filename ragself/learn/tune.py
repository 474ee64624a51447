"""Tuning the encoder itself: LoRA learns the teacher's law, alone or under an adapter that stays as it is.

What is trained is written every few seconds, and a killed run goes on with the same bits.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragself.learn import kept
from ragself.learn.distil import Lesson, Schedule, Student
from ragself.models.adapter import Adapter
from ragself.models.encoder import Encoder
from ragself.models.lora import Lora
from ragself.progress import Progress, silent

STAGE = "train lora"
_SAVED = 20.0  # seconds of work that a kill can cost, and one step


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
        inner: Frozen, around the vectors; None, a Residual or a Hybrid.
        schedule: How.
        state: A ``.safetensors`` file to go on from and to write to; None keeps nothing.
        progress: Told of steps.

    Raises:
        EncoderError: The encoder has no module for LoRA.
        StoreError: The state cannot be written.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits on every machine, as in `train`
    try:
        return _Run(lesson, encoder, inner, schedule, state).minimise(progress)
    finally:
        torch.set_num_threads(threads)


class _Run:
    """A student on its way, and where it is kept."""

    def __init__(
        self, lesson: Lesson, encoder: Encoder, inner: Adapter | None, schedule: Schedule, state: Path | None
    ) -> None:
        self.student = Student(lesson, encoder, inner, schedule)
        self.lesson, self.schedule, self.inner, self.state = lesson, schedule, inner, state
        groups = [
            {"params": list(self.student.reader.weights.values()), "lr": schedule.rate},
            {"params": [self.student.log_tau], "lr": schedule.rate_tau},
        ]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        self.rates = [schedule.rate, schedule.rate_tau]
        self.key = _key(lesson, encoder, inner, schedule)
        self.step, self.loss, self.held = 0, list[float](), list[float]()
        self.best = self._weights()
        if state is not None:
            self._resume(kept.read(state, self.key))

    def minimise(self, progress: Progress) -> Learned:
        """Train to the end, or until the held-out probes say that it is enough."""
        schedule, saved = self.schedule, time.monotonic()
        if not self.held:
            self._look()
        while self.step < schedule.steps and not self._enough():
            self._take_step()
            if self.step % schedule.every == 0 or self.step == schedule.steps:
                self._look()
            if time.monotonic() - saved > _SAVED or self.step % schedule.every == 0:
                self._save()
                saved = time.monotonic()
            progress(STAGE, self.step, schedule.steps)
        progress(STAGE, schedule.steps, schedule.steps)
        with torch.no_grad():
            for name, weight in self.student.weights.items():
                weight.copy_(self.best[name])
        lora = replace(self.student.reader.lora(schedule.sides), inner=self.inner)
        return Learned(lora, tuple(self.loss), tuple(self.held))

    def _take_step(self) -> None:
        schedule, student, split = self.schedule, self.student, self.lesson.train
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, (self.step + 1) / 5) * (1.0 - self.step / schedule.steps)
        rows = _batch(len(split.texts), schedule, self.step)
        columns = student.columns(split, rows, np.random.default_rng([schedule.seed, self.step]))
        weights = split.weights[rows] / split.weights[rows].sum()
        self.optimiser.zero_grad()
        total = 0.0
        for part in student.groups(split, rows, columns):  # probes do not depend on each other
            divergence, moved = student.loss(split, rows[part], columns[part])
            loss = divergence @ torch.from_numpy(weights[part])
            (loss + schedule.anchor * moved * (len(part) / len(rows))).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        self.optimiser.step()
        self.loss.append(total)
        self.step += 1

    def _look(self) -> None:
        """Compare with the best so far on the held-out probes; without any, the newest is the best."""
        found = self.student.divergence() if len(self.lesson.held.texts) else 0.0
        if not self.held or found < min(self.held) or not len(self.lesson.held.texts):
            self.best = self._weights()
        self.held.append(found)

    def _enough(self) -> bool:
        if not len(self.lesson.held.texts):
            return False
        return len(self.held) - 1 - int(np.argmin(self.held)) >= self.schedule.patience

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.student.weights.items()}

    def _save(self) -> None:
        if self.state is None:
            return
        numbers = {"step": torch.tensor(self.step), "loss": torch.tensor(self.loss, dtype=torch.float64)}
        numbers["held"] = torch.tensor(self.held, dtype=torch.float64)
        moments = kept.moments(self.optimiser, self.student.weights)
        parts = (("now", self.student.weights), ("best", self.best), ("moments", moments))
        tensors = {f"{part}/{name}": tensor for part, held in parts for name, tensor in held.items()}
        kept.write(self.state, self.key, numbers | tensors)

    def _resume(self, saved: dict[str, Tensor]) -> None:
        if not saved:
            return
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "moments": {}}
        for key, tensor in saved.items():
            part, _, name = key.partition("/")
            if name:
                parts[part][name] = tensor
        with torch.no_grad():
            for name, weight in self.student.weights.items():
                weight.copy_(parts["now"][name])
        self.best = parts["best"]
        kept.restore(self.optimiser, self.student.weights, parts["moments"])
        self.step, self.loss, self.held = int(saved["step"]), saved["loss"].tolist(), saved["held"].tolist()


def _batch(count: int, schedule: Schedule, step: int) -> NDArray[np.int64]:
    """Rows of a step's probes: every probe once, in random order, then again in another; of any step at once."""
    turn, at = divmod(step, math.ceil(count / schedule.batch))
    order = np.random.default_rng([schedule.seed, turn]).permutation(count)
    return order[at * schedule.batch : (at + 1) * schedule.batch]


def _key(lesson: Lesson, encoder: Encoder, inner: Adapter | None, schedule: Schedule) -> str:
    """Hash of all that the bits of a run depend on."""
    digest = hashlib.blake2b(repr((encoder.fingerprint, schedule)).encode(), digest_size=16)
    for split in (lesson.train, lesson.held):
        digest.update("\0".join(split.texts).encode("utf-8", "surrogatepass"))
        for array in (split.queries, split.candidates, split.target, split.leaks, split.weights):
            digest.update(np.ascontiguousarray(array).data)
    digest.update(np.ascontiguousarray(lesson.documents).data)
    for name, tensor in sorted(inner.tensors().items()) if inner is not None else ():
        digest.update(f"{name} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
