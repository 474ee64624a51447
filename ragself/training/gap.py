"""How much there is to learn from a language model: what it gains by the right document, before any is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.errors import GeneratorError

_LEAST = 0.02  # nats per token below which a gap is none


@dataclass(frozen=True, slots=True)
class Gap:
    """How much lower the loss is with the right document in view than with all alike, nats per token.

    Attributes:
        mean: Over what was tried.
        error: Standard error of the mean.
        count: How many were tried.
    """

    mean: float
    error: float
    count: int

    @property
    def unit(self) -> float:
        """What counts as 1 in the loss, so that what keeps a student close to the base weighs alike."""
        return max(self.mean, _LEAST)

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> Gap:
        """From single differences."""
        return cls(
            float(differences.mean()), float(differences.std() / np.sqrt(max(len(differences), 1))), len(differences)
        )

    def check(self, objective: str) -> None:
        """Raise GeneratorError where there is nothing to learn."""
        if self.mean <= self.error:
            raise GeneratorError(
                f"There is nothing to learn by {objective} from this language model: over {self.count} texts the right "
                f"document lowers its loss by {self.mean:.3f} nats per token against all alike, with a standard error "
                f"of {self.error:.3f}; expected more than that. Take a language model that reads these "
                "documents, or leave train.objective at distill."
            )
