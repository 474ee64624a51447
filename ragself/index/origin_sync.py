"""Follows a collection that another program fills: checks its model, and applies its changes.

Its vectors are reused if the base model reproduces them, so that nothing needs to be encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.embedder import AGREEMENT
from ragself.corpus.journal import Journal
from ragself.corpus.validate import fault
from ragself.encoders.encoder import Encoder
from ragself.encoders.vectors import BaseVectors
from ragself.errors import InputError
from ragself.index.origin import PAGE, Origin
from ragself.index.row_formats import flatten
from ragself.progress import Progress, silent
from ragself.schema import Added, Chunk, Skipped

_SAMPLE = 64  # texts that are encoded for the comparison
_PROOF = 16  # texts of each page that are encoded before its vectors are reused
_MOST = 0.95  # share of the sample that must agree: some rows may have been altered since they were embedded
_UNIT = 1e-3
_NAME_IT = "Name that model as the encoder (`embed_model` in LlamaIndex, `embedding` in LangChain, --encoder here)."


def verify_origin(origin: Origin, encoder: Encoder, progress: Progress = silent) -> bool:
    """Check that a collection was embedded by this encoder, and that cosine ranks it as its own distance does.

    Args:
        origin: The collection.
        encoder: The base model.
        progress: Called with the stage, rows compared and total.

    Returns:
        Whether line breaks were embedded as spaces.

    Raises:
        InputError: It is empty or holds no text, or its vectors are from another model or not comparable by cosine.
        StoreError: It cannot be read.
    """
    name = origin.place.collection
    ids = origin.ids()
    if not ids:
        raise InputError(f"The collection {name!r} in {origin.place.place} is empty. Fill it first, or name another.")
    drawn = np.random.default_rng(0).permutation(len(ids))[:_SAMPLE]
    chunks, vectors = origin.rows([ids[row] for row in drawn])
    if not chunks:
        raise InputError(
            f"The collection {name!r} holds no row with a text and a vector (checked {len(drawn)} of {len(ids)} rows). "
            "ragself trains on texts: build the collection with documents."
        )
    width = vectors.shape[1]
    if width != encoder.dimension:
        raise InputError(
            f"The vectors of the collection {name!r} have {width} dimensions, but those of {encoder.name} have "
            f"{encoder.dimension}: it was built with another model. {_NAME_IT}"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    if origin.space != "cosine" and float(np.ptp(lengths)) > _UNIT * float(lengths.mean()):
        raise InputError(
            f"The collection {name!r} ranks by {origin.space}, and its vectors have lengths from {lengths.min():.3f} "
            f"to {lengths.max():.3f}. ragself ranks by cosine, which would give another order. Build the collection "
            "with normalised vectors, or with the space cosine."
        )
    progress("compare vectors", 0, len(chunks))
    cosines = _agreement(vectors, encoder.documents([chunk.text for chunk in chunks]))
    progress("compare vectors", len(chunks), len(chunks))
    if _most(cosines):
        return False
    if _most(_agreement(vectors, encoder.documents([flatten(chunk).text for chunk in chunks]))):
        return True
    raise InputError(
        f"{encoder.name} does not reproduce the vectors of the collection {name!r}: their cosine is "
        f"{np.median(cosines):.3f} (median of {len(chunks)} rows; {cosines.min():.3f} to {cosines.max():.3f}), "
        f"expected {AGREEMENT}. It was built with another model, or with other prompts. {_NAME_IT}"
    )


def _most(cosines: NDArray[np.float32]) -> bool:
    return float((cosines >= AGREEMENT).mean()) >= _MOST


def _agreement(stored: NDArray[np.float32], encoded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row of two (n, dimension) arrays."""
    lengths = np.linalg.norm(stored, axis=1)
    cosines: NDArray[np.float32] = (stored * encoded).sum(axis=1) / np.maximum(lengths, 1e-12)
    return cosines


def follow_origin(origin: Origin, journal: Journal, base: BaseVectors, progress: Progress = silent) -> Added:
    """Apply all changes of the origin to the journal; a kill loses at most one page.

    Args:
        origin: The collection.
        journal: The chunks adopted so far, and those added otherwise.
        base: Base vectors; those of the origin are added to them if the encoder reproduces these.
        progress: Called with the stage, rows read and total.

    Returns:
        The numbers of added, unchanged and removed chunks, and the skipped rows.

    Raises:
        InputError: The collection is empty. Nothing is deleted then.
        StoreError: It cannot be read.
    """
    ids = origin.ids()
    if not ids:
        raise InputError(f"The collection {origin.place.collection!r} is empty now. Nothing was deleted here.")
    adopted = journal.adopted()
    present: set[str] = set()
    skipped: list[Skipped] = []
    added = unchanged = 0
    for done, (page, textless) in enumerate(origin.chunks(ids)):
        progress("read collection", min(done * PAGE, len(ids)), len(ids))
        skipped += textless
        own = journal.holds([chunk.id for chunk in page]) - adopted
        kept, refused = _sift(page, own)
        skipped += refused
        changed = journal.changed(kept)
        if changed:
            _take_over(origin, changed, base)
            base.documents([chunk.text for chunk in changed], progress)
            journal.put(changed, adopted=True)
        present.update(chunk.id for chunk in kept)
        added, unchanged = added + len(changed), unchanged + len(kept) - len(changed)
    progress("read collection", len(ids), len(ids))
    removed = journal.delete(sorted(adopted - present))
    return Added(added, unchanged, removed, skipped=tuple(skipped))


def _sift(page: Sequence[Chunk], own: set[str]) -> tuple[list[Chunk], list[Skipped]]:
    """Chunks that can be stored, and the others, each with the reason."""
    reasons = ["it was added here before" if chunk.id in own else fault(chunk) for chunk in page]
    kept = [chunk for chunk, reason in zip(page, reasons, strict=True) if reason is None]
    return kept, [Skipped(chunk.id, reason) for chunk, reason in zip(page, reasons, strict=True) if reason is not None]


def _take_over(origin: Origin, changed: Sequence[Chunk], base: BaseVectors) -> None:
    """Reuse the origin's vectors of these chunks if the encoder reproduces every vector of a sample."""
    chunks, stored = origin.rows([chunk.id for chunk in changed])
    if not chunks or stored.shape[1] != base.dimension:
        return
    rows = np.random.default_rng(0).permutation(len(chunks))[:_PROOF]
    encoded = base.encoder.documents([chunks[row].text for row in rows])
    if float(_agreement(stored[rows], encoded).min()) >= AGREEMENT:
        base.keep([chunk.text for chunk in chunks], stored / np.linalg.norm(stored, axis=1, keepdims=True))
