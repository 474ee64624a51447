"""What one query sees: encoder, adapter and index of one version, pinned as one immutable object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragself.models.embedder import Embedder
from ragself.schema import Hit, Version
from ragself.serve.index import Index


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version, ready to answer. A switch makes another one; this one stays as it is."""

    version: Version
    embedder: Embedder
    index: Index

    def search(self, query: str, k: int, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """The `k` chunks nearest to `query`, nearest first."""
        return self.index.query(self.embedder.queries([query])[0], k, where, self.version.number)
