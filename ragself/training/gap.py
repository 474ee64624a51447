"""Possible gain of training with a language model: how much the right document lowers its loss, before training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.errors import GeneratorError

_LEAST = 0.02  # lower bound of the unit, nats per token


@dataclass(frozen=True, slots=True)
class Gap:
    """Decrease of the loss if the right document is favoured, compared with equal weights, nats per token.

    Attributes:
        mean: Mean over the texts tried.
        error: Standard error of the mean.
        count: Number of texts tried.
    """

    mean: float
    error: float
    count: int

    @property
    def unit(self) -> float:
        """Nats per token that count as 1 in the loss, so that penalties have a comparable weight."""
        return max(self.mean, _LEAST)

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> Gap:
        """Compute the gap from the differences of single texts."""
        return cls(
            float(differences.mean()), float(differences.std() / np.sqrt(max(len(differences), 1))), len(differences)
        )

    def check(self, objective: str) -> None:
        """Raise GeneratorError if the mean does not exceed its standard error."""
        if self.mean <= self.error:
            raise GeneratorError(
                f"There is nothing to learn by {objective} from this language model: over {self.count} texts the right "
                f"document lowers its loss by {self.mean:.3f} nats per token compared with equal weights, with a "
                f"standard error of {self.error:.3f}; expected more than that error. Use a language model that "
                "understands these documents, or leave train.objective at distill."
            )
