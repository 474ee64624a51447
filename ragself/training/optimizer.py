"""Minimises a loss with early stopping on held-out data, and keeps the best weights.

The state is saved every few seconds, and a killed run resumes with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ragself.progress import Progress, silent
from ragself.training import checkpoint as kept

EVERY = 10  # steps between two evaluations, where these are expensive
_SAVED = 20.0  # seconds between two saves: a kill loses at most this and one step
_WARM = 5  # steps of learning-rate warm-up


class Objective(Protocol):
    """Loss to minimise.

    Attributes:
        key: Hash of all inputs that determine the bits of a run.
    """

    key: str

    @property
    def rates(self) -> Sequence[tuple[Sequence[str], float]]:
        """Groups of trained weights: their names and their learning rate."""
        ...

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """All trained weights, by name."""
        ...

    def accumulate_gradient(self, step: int) -> float:
        """Add the gradient of a step to the weights, and return its loss. Both depend on weights and step alone."""
        ...

    def evaluate(self) -> float | None:
        """Held-out loss; None if nothing is held out."""
        ...


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Limits of a training run.

    Attributes:
        steps: Maximum number of optimiser steps.
        every: Steps between two evaluations on held-out data.
        patience: Evaluations without a gain after which training stops.
    """

    steps: int
    every: int
    patience: int


def minimize(
    objective: Objective, stopping: EarlyStopping, state: Path | None, progress: Progress = silent, stage: str = "train"
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Train the weights and leave them at their best evaluation. Deterministic on a CPU, where it uses one thread.

    Args:
        objective: Loss to minimise.
        stopping: Limits of the run.
        state: ``.safetensors`` file to resume from and to save to; None saves nothing.
        progress: Called with `stage`, steps done and total.
        stage: Name of the stage.

    Returns:
        The loss of each step; and the held-out loss at each evaluation, the first before training.

    Raises:
        StoreError: The state cannot be written.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits on every machine, as in `train`
    try:
        run = _Run(objective, stopping, state)
        run.minimise(progress, stage)
        return tuple(run.loss), tuple(run.held)
    finally:
        torch.set_num_threads(threads)


def batch_rows(rows: NDArray[np.int64], batch: int, seed: int, step: int) -> NDArray[np.int64]:
    """Rows of a step's batch. Each epoch visits all rows in its own random order; any step can be computed directly."""
    again, at = divmod(step, -(-len(rows) // batch))
    order = np.random.default_rng([seed, again]).permutation(rows)
    return np.asarray(order[at * batch : (at + 1) * batch])


class _Run:
    """State of a training run, and the file that it is saved to."""

    def __init__(self, objective: Objective, stopping: EarlyStopping, state: Path | None) -> None:
        self.objective, self.stopping, self.state = objective, stopping, state
        weights = objective.weights
        groups = [{"params": [weights[name] for name in names], "lr": rate} for names, rate in objective.rates]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        self.rates = [rate for _, rate in objective.rates]
        self.step, self.loss, self.held = 0, list[float](), list[float]()
        self.best = self._weights()
        if state is not None:
            self._resume(kept.read(state, objective.key))

    def minimise(self, progress: Progress, stage: str) -> None:
        """Train to the last step or until early stopping."""
        stopping, saved = self.stopping, time.monotonic()
        if not self.held:
            self._evaluate()
        while self.step < stopping.steps and not self._should_stop():
            self._take_step()
            if self.step % stopping.every == 0 or self.step == stopping.steps:
                self._evaluate()
            if time.monotonic() - saved > _SAVED or self.step % stopping.every == 0:
                self._save()
                saved = time.monotonic()
            progress(stage, self.step, stopping.steps)
        progress(stage, stopping.steps, stopping.steps)
        with torch.no_grad():
            for name, weight in self.objective.weights.items():
                weight.copy_(self.best[name])

    def _take_step(self) -> None:
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, (self.step + 1) / _WARM) * (1.0 - self.step / self.stopping.steps)
        self.optimiser.zero_grad()
        self.loss.append(self.objective.accumulate_gradient(self.step))
        self.optimiser.step()
        self.step += 1

    def _evaluate(self) -> None:
        """Compare the held-out loss with the best so far; without held-out data the newest weights are the best."""
        found = self.objective.evaluate()
        if found is None:
            self.best = self._weights()
            return
        if not self.held or found < min(self.held):
            self.best = self._weights()
        self.held.append(found)

    def _should_stop(self) -> bool:
        return bool(self.held) and len(self.held) - 1 - int(np.argmin(self.held)) >= self.stopping.patience

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.objective.weights.items()}

    def _save(self) -> None:
        if self.state is None:
            return
        numbers = {"step": torch.tensor(self.step), "loss": torch.tensor(self.loss, dtype=torch.float64)}
        numbers["held"] = torch.tensor(self.held, dtype=torch.float64)
        moments = kept.moments(self.optimiser, self.objective.weights)
        parts = (("now", self.objective.weights), ("best", self.best), ("moments", moments))
        tensors = {f"{part}/{name}": tensor for part, held in parts for name, tensor in held.items()}
        kept.write(self.state, self.objective.key, numbers | tensors)

    def _resume(self, saved: dict[str, Tensor]) -> None:
        if not saved:
            return
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "moments": {}}
        for key, tensor in saved.items():
            part, _, name = key.partition("/")
            if name:
                parts[part][name] = tensor
        with torch.no_grad():
            for name, weight in self.objective.weights.items():
                weight.copy_(parts["now"][name])
        self.best = parts["best"]
        kept.restore(self.optimiser, self.objective.weights, parts["moments"])
        self.step, self.loss, self.held = int(saved["step"]), saved["loss"].tolist(), saved["held"].tolist()
