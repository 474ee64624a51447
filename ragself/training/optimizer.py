"""Going down a loss: what is held out says when to stop, and the best is kept.

What is trained is written every few seconds, and a killed run goes on with the same bits.
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

EVERY = 10  # steps between two looks that are dear
_SAVED = 20.0  # seconds of work that a kill can cost, and one step
_WARM = 5  # steps until the rate is what it says


class Objective(Protocol):
    """What is to become small.

    Attributes:
        key: Hash of all that the bits of a run depend on.
    """

    key: str

    @property
    def rates(self) -> Sequence[tuple[Sequence[str], float]]:
        """Names of weights that are trained, and their learning rate, by group."""
        ...

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """All that is trained, by name."""
        ...

    def accumulate_gradient(self, step: int) -> float:
        """Add the gradient of a step to the weights, and return its loss. Depends on nothing but weights and step."""
        ...

    def evaluate(self) -> float | None:
        """The loss of what is held out; None where nothing is."""
        ...


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """How far.

    Attributes:
        steps: Of the optimiser, at most.
        every: Steps between two looks at what is held out.
        patience: Looks without a gain after which it stops.
    """

    steps: int
    every: int
    patience: int


def minimize(
    objective: Objective, stopping: EarlyStopping, state: Path | None, progress: Progress = silent, stage: str = "train"
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Train the weights and leave them at their best look. Deterministic on a CPU, where it takes one thread.

    Args:
        objective: What to lower.
        course: How far.
        state: A ``.safetensors`` file to go on from and to write to; None keeps nothing.
        progress: Told of steps.
        stage: The name to tell it.

    Returns:
        The loss of each step; and of what is held out at each look, the first before anything is learned.

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
    """Those of a step: every one once, in random order, then again in another; of any step at once."""
    again, at = divmod(step, -(-len(rows) // batch))
    order = np.random.default_rng([seed, again]).permutation(rows)
    return np.asarray(order[at * batch : (at + 1) * batch])


class _Run:
    """Weights on their way, and where they are kept."""

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
        """Train to the end, or until what is held out says that it is enough."""
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
        """Compare with the best so far on what is held out; without any, the newest is the best."""
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
