"""A real Chroma server on 127.0.0.1, as a process of its own; fixtures of it, and of a client of either kind."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from chromadb.config import Settings

from ragself.index.connection import Connection

DEADLINE = 60.0  # seconds to wait for the first answer


def close(client: Any) -> None:
    """Close a client and, as it does not itself, its connections."""
    Connection(client).close()


class ChromaServer:
    """`chroma run` on a folder and a free port, which it keeps when it is started again.

    Attributes:
        url: Base URL.
    """

    def __init__(self, folder: Path) -> None:
        """Choose a port; nothing is started yet."""
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> ChromaServer:
        """Start it and wait until it answers."""
        program = Path(sys.executable).with_name("chroma")
        command = [str(program), "run", "--path", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + DEADLINE
        while True:
            try:
                close(self.client())
                return self
            except Exception:
                assert time.monotonic() < end, "the Chroma server does not answer"
                assert self._process.poll() is None, "the Chroma server ended"
                time.sleep(0.1)

    def client(self) -> chromadb.ClientAPI:
        """A new client of it."""
        return chromadb.HttpClient("127.0.0.1", self.port, settings=Settings(anonymized_telemetry=False))

    def stop(self) -> None:
        """End it. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Gateway(ThreadingHTTPServer):
    """Stands before a Chroma server and lets through only who knows the token, as people protect theirs.

    Attributes:
        url: Base URL.
    """

    daemon_threads = True

    def __init__(self, server: ChromaServer, token: str) -> None:
        """Begin to answer."""

        class Passes(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                status, body = 401, b'{"error": "Unauthorized", "message": "who are you?"}'
                if self.headers.get("Authorization") == f"Bearer {token}":
                    kind = {"Content-Type": "application/json"}
                    content = self.rfile.read(length)
                    answer = httpx.request(
                        self.command, server.url + self.path, content=content, headers=kind, timeout=DEADLINE
                    )
                    status, body = answer.status_code, answer.content
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, format: str, *values: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Passes)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture(scope="session", name="server")
def a_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    server = ChromaServer(tmp_path_factory.mktemp("chroma-server"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(params=["embedded", "server"], name="client")
def a_client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[chromadb.ClientAPI]:
    if request.param == "embedded":
        client: Any = chromadb.PersistentClient(str(tmp_path / "theirs"))
    else:
        client = request.getfixturevalue("server").client()
        for collection in client.list_collections():
            client.delete_collection(collection.name)
    yield client
    close(client)
