"""Connections to Chroma: to a server, or to a copy of another program's embedded database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import chromadb
from chromadb.config import Settings

from ragself.errors import StoreError
from ragself.index import folder_copy as copy

_PATIENCE = 30.0  # seconds to wait for a server's first answer


@dataclass(frozen=True, slots=True)
class Connection:
    """An open client, and a function to call after closing it."""

    client: Any
    after: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Close the client and its HTTP connections."""
        servers = [self.client._server, self.client._admin_client._server]
        self.client.close()
        for server in servers:  # Chroma leaves the connections of its HTTP clients open
            if hasattr(server, "_session"):
                server._session.close()
        self.after()


def connect(place: str, collection: str, tenant: str, database: str) -> Connection:
    """Connect to a server, or to a copy of a folder.

    Args:
        place: URL of the server, or the folder.
        collection: Name of the collection to read.
        tenant: Chroma's tenant.
        database: Chroma's database.

    Raises:
        StoreError: There is no Chroma database, or it cannot be read now.
    """
    if place.startswith(("http://", "https://")):
        return server(place, tenant, database)
    if not (Path(place) / "chroma.sqlite3").exists():
        raise StoreError(f"{place} holds no Chroma database (no chroma.sqlite3). Give its folder, or a server's URL.")
    folder = TemporaryDirectory(prefix="ragself-", ignore_cleanup_errors=True)
    try:
        command = [sys.executable, "-I", str(copy.__file__), place, folder.name, collection]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            reason = (done.stderr.strip() or "it failed").splitlines()[-1]
            raise StoreError(
                f"Cannot copy the database in {place} to {folder.name}, to read it there: {reason}. Try again, pass "
                "the open collection in place of its name, or set TMPDIR to a folder with more space."
            )
        settings = Settings(anonymized_telemetry=False)
        return Connection(chromadb.PersistentClient(folder.name, settings, tenant, database), folder.cleanup)
    except StoreError:
        folder.cleanup()
        raise
    except Exception as error:  # the Rust bindings raise bare Exceptions
        folder.cleanup()
        raise StoreError(
            f"Chroma cannot open a copy of {place}: {error}. Pass the open collection in place of its name."
        ) from error


def server(url: str, tenant: str, database: str) -> Connection:
    """Connect to a server. Raises StoreError if none answers."""
    parts = urlsplit(url)
    ssl = parts.scheme == "https"
    port = parts.port or (443 if ssl else 8000)
    settings = Settings(anonymized_telemetry=False)
    try:
        with suppress(HTTPError):  # any answer will do
            # Chroma's own client would wait for ever. All callers pass an http or https URL.
            urlopen(f"{url}/api/v2/heartbeat", timeout=_PATIENCE).close()  # noqa: S310
        return Connection(
            chromadb.HttpClient(
                parts.hostname or "", port, ssl=ssl, settings=settings, tenant=tenant, database=database
            )
        )
    except Exception as error:  # the HTTP library raises various exceptions
        raise StoreError(
            f"No Chroma server answers at {url}: {error}. Start it: chroma run --path FOLDER. If it needs a token, "
            "set CHROMA_CLIENT_AUTH_PROVIDER and CHROMA_CLIENT_AUTH_CREDENTIALS, or pass the open collection."
        ) from error
