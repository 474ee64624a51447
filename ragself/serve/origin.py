"""A Chroma collection that somebody else fills, and that a knowledge base follows. It is only ever read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import chromadb
import numpy as np
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings
from chromadb.errors import ChromaError, NotFoundError
from numpy.typing import NDArray

from ragself.corpus.layout import as_chunk
from ragself.errors import InputError, StoreError
from ragself.schema import Chunk, Followed, Skipped

PAGE = 2000


class Origin:
    """Reads a collection, by whatever client it was opened."""

    def __init__(self, collection: chromadb.Collection, place: str | None = None, client: Any = None) -> None:
        """Wrap an open collection; where `place` is None, its client is asked for it. `client` is closed in the end."""
        self._collection = collection
        self._client = client
        self.place = Followed(
            place or _place(collection), collection.name, str(collection.id), collection.tenant, collection.database
        )

    @classmethod
    def of(cls, collection: Any, place: str | Path | None = None) -> Origin:
        """That of an open `chromadb.Collection`, or of the name of one, which is opened at `place`.

        Raises:
            InputError: It is a name, and `place` is None.
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
            name: Of the collection.
            tenant: Of Chroma's, where there are several.
            database: The same.

        Raises:
            StoreError: There is no database, or no such collection.
        """
        client = _connect(place, tenant, database)
        try:
            return cls(client.get_collection(name, embedding_function=None), place, client)
        except (NotFoundError, ValueError) as error:
            names = ", ".join(sorted(collection.name for collection in client.list_collections())) or "none"
            _close(client)
            raise StoreError(f"{place} has no collection {name!r}. Collections there: {names}.") from error

    @classmethod
    def again(cls, collection: chromadb.Collection) -> Origin:
        """What the client of an open collection has by its name now: it may have been deleted and made anew.

        Raises:
            StoreError: It has none, or cannot be asked any more.
        """
        before, client = cls(collection).place, collection._client
        with _reading(before):
            model = client.get_collection(before.collection, before.tenant, before.database)
        return cls(chromadb.Collection(client, model, embedding_function=None))

    def close(self) -> None:
        """Close the connection if it was opened here: what others write is seen by a new one."""
        if self._client is not None:
            _close(self._client)

    @property
    def space(self) -> str:
        """Its distance: l2, cosine or ip."""
        configured = self._collection.configuration
        for graph in (configured.get("hnsw"), configured.get("spann")):
            if graph and graph.get("space"):
                return str(graph["space"])
        return str((self._collection.metadata or {}).get("hnsw:space", "l2"))

    def ids(self) -> list[str]:
        """Ids of all rows."""
        with _reading(self.place):
            return list(self._collection.get(include=[])["ids"])

    def chunks(self, ids: Sequence[str]) -> Iterator[tuple[list[Chunk], list[Skipped]]]:
        """Rows as chunks, page by page, and those that hold no text. Rows that are gone are passed over."""
        for start in range(0, len(ids), PAGE):
            page = list(ids[start : start + PAGE])
            with _reading(self.place):
                found = self._collection.get(ids=page, include=["documents", "metadatas"])
            documents, metadatas = found["documents"] or [], found["metadatas"] or []
            rows = list(zip(found["ids"], documents, metadatas, strict=True))
            yield (
                [as_chunk(id, text, metadata) for id, text, metadata in rows if text and text.strip()],
                [Skipped(id, "it has no text") for id, text, _ in rows if not text or not text.strip()],
            )

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Stored vectors, each (dimension,) float32, by id; of rows that are gone there is none."""
        out: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(ids), PAGE):
            with _reading(self.place):
                found = self._collection.get(ids=list(ids[start : start + PAGE]), include=["embeddings"])
            vectors = found["embeddings"]
            if vectors is not None:
                out.update(zip(found["ids"], np.asarray(vectors, dtype=np.float32), strict=True))
        return out


def _close(client: Any) -> None:
    servers = [client._server, client._admin_client._server]
    client.close()
    for server in servers:  # Chroma leaves the connections of its HTTP clients open
        if hasattr(server, "_session"):
            server._session.close()


def _place(collection: chromadb.Collection) -> str | None:
    """Where another program can reach a collection; None for one in memory."""
    settings = collection._client.get_settings()
    if settings.chroma_server_host:
        scheme = "https" if settings.chroma_server_ssl_enabled else "http"
        return f"{scheme}://{settings.chroma_server_host}:{settings.chroma_server_http_port}"
    return str(Path(settings.persist_directory).resolve()) if settings.is_persistent else None


def _connect(place: str, tenant: str, database: str) -> Any:
    if place.startswith(("http://", "https://")):
        return _connect_server(place, tenant, database)
    folder = Path(place).expanduser()
    if not (folder / "chroma.sqlite3").exists():
        raise StoreError(f"{folder} holds no Chroma database (no chroma.sqlite3). Give its folder, or a server's URL.")
    for settings in (Settings(anonymized_telemetry=False), Settings()):  # the program may hold it open with the default
        try:
            return chromadb.PersistentClient(str(folder), settings, tenant, database)
        except ValueError as error:
            reason: Exception = error
        except Exception as error:  # the Rust bindings raise bare Exceptions
            reason = error
            break
    raise StoreError(
        f"Chroma cannot open {folder}: {reason}. Pass the open collection instead of its place."
    ) from reason


def _connect_server(url: str, tenant: str, database: str) -> Any:
    parts = urlsplit(url)
    ssl = parts.scheme == "https"
    port = parts.port or (443 if ssl else 8000)
    settings = Settings(anonymized_telemetry=False)
    try:
        return chromadb.HttpClient(
            parts.hostname or "", port, ssl=ssl, settings=settings, tenant=tenant, database=database
        )
    except Exception as error:  # whatever the HTTP library raises
        raise StoreError(
            f"No Chroma server answers at {url}: {error}. Start it: chroma run --path FOLDER. Where it wants a token, "
            "set CHROMA_CLIENT_AUTH_PROVIDER and CHROMA_CLIENT_AUTH_CREDENTIALS, or pass the open collection."
        ) from error


@contextmanager
def _reading(place: Followed) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise StoreError(
            f"The collection {place.collection!r} is gone: {error}. Nothing was changed here; put it back, or adopt "
            "another into a new knowledge base."
        ) from error
    except (ChromaError, AttributeError, RuntimeError) as error:  # a client that was closed raises AttributeError
        raise StoreError(
            f"The collection {place.collection!r} cannot be read: {error}. Open its client again and pass the "
            "collection anew."
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore"):
            raise StoreError(f"The server of the collection {place.collection!r} does not answer: {error}.") from error
        raise
