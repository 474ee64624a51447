"""Builds the index of a version from the journal, and verifies it before a switch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.embedder import agreement
from ragself.adapters.lora import afresh
from ragself.adapters.protocol import Adapter
from ragself.corpus.journal import Journal
from ragself.encoders.encoder import Encoder
from ragself.encoders.vectors import BaseVectors
from ragself.errors import VerificationError
from ragself.index.collection import ChromaCollection
from ragself.progress import Progress, silent

_SAMPLE = 200  # chunks that are compared, and searched for by their own text
_UNREACHABLE = 0.02  # HNSW graphs lose some points; a larger share means a broken build
_TOLERANCE = 1e-3  # cosine distance that another machine or batch size can cause in fp32
_TIE = 1e-4  # difference of scores, relative to the largest: chunks with the same text hide each other


def document_vectors(
    base: BaseVectors, adapter: Adapter | None, texts: Sequence[str], progress: Progress = silent
) -> NDArray[np.float32]:
    """Document vectors in a version's space, (len(texts), dimension) float32."""
    vectors = base.documents(texts, progress)
    return vectors if adapter is None else adapter.documents(vectors, texts)


def apply_changes(
    journal: Journal,
    name: str,
    index: ChromaCollection,
    base: BaseVectors,
    adapter: Adapter | None,
    progress: Progress = silent,
    stage: str = "index",
) -> int:
    """Apply all pending changes of the journal to an index, batch by batch.

    Chroma writes its graph in place. After a kill, the graph may return wrong results or crash the process that opens
    it. The journal therefore flags the collection until this function has finished; `VersionStore.repair` replaces
    collections that are still flagged.

    Args:
        journal: The documents.
        name: Name of the collection, under which the journal stores its position.
        index: The collection.
        base: Base vectors.
        adapter: Adapter of the version, or None for the plain base model.
        progress: Called with `stage`, changes applied and total.
        stage: Name of the stage.

    Returns:
        Number of changes applied.
    """
    done = 0
    total = journal.pending(journal.applied(name))
    if not total:
        return 0
    stopped: BaseException | None = None
    with journal.writing(name):
        for batch in journal.changes(journal.applied(name)):
            kept = [change.chunk for change in batch if change.chunk is not None]
            gone = [change.id for change in batch if change.chunk is None]
            if gone:
                index.delete(gone)
            if kept:
                index.upsert(kept, document_vectors(base, adapter, [chunk.text for chunk in kept]))
            journal.mark_applied(name, batch[-1].seq)
            done += len(batch)
            try:
                progress(stage, done, max(total, done))
            except BaseException as error:  # a caller may stop this between two writes
                stopped = error
                break
    if stopped is not None:
        raise stopped
    return done


def verify(
    journal: Journal, name: str, index: ChromaCollection, base: BaseVectors, encoder: Encoder, adapter: Adapter | None
) -> None:
    """Check a new index: every chunk is there, its vector is correct, and searches find it.

    The texts of some chunks serve as queries. The results of HNSW must be no worse than what the index is known to
    hold.

    Args:
        journal: The documents that must be in it, except changes that were not applied to the index yet.
        name: Name of the collection.
        index: The new index.
        base: Base vectors from the cache.
        encoder: The encoder, which encodes a few chunks again as canaries.
        adapter: Adapter of the version, as read back from disk; None for the plain base model.

    Raises:
        VerificationError: The check failed; the message says what was found and expected.
    """
    there = journal.chunks()
    later = {change.id for batch in journal.changes(journal.applied(name)) for change in batch}
    chunks = [chunk for chunk in there if chunk.id not in later]
    expected, found = {chunk.id for chunk in chunks}, index.ids() - later
    if expected != found:
        raise VerificationError(
            f"The new index holds {len(found)} chunks, expected {len(expected)} "
            f"({len(expected - found)} missing, {len(found - expected)} too many). Nothing was switched; run it again."
        )
    if not chunks:
        return
    rows = np.random.default_rng(0).permutation(len(chunks))[:_SAMPLE]
    sample = [chunks[row] for row in rows]
    stored, _ = index.vectors([chunk.id for chunk in sample])
    should = document_vectors(base, adapter, [chunk.text for chunk in sample])
    _compare(stored, should, "stored vectors", "computed vectors")

    canaries = [chunk.text for chunk in sample[:8]]
    fresh = encoder.documents(canaries)
    reembedding = afresh(adapter)
    fresh = fresh if reembedding is None else reembedding.documents(fresh, canaries)
    _compare(stored[: len(canaries)], fresh, "stored vectors", "canaries encoded again")

    texts = [chunk.text for chunk in sample]
    queries = base.documents(texts)
    queries = queries if adapter is None else adapter.queries(queries, texts)
    lost = _unreached(index, queries, stored, [chunk.id for chunk in sample])
    if lost > _UNREACHABLE * len(sample):
        raise VerificationError(
            f"{lost} of {len(sample)} chunks are not found although they are among the ten best, expected at most "
            f"{_UNREACHABLE:.0%}. Nothing was switched; run it again to build another index."
        )


def _compare(stored: NDArray[np.float32], should: NDArray[np.float32], what: str, other: str) -> None:
    worst = agreement(stored, should)
    if not worst >= 1.0 - _TOLERANCE:  # fails for nan, too
        raise VerificationError(
            f"The new index's {what} {stored.shape} and {other} {should.shape} agree only to a cosine of {worst:.4f}, "
            f"expected {1 - _TOLERANCE}. Nothing was switched; delete cache.db, which may be damaged, and run it again."
        )


def _unreached(
    index: ChromaCollection, queries: NDArray[np.float32], stored: NDArray[np.float32], ids: Sequence[str]
) -> int:
    """Number of stored vectors that score above a hit of a query but are not among its hits; each counts once.

    Args:
        index: The index, which returns the ten nearest.
        queries: (n, dimension) vectors of queries.
        stored: (n, dimension) vectors that the index holds.
        ids: Ids of the stored vectors.
    """
    scores = queries @ stored.T
    missed = set()
    for row, found in zip(scores, index.nearest(queries, 10), strict=True):
        worst = min(score for _, score in found)
        tie = _TIE * max(abs(score) for _, score in found)
        hits = {id for id, _ in found}
        missed |= {ids[at] for at in np.flatnonzero(row > worst + tie).tolist() if ids[at] not in hits}
    return len(missed)
