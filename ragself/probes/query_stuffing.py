"""Documents that repeat what users ask, word for word and many times: whoever wrote them wants to be found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.words import words
from ragself.schema import Probe

SEVERAL = 3  # queries that one document repeats; of a list of questions with answers each has its own
_LEAST = 4  # words of a query that is not repeated by chance


def stuffed(probes: Sequence[Probe], texts: Sequence[str], found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the documents that hold at least `SEVERAL` of the users' queries.

    Args:
        probes: P probes; those that no user asked are passed over.
        texts: Documents.
        found: (P, K) rows of `texts`, in which each query is looked for.

    Returns:
        (n,) int64 rows of the documents, ascending.
    """
    asked = [(row, f" {' '.join(words(p.text))} ") for row, p in enumerate(probes) if p.kind == "traffic"]
    asked = [(row, text) for row, text in asked if text.count(" ") > _LEAST]
    held: dict[int, str] = {}
    count: Counter[int] = Counter()
    for row, text in asked:
        for document in found[row].tolist():
            if document not in held:
                held[document] = f" {' '.join(words(texts[document]))} "
            count[document] += text in held[document]
    return np.array(sorted(document for document, times in count.items() if times >= SEVERAL), dtype=np.int64)
