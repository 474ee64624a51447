"""The protocol of the teacher: likelihood gains of texts, given documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ragself.progress import Progress, silent
from ragself.schema import Probe


class LikelihoodScorer(Protocol):
    """A language model that measures how much a document raises the likelihood of a text.

    Attributes:
        name: Everything besides the texts that determines its scores: model, revision, settings.
    """

    name: str

    def gains(
        self, probes: Sequence[Probe], candidates: NDArray[np.int64], progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Mean over the target's tokens of log p(token | document) - log p(token | no relevant document).

        Args:
            probes: P probes.
            candidates: (P, K) rows of the scorer's documents.
            progress: Called with the stage, scores done and total.

        Returns:
            (P, K) float32, nats per token; -inf where the model has no likelihood.
        """
        ...
