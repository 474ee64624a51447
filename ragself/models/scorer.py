"""What supervises: the likelihood of a text, given a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class LikelihoodScorer(Protocol):
    """A language model that says how much likelier documents make a text.

    Attributes:
        name: What decides its answers besides the texts (model, revision, settings): the key of stored scores.
    """

    name: str

    def gains(self, targets: Sequence[str], candidates: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mean over the target's tokens of log p(token | document) - log p(token | no document).

        Args:
            targets: P texts.
            candidates: (P, K) rows of the scorer's documents.

        Returns:
            (P, K) float32, nats per token.
        """
        ...
