"""Detection of query stuffing: documents that repeat many user queries word for word, so as to be found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.words import words
from ragself.schema import Probe

SEVERAL = 3  # minimum number of queries that one document repeats; in an FAQ each answer repeats its own question only
_LEAST = 4  # minimum number of words of a query that is not repeated by chance


def stuffed(probes: Sequence[Probe], texts: Sequence[str], found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the documents that hold at least `SEVERAL` of the users' queries.

    Args:
        probes: P probes; all but user queries are ignored.
        texts: Documents.
        found: (P, K) rows of `texts` that are searched for each query.

    Returns:
        (n,) int64 rows of these documents, ascending.
    """
    queries = [(row, f" {' '.join(words(p.text))} ") for row, p in enumerate(probes) if p.kind == "traffic"]
    queries = [(row, text) for row, text in queries if text.count(" ") > _LEAST]
    held: dict[int, str] = {}
    count: Counter[int] = Counter()
    for row, text in queries:
        for document in found[row].tolist():
            if document not in held:
                held[document] = f" {' '.join(words(texts[document]))} "
            count[document] += text in held[document]
    return np.array(sorted(document for document, times in count.items() if times >= SEVERAL), dtype=np.int64)
