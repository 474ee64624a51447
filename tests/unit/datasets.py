"""Studies made by hand, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ragself.lexical.hybrid_score import Query
from ragself.lexical.view import View
from ragself.probes.dataset import Dataset
from ragself.probes.lexical_features import LexicalFeatures
from ragself.schema import Probe


def by_hand(
    probes: Sequence[Probe],
    texts: Sequence[str],
    queries: np.ndarray,
    documents: np.ndarray,
    candidates: np.ndarray | None = None,
    unit: float = 1.0,
    **change: Any,
) -> Dataset:
    """A study of traffic about which nothing is known but what is given; all documents are candidates."""
    corpus, count = View.of(texts), len(probes)
    found = np.tile(np.arange(len(texts)), (count, 1)) if candidates is None else candidates
    words = LexicalFeatures([Query.of(probe.text, corpus) for probe in probes], corpus, unit)
    leaks = np.zeros(found.shape, dtype=np.bool_)
    given = {
        "probes": tuple(probes),
        "texts": tuple(texts),
        "size": len(texts),
        "documents": documents.astype(np.float32),
        "queries": queries.astype(np.float32),
        "words": words,
        "candidates": found,
        "matches": words.listed(found, leaks) if count else None,
        "leaks": leaks,
        "gains": np.zeros(found.shape, np.float32),
        "positive": np.full(count, -1),
        "source": np.full(count, -1),
        "lengths": np.full(count, 10),
        "overlap": np.full(count, np.nan, np.float32),
        "stuffed": np.empty(0, np.int64),
    }
    return Dataset(**(given | change))
