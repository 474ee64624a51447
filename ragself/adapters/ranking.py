"""The ranking of a version: the adapter of its dense vectors and the weights of its lexical scores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ragself.adapters.lora import Lora, bound
from ragself.adapters.protocol import Adapter
from ragself.encoders.encoder import Encoder
from ragself.encoders.vectors import BaseVectors
from ragself.lexical.weights import Weights
from ragself.progress import Progress, silent
from ragself.schema import VersionKind


@dataclass(frozen=True, eq=False)
class Ranking:
    """The trainable parts of the ranking law (`ragself.lexical.hybrid_score`).

    Attributes:
        adapter: Adapter of the dense vectors; None uses the base vectors.
        weights: Weights of the lexical scores.
    """

    adapter: Adapter | None = None
    weights: Weights = field(default_factory=Weights)

    @property
    def kind(self) -> VersionKind:
        """Kind of the adapter; without an adapter ``weights`` if the lexical weights are trained, else ``base``."""
        if self.adapter is not None:
            return self.adapter.kind
        return "weights" if self.weights.digest else "base"

    @property
    def documents(self) -> Adapter | None:
        """The adapter that the vectors of documents depend on; None if they are the base vectors."""
        adapter = self.adapter
        if isinstance(adapter, Lora) and not adapter.encodes("document"):
            return adapter.inner
        return adapter

    def interpolated(self, alpha: float) -> Ranking:
        """Interpolate between the untrained ranking, `alpha` 0, and this one, `alpha` 1."""
        adapter = None if self.adapter is None else self.adapter.interpolated(alpha)
        return Ranking(adapter, self.weights.interpolated(alpha))

    def bound(self, base: BaseVectors | Encoder, progress: Progress = silent) -> Ranking:
        """Make the ranking ready to encode texts: see `ragself.adapters.lora.bound`."""
        return replace(self, adapter=bound(self.adapter, base, progress))
