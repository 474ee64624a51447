"""Batches of chunks for Revela: a few different chunks, each with chunks that are near it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.config import TeacherConfig
from ragself.corpus.words import words
from ragself.errors import InputError
from ragself.lexical.hybrid_score import Query
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.probes.candidate_documents import gather
from ragself.progress import Progress, silent

Rows = NDArray[np.int64]

_NEAR = 6  # nearest chunks, half by vector and half by words, from which a chunk's companions are drawn
_TOGETHER = 4  # a chunk and its companions


def distinct(texts: Sequence[str]) -> Rows:
    """Rows of texts that differ in more than case and punctuation, the first of each, (n,): a copy would leak all."""
    seen: dict[tuple[str, ...], int] = {}
    for row, text in enumerate(texts):
        seen.setdefault(tuple(words(text)), row)
    seen.pop((), None)
    return np.array(sorted(seen.values()), dtype=np.int64)


def plan(
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    size: int,
    count: int,
    seed: int,
    progress: Progress = silent,
) -> Rows:
    """Draw batches, in which chunks of one topic are each other's positives and hard negatives.

    The paper takes the chunks of few documents in their order. Here a document may be a single chunk, so companions
    are drawn from the nearest chunks, by vector and by words. Related chunks of the same document are among these.

    Args:
        texts: N chunks.
        vectors: (N, base) float32 base vectors.
        size: Chunks per batch.
        count: Number of batches.
        seed: Seed of the draw.
        progress: Called with the stage, chunks done and total.

    Returns:
        (count, size) rows of the texts, distinct in each row, in random order.

    Raises:
        InputError: There are fewer than two different chunks.
    """
    rows = distinct(texts)
    if len(rows) < 2:
        raise InputError(
            f"Revela trains on chunks that predict each other; found {len(rows)} that differ, expected at least 2. "
            "Add documents."
        )
    size = min(size, len(rows))
    random = np.random.default_rng(seed)
    first = -(-size // _TOGETHER)
    leaders = np.concatenate([random.permutation(len(rows)) for _ in range(-(-count * first // len(rows)))])
    distinct_leaders = np.unique(leaders[: count * first])
    some = [texts[row] for row in rows]
    half = TeacherConfig(dense=_NEAR // 2 + 1, lexical=_NEAR // 2 + 1, random=1)  # one more, since a chunk finds itself
    corpus = View.of(some)
    analysed = [Query.of(some[row], corpus) for row in distinct_leaders]
    near = gather(vectors[rows[distinct_leaders]], analysed, vectors[rows], corpus, Weights(), half, seed, progress)
    place = {int(row): at for at, row in enumerate(distinct_leaders)}
    out = np.empty((count, size), dtype=np.int64)
    for batch in range(count):
        chosen: dict[int, None] = {}
        for leader in leaders[batch * first : (batch + 1) * first].tolist():
            companions = random.permutation(near[place[leader]]).tolist()
            fresh = [row for row in companions if row != leader and row not in chosen]
            chosen.update(dict.fromkeys([leader, *fresh[: _TOGETHER - 1]]))
        for row in random.permutation(len(rows)).tolist():  # fills the places that shared companions left
            if len(chosen) >= size:
                break
            chosen.setdefault(row)
        out[batch] = random.permutation(list(chosen)[:size])
    return rows[out]
