"""Reads a Chroma collection that another program fills and a knowledge base follows; never writes to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT
from chromadb.errors import ChromaError, NotFoundError
from numpy.typing import NDArray

from ragself.errors import InputError, StoreError
from ragself.index.connection import Connection, connect
from ragself.index.row_formats import as_chunk, flatten
from ragself.schema import Chunk, Followed, Skipped

PAGE = 2000


class Origin:
    """Reader of a collection that any client has opened."""

    def __init__(
        self, collection: chromadb.Collection, place: str | None = None, connection: Connection | None = None
    ) -> None:
        """Wrap an open collection. Without `place`, its client gives it; `close` closes `connection`."""
        self._collection = collection
        self._connection = connection
        self.place = Followed(
            place or _place(collection), collection.name, str(collection.id), collection.tenant, collection.database
        )

    @classmethod
    def of(cls, collection: Any, place: str | Path | None = None) -> Origin:
        """Wrap an open `chromadb.Collection`, or open the collection of that name at `place`.

        Raises:
            InputError: `collection` is a name, and `place` is None.
            StoreError: There is no database, or no such collection.
        """
        if not isinstance(collection, str):
            return cls(collection)
        if place is None:
            raise InputError(
                f"Where is the collection {collection!r}? Give chroma: the database's folder or server URL."
            )
        return cls.open(str(place), collection)

    @classmethod
    def open(cls, place: str, name: str, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE) -> Origin:
        """Open a collection.

        Args:
            place: Folder of an embedded database, or URL of a server.
            name: Name of the collection.
            tenant: Chroma's tenant, if there are several.
            database: Chroma's database, likewise.

        Raises:
            StoreError: There is no database, or no such collection.
        """
        if not place.startswith(("http://", "https://")):
            place = str(Path(place).expanduser().resolve())
        connection = connect(place, name, tenant, database)
        client = connection.client
        try:
            return cls(client.get_collection(name, embedding_function=None), place, connection)
        except (NotFoundError, ValueError) as error:
            names = ", ".join(sorted(collection.name for collection in client.list_collections())) or "none"
            connection.close()
            raise StoreError(f"{place} has no collection {name!r}. Collections there: {names}.") from error

    @classmethod
    def again(cls, collection: chromadb.Collection) -> Origin:
        """Reopen a collection by name with its client: it may have been deleted and created again.

        Raises:
            StoreError: There is none, or the client cannot be used any more.
        """
        before, client = cls(collection).place, collection._client
        with _reading(before):
            model = client.get_collection(before.collection, before.tenant, before.database)
        return cls(chromadb.Collection(client, model, embedding_function=None))

    def close(self) -> None:
        """Close the connection if this object opened it. Only a new connection shows what others write."""
        if self._connection is not None:
            self._connection.close()

    @property
    def space(self) -> str:
        """Distance of the collection: l2, cosine or ip."""
        configured = self._collection.configuration_json  # `configuration` would build its embedding function
        for graph in (configured.get("hnsw"), configured.get("spann")):
            if graph and graph.get("space"):
                return str(graph["space"])
        return str((self._collection.metadata or {}).get("hnsw:space", "l2"))

    def ids(self) -> list[str]:
        """Ids of all rows. Raises StoreError if the database does not return all of them."""
        with _reading(self.place):
            before = self._collection.count()
            ids = list(self._collection.get(include=[])["ids"])
            least = min(before, self._collection.count())
        if len(ids) < least:
            raise StoreError(
                f"The collection {self.place.collection!r} has {least} rows, but returned the ids of {len(ids)} only. "
                "Check whether there is a quota. Nothing was changed here."
            )
        return ids

    def chunks(self, ids: Sequence[str]) -> Iterator[tuple[list[Chunk], list[Skipped]]]:
        """Rows as chunks, page by page, and those without text. Rows that no longer exist are skipped."""
        for start in range(0, len(ids), PAGE):
            with _reading(self.place):
                found = self._collection.get(ids=list(ids[start : start + PAGE]), include=["documents", "metadatas"])
            chunks = dict(zip(found["ids"], self._chunks(found), strict=True))
            textless = [Skipped(id, "it has no text") for id, chunk in chunks.items() if chunk is None]
            yield [chunk for chunk in chunks.values() if chunk is not None], textless

    def rows(self, ids: Sequence[str]) -> tuple[list[Chunk], NDArray[np.float32]]:
        """Rows with a text and a non-zero, finite vector. Text and vector of a row are read at the same moment.

        Returns:
            Their chunks, and their vectors, (len(chunks), dimension) float32.
        """
        chunks: list[Chunk] = []
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(ids), PAGE):
            with _reading(self.place):
                found = self._collection.get(
                    ids=list(ids[start : start + PAGE]), include=["documents", "metadatas", "embeddings"]
                )
            stored = found["embeddings"]
            if stored is None:
                continue
            for chunk, vector in zip(self._chunks(found), stored, strict=True):
                length = float(np.linalg.norm(np.asarray(vector, dtype=np.float64)))
                if chunk is not None and 0 < length < np.inf:
                    chunks.append(chunk)
                    vectors.append(np.asarray(vector, dtype=np.float32))
        return chunks, np.array(vectors, dtype=np.float32)

    def _chunks(self, found: chromadb.GetResult) -> list[Chunk | None]:
        """A chunk for each row, None for a row without text."""
        rows = zip(found["ids"], found["documents"] or [], found["metadatas"] or [], strict=True)
        chunks = [as_chunk(id, text, metadata) if text and text.strip() else None for id, text, metadata in rows]
        if not self.place.flattened:
            return chunks
        return [flatten(chunk) if chunk is not None else None for chunk in chunks]


def _place(collection: chromadb.Collection) -> str | None:
    """Folder or URL by which another program can reach a collection; None if it is in memory."""
    settings = collection._client.get_settings()
    if settings.chroma_server_host:
        scheme = "https" if settings.chroma_server_ssl_enabled else "http"
        return f"{scheme}://{settings.chroma_server_host}:{settings.chroma_server_http_port}"
    return str(Path(settings.persist_directory).resolve()) if settings.is_persistent else None


@contextmanager
def _reading(place: Followed) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise StoreError(
            f"The collection {place.collection!r} is gone: {error}. Nothing was changed here; restore it, or adopt "
            "another into a new knowledge base."
        ) from error
    except (ChromaError, AttributeError, RuntimeError) as error:  # a client that was closed raises AttributeError
        raise StoreError(
            f"The collection {place.collection!r} cannot be read: {error}. Open its client again and pass the "
            "collection again."
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore"):
            raise StoreError(
                f"The server of the collection {place.collection!r}, {place.place}, does not answer: {error}."
            ) from error
        raise
