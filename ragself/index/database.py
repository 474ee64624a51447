"""The Chroma database that holds a version. Only `collection`, `connection`, `origin` and this file use chromadb."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import chromadb
from chromadb.api.collection_configuration import CreateHNSWConfiguration
from chromadb.config import Settings
from chromadb.errors import NotFoundError

from ragself.errors import StoreError
from ragself.index.collection import FINGERPRINT, ChromaCollection, explained
from ragself.index.connection import Connection, server

# Recall@10 against exact search at 100,000 chunks: .998 with these, .978 with the defaults, for .7 ms a query;
# on SciFact 1.000 and .996, for .3 ms (tests/benchmarks/hybrid.py graph).
_GRAPH: CreateHNSWConfiguration = {"ef_construction": 200, "ef_search": 200, "max_neighbors": 32}
_PATIENCE = 120.0  # seconds without an answer until a server counts as unreachable

# Rows per write to a server. It answers no request while it writes: 2 to 3 s for 1000 rows, .1 to .2 s for 50.
_SHARE = 50

_opened = itertools.count()


class ChromaDatabase:
    """A Chroma database: a folder, written by one process at a time, or a server."""

    def __init__(self, place: Path | str, *, create: bool = True, view: int | None = None) -> None:
        """Open the database in a folder, telemetry off; or connect to the server at a URL.

        Args:
            place: The folder, or the URL.
            create: Create a folder's database if there is none.
            view: All that open a folder in this process with the same number share one view of it; None opens a new
                view of what is on disk now.

        Raises:
            StoreError: Chroma cannot open the database, there is none, or no server answers.
        """
        self.place = place
        if isinstance(place, str):
            connection = server(place, "default_tenant", "default_database")
            connection.client._server._session.timeout = _PATIENCE
        else:
            if not create and not (place / "chroma.sqlite3").exists():
                raise StoreError(
                    f"The index is missing from {place}. Run `ragself gc` to build it again from the documents, or "
                    "roll back to another version."
                )
            connection = Connection(_folder(place, view))
        self._connection = connection
        self._client: Any = connection.client

    def create(self, name: str, fingerprint: str) -> ChromaCollection:
        """Create an empty collection with cosine distance, replacing any of that name."""
        self.delete(name)
        with explained(self.place):
            collection = self._client.create_collection(
                name,
                configuration={"hnsw": {"space": "cosine", **_GRAPH}},
                metadata={FINGERPRINT: fingerprint},
                embedding_function=None,  # Chroma's default would download a model
            )
            return ChromaCollection(collection, self._batch())

    def open(self, name: str, fingerprint: str) -> ChromaCollection:
        """Open a collection.

        Raises:
            StoreError: The collection is missing, or carries another fingerprint.
        """
        try:
            with explained(self.place):
                collection = self._client.get_collection(name, embedding_function=None)
                batch = self._batch()
        except (NotFoundError, ValueError) as error:
            raise StoreError(
                f"The Chroma collection {name!r} is missing from {self.place}. "
                "Run `ragself gc` to build it again from the documents, or roll back to another version."
            ) from error
        found = (collection.metadata or {}).get(FINGERPRINT)
        if found != fingerprint:
            raise StoreError(
                f"The Chroma collection {name!r} carries the fingerprint {found}, expected {fingerprint}: its vectors "
                "were made by another encoder or adapter. Open it with that one, or roll back to another version."
            )
        return ChromaCollection(collection, batch)

    def names(self) -> set[str]:
        """Names of all collections."""
        found: set[str] = set()
        with explained(self.place):
            while page := self._client.list_collections(limit=1000, offset=len(found)):
                found |= {collection.name for collection in page}
        return found

    def delete(self, name: str) -> None:
        """Delete a collection; does nothing if there is none of that name."""
        try:
            with explained(self.place):
                self._client.delete_collection(name)
        except (NotFoundError, ValueError):
            return

    def close(self) -> None:
        """Release files and connections. Safe to call twice."""
        self._connection.close()

    def _batch(self) -> int:
        most = int(self._client.get_max_batch_size())
        return min(most, _SHARE) if isinstance(self.place, str) else most


def _folder(place: Path, view: int | None) -> Any:
    # Chroma shares what is open under one spelling of a path, and only a new opening shows what another process wrote.
    # Therefore each opening uses a spelling of its own, except those that share a view.
    number, end = (next(_opened), "") if view is None else (view, "/")
    spelling = f"{place}" + "".join("/." if bit == "1" else "//." for bit in f"{number:b}") + end
    try:
        return chromadb.PersistentClient(spelling, Settings(anonymized_telemetry=False))
    except Exception as error:  # the Rust bindings raise bare Exceptions and InternalErrors
        raise StoreError(
            f"Chroma cannot open {place}: {error}. Free some space if the disk is full; if that folder is damaged, "
            "delete it and run `ragself gc`: the index is built again from the documents, none of which is lost."
        ) from error
