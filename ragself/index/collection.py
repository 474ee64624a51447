"""One Chroma collection bound to one fingerprint: vectors, texts and metadata of a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.errors import ChromaError, NotFoundError
from numpy.typing import NDArray

from ragself.errors import InputError, StoreError
from ragself.schema import Chunk, Hit

FINGERPRINT = "ragself:fingerprint"

_PAGE = 1000  # ids per request; SQLite takes 32,766 values in all
_MOST = 10_000  # maximum number of hits whose texts are requested in the same query


class ChromaCollection:
    """A collection of chunks with their vectors. Several threads may read it."""

    def __init__(self, collection: chromadb.Collection, batch: int) -> None:
        """Wrap an open collection, which is written `batch` rows at a time; `ChromaDatabase` creates these objects."""
        self._collection = collection
        self._batch = batch

    def __len__(self) -> int:
        """Number of chunks."""
        with _asking():
            return int(self._collection.count())

    def upsert(self, chunks: Sequence[Chunk], vectors: NDArray[np.float32]) -> None:
        """Write chunks with their vectors, (len(chunks), dimension) float32; existing ids are replaced.

        A chunk cannot be found for the moment in which it is replaced. Chroma's own upsert has no such moment, but it
        keeps removed metadata keys, and leaves some changed vectors unreachable.
        """
        for start in range(0, len(chunks), self._batch):
            part = chunks[start : start + self._batch]
            ids = [chunk.id for chunk in part]
            with _writing():
                replaced = self._collection.get(ids=ids, include=[])["ids"]
                if replaced:
                    self._collection.delete(ids=replaced)
                self._collection.add(
                    ids=ids,
                    embeddings=vectors[start : start + self._batch],
                    documents=[chunk.shown for chunk in part],
                    metadatas=[dict(chunk.metadata) or None for chunk in part],  # type: ignore[misc,arg-type]
                )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete chunks; ids that do not exist are ignored."""
        for start in range(0, len(ids), self._batch):
            with _writing():
                self._collection.delete(ids=list(ids[start : start + self._batch]))

    def ids(self) -> set[str]:
        """Ids of all chunks."""
        with _asking():
            return set(self._collection.get(include=[])["ids"])

    def find(self, where: Mapping[str, Any]) -> list[str]:
        """Ids of the chunks that match a metadata filter. Raises InputError if Chroma refuses it."""
        with _asking(where):
            return list(self._collection.get(where=dict(where), include=[])["ids"])

    def allowed(self, ids: Sequence[str], where: Mapping[str, Any]) -> set[str]:
        """Those of `ids` that match a metadata filter. Raises InputError if Chroma refuses the filter."""
        found: set[str] = set()
        for start in range(0, len(ids), _PAGE):
            with _asking(where):
                found.update(
                    self._collection.get(ids=list(ids[start : start + _PAGE]), where=dict(where), include=[])["ids"]
                )
        return found

    def vectors(self, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Stored vectors, (len(ids), dimension) float32, in the order of `ids`, and which of them exist; others are 0.

        If none exists the dimension is 0.
        """
        rows: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(ids), _PAGE):
            with _asking():
                found = self._collection.get(ids=list(ids[start : start + _PAGE]), include=["embeddings"])
            rows.update(zip(found["ids"], np.asarray(found["embeddings"], dtype=np.float32), strict=True))
        known = np.array([id in rows for id in ids], np.bool_)
        out = np.zeros((len(ids), len(next(iter(rows.values()), ()))), np.float32)
        for row in np.flatnonzero(known).tolist():
            out[row] = rows[ids[row]]
        return out, known

    def query(self, vector: NDArray[np.float32], k: int, where: Mapping[str, Any] | None, version: int) -> list[Hit]:
        """The `k` nearest chunks, nearest first.

        Args:
            vector: (dimension,) float32.
            k: Maximum number of hits.
            where: Chroma's metadata filter, or None for all chunks.
            version: Number of the version, stored in the hits.

        Raises:
            InputError: Chroma does not understand the filter.
        """
        if k > _MOST:
            return self._many(vector, k, where, version)
        with _asking(where):
            found = self._collection.query(
                query_embeddings=vector[None, :],
                n_results=k,
                where=dict(where) if where else None,
                include=["documents", "metadatas", "distances"],
            )
        documents, metadatas, distances = found["documents"], found["metadatas"], found["distances"]
        assert documents and metadatas and distances  # requested by `include`
        return [
            _hit(id, text, metadata, 1.0 - distance, version)
            for id, text, metadata, distance in zip(
                found["ids"][0], documents[0], metadatas[0], distances[0], strict=True
            )
        ]

    def near(
        self, vector: NDArray[np.float32], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[list[str], NDArray[np.float64]]:
        """Ids of the `k` nearest chunks, nearest first, and their cosines, (<=k,). Texts would double the time.

        Args:
            vector: (dimension,) float32.
            k: Maximum number of chunks, without an upper limit.
            where: Chroma's metadata filter, or None for all chunks.

        Raises:
            InputError: Chroma does not understand the filter.
        """
        with _asking(where):
            found = self._collection.query(
                query_embeddings=vector[None, :],
                n_results=k,
                where=dict(where) if where else None,
                include=["distances"],
            )
        assert found["distances"]  # requested by `include`
        return found["ids"][0], 1.0 - np.asarray(found["distances"][0], dtype=np.float64)

    def _many(self, vector: NDArray[np.float32], k: int, where: Mapping[str, Any] | None, version: int) -> list[Hit]:
        """As `query`, for more chunks than Chroma returns at once."""
        ids, scores = self.near(vector, k, where)
        shown: dict[str, tuple[Any, Any]] = {}
        for start in range(0, len(ids), _PAGE):
            with _asking():
                found = self._collection.get(ids=ids[start : start + _PAGE], include=["documents", "metadatas"])
            assert found["documents"] and found["metadatas"]  # requested by `include`
            shown.update(zip(found["ids"], zip(found["documents"], found["metadatas"], strict=True), strict=True))
        return [
            _hit(id, *shown[id], score, version) for id, score in zip(ids, scores.tolist(), strict=True) if id in shown
        ]

    def nearest(self, vectors: NDArray[np.float32], k: int) -> Iterator[list[tuple[str, float]]]:
        """Ids and scores of the `k` nearest chunks of each of (n, dimension) float32 vectors."""
        for start in range(0, len(vectors), 100):
            with _asking():
                found = self._collection.query(
                    query_embeddings=vectors[start : start + 100], n_results=k, include=["distances"]
                )
            assert found["distances"]  # requested by `include`
            for ids, distances in zip(found["ids"], found["distances"], strict=True):
                yield [(id, 1.0 - distance) for id, distance in zip(ids, distances, strict=True)]


def _hit(id: str, text: Any, metadata: Any, score: float, version: int) -> Hit:
    return Hit(id, text, dict(metadata or {}), score, version, {"vector": score})


@contextmanager
def explained(place: Path | str) -> Iterator[None]:
    """Turn errors of a missing or broken database into StoreError; the caller handles names that do not exist."""
    try:
        yield
    except (NotFoundError, ValueError, StoreError):
        raise
    except Exception as error:  # the Rust bindings and the HTTP library raise various exceptions
        way = "Start its server" if isinstance(place, str) else "Free some space or fix the permissions"
        raise StoreError(f"Chroma at {place} cannot execute the request: {error}. {way} and run it again.") from error


@contextmanager
def _asking(where: Mapping[str, Any] | None = None) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, ChromaError) as error:
        if where and "too many SQL variables" in str(error):
            raise InputError(
                "The filter contains more values than SQLite takes at once, 32,766 in all. Split it into several "
                "queries, or mark these chunks in their metadata."
            ) from error
        refused = not isinstance(error, ChromaError) or (error.code() < 500 and not isinstance(error, NotFoundError))
        if where and refused:
            raise InputError(
                f"Chroma refuses the filter {dict(where)!r}: {error} "
                'Expected for example {"source": "a.md"} or {"year": {"$gte": 2020}}.'
            ) from error
        raise StoreError(f"Chroma cannot read: {error}. Try again; if the error persists, run `ragself gc`.") from error
    except Exception as error:  # the Rust bindings and the HTTP library raise various exceptions
        raise StoreError(f"Chroma cannot be queried: {error}. If it is a server, check that it runs.") from error


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise StoreError(
            f"Chroma cannot write: {error}. No acknowledged write is lost; free some space, fix the permissions or "
            "start its server, and run the same command again."
        ) from error
