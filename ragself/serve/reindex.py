"""Building the index of a version from the journal, and checking it before anything is switched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.journal import Journal
from ragself.errors import VerificationError
from ragself.models.adapter import Adapter
from ragself.models.encoder import Encoder
from ragself.models.lora import afresh
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress, silent
from ragself.serve.index import Index

_SAMPLE = 200  # chunks that are asked for by their own vector
_UNREACHABLE = 0.02  # HNSW graphs lose some points; more than this share is a broken build
_TOLERANCE = 1e-3  # cosine distance that fp32 on another machine or batch size can make


def document_vectors(
    base: BaseVectors, adapter: Adapter | None, texts: Sequence[str], progress: Progress = silent
) -> NDArray[np.float32]:
    """Vectors of documents in a version's space, (len(texts), dimension) float32."""
    vectors = base.documents(texts, progress)
    return vectors if adapter is None else adapter.documents(vectors, texts)


def follow(
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
    collection is therefore marked in the journal until this has come to its end; `Store.mend` replaces those whose
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
            except BaseException as error:  # whoever wants it to stop does so between two writes
                stopped = error
                break
    if stopped is not None:
        raise stopped
    return done


def verify(
    journal: Journal, name: str, index: Index, base: BaseVectors, encoder: Encoder, adapter: Adapter | None
) -> None:
    """Check a built index: every chunk is there, is found by its own vector, and the vector is the right one.

    Args:
        journal: The documents that must be in it, those that have come since the index last followed aside.
        name: Name of the collection.
        index: What was built.
        base: Base vectors from the cache.
        encoder: The encoder itself, to encode a few chunks afresh as canaries.
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
    stored = index.vectors([chunk.id for chunk in sample])
    should = document_vectors(base, adapter, [chunk.text for chunk in sample])
    _compare(stored, should, "stored vectors", "the vectors that were computed")

    canaries = [chunk.text for chunk in sample[:8]]
    fresh = encoder.documents(canaries)
    anew = afresh(adapter)
    fresh = fresh if anew is None else anew.documents(fresh, canaries)
    _compare(stored[: len(canaries)], fresh, "stored vectors", "canaries encoded afresh")

    lost = sum(
        chunk.id not in ids and not _has_twin(index, stored[row], ids)
        for row, (chunk, ids) in enumerate(zip(sample, index.nearest(stored, 10), strict=True))
    )
    if lost > _UNREACHABLE * len(sample):
        raise VerificationError(
            f"{lost} of {len(sample)} chunks are not found by their own vector, expected at most "
            f"{_UNREACHABLE:.0%}. Nothing was switched; run it again to build the index anew."
        )


def _compare(stored: NDArray[np.float32], should: NDArray[np.float32], what: str, other: str) -> None:
    worst = float((stored * should).sum(axis=1).min()) if stored.shape == should.shape else -1.0
    if not worst >= 1.0 - _TOLERANCE:  # nan is no agreement
        raise VerificationError(
            f"The new index's {what} {stored.shape} and {other} {should.shape} agree only to a cosine of {worst:.4f}, "
            f"expected {1 - _TOLERANCE}. Nothing was switched; delete cache.db, which may be damaged, and run it again."
        )


def _has_twin(index: Index, vector: NDArray[np.float32], ids: Sequence[str]) -> bool:
    """Whether the nearest chunk has the same vector: many chunks with one text hide each other."""
    return bool(ids) and float(index.vectors(ids[:1])[0] @ vector) > 1.0 - _TOLERANCE
