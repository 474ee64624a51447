"""What supervises: the likelihood of a text, given a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ragself.progress import Progress, silent
from ragself.schema import Probe


class LikelihoodScorer(Protocol):
    """A language model that says how much likelier documents make a text.

    Attributes:
        name: What decides its answers besides the texts: model, revision, settings.
    """

    name: str

    def gains(
        self, probes: Sequence[Probe], candidates: NDArray[np.int64], progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Mean over the target's tokens of log p(token | document) - log p(token | no telling document).

        Args:
            probes: P probes.
            candidates: (P, K) rows of the scorer's documents.
            progress: Told of what is scored.

        Returns:
            (P, K) float32, nats per token; -inf where there is no answer to be had.
        """
        ...
