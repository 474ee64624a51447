"""Building the index of a version from the journal, and checking it before anything is switched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.adapter import Adapter
from ragself.adapters.embedder import agreement
from ragself.adapters.lora import afresh
from ragself.corpus.journal import Journal
from ragself.encoders.encoder import Encoder
from ragself.encoders.vectors import BaseVectors
from ragself.errors import VerificationError
from ragself.index.collection import Index
from ragself.progress import Progress, silent

_SAMPLE = 200  # chunks that are asked for by their own vector
_UNREACHABLE = 0.02  # HNSW graphs lose some points; more than this share is a broken build
_TOLERANCE = 1e-3  # cosine distance that fp32 on another machine or batch size can make
_TIE = 1e-4  # of scores, relative to the largest: chunks with one text hide each other


def document_vectors(
    base: BaseVectors, adapter: Adapter | None, texts: Sequence[str], progress: Progress = silent
) -> NDArray[np.float32]:
    """Vectors of documents in a version's space, (len(texts), dimension) float32."""
    vectors = base.documents(texts, progress)
    return vectors if adapter is None else adapter.documents(vectors, texts)


def apply_changes(
    journal: Journal,
    name: str,
    index: Index,
    base: BaseVectors,
    adapter: Adapter | None,
    progress: Progress = silent,
    stage: str = "index",
) -> int:
    """Bring an index up to the journal's head, batch by batch.

    Chroma writes its graph in place, and what a kill leaves of it may lie or crash the process that opens it. The
    collection is therefore marked in the journal until this has come to its end; `Store.repair` replaces those whose
    mark stayed.

    Args:
        journal: The documents.
        name: Name of the collection, under which the journal remembers how far it is.
        index: The collection.
        base: Base vectors.
        adapter: Of the version, or None for the plain base model.
        progress: Told of changes applied.
        stage: The name to tell it.

    Returns:
        How many changes were applied.
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
            except BaseException as error:  # a caller that wants it to stop does so between two writes
                stopped = error
                break
    if stopped is not None:
        raise stopped
    return done


def verify(
    journal: Journal, name: str, index: Index, base: BaseVectors, encoder: Encoder, adapter: Adapter | None
) -> None:
    """Check a built index: every chunk is there, its vector is the right one, and it is found where it belongs.

    Some chunks are asked for by their own text, as queries; what HNSW brings must be no worse than what it is known
    to hold.

    Args:
        journal: The documents that must be in it, those that have come since the index last followed aside.
        name: Name of the collection.
        index: What was built.
        base: Base vectors from the cache.
        encoder: The encoder itself, to encode a few chunks again as canaries.
        adapter: Of the version, as read back from disk; None for the plain base model.

    Raises:
        VerificationError: With what was found and expected.
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
    _compare(stored, should, "stored vectors", "the vectors that were computed")

    canaries = [chunk.text for chunk in sample[:8]]
    fresh = encoder.documents(canaries)
    reembedding = afresh(adapter)
    fresh = fresh if reembedding is None else reembedding.documents(fresh, canaries)
    _compare(stored[: len(canaries)], fresh, "stored vectors", "canaries encoded again")

    texts = [chunk.text for chunk in sample]
    asked = base.documents(texts)
    asked = asked if adapter is None else adapter.queries(asked, texts)
    lost = _unreached(index, asked, stored, [chunk.id for chunk in sample])
    if lost > _UNREACHABLE * len(sample):
        raise VerificationError(
            f"{lost} of {len(sample)} chunks are not found where they are among the ten best, expected at most "
            f"{_UNREACHABLE:.0%}. Nothing was switched; run it again to build another index."
        )


def _compare(stored: NDArray[np.float32], should: NDArray[np.float32], what: str, other: str) -> None:
    worst = agreement(stored, should)
    if not worst >= 1.0 - _TOLERANCE:  # nan is no agreement
        raise VerificationError(
            f"The new index's {what} {stored.shape} and {other} {should.shape} agree only to a cosine of {worst:.4f}, "
            f"expected {1 - _TOLERANCE}. Nothing was switched; delete cache.db, which may be damaged, and run it again."
        )


def _unreached(index: Index, asked: NDArray[np.float32], stored: NDArray[np.float32], ids: Sequence[str]) -> int:
    """How many of the stored vectors score above what a query brings, and are not among it; each is counted once.

    Args:
        index: That brings the ten nearest.
        asked: (n, dimension) queries.
        stored: (n, dimension) vectors that it holds.
        ids: Of those.
    """
    scores = asked @ stored.T
    missed = set()
    for row, found in zip(scores, index.nearest(asked, 10), strict=True):
        worst = min(score for _, score in found)
        tie = _TIE * max(abs(score) for _, score in found)
        brought = {id for id, _ in found}
        missed |= {ids[at] for at in np.flatnonzero(row > worst + tie).tolist() if ids[at] not in brought}
    return len(missed)
