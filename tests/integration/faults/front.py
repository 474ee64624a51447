"""An HTTP server in front of a real one, for what no real one can be made to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

Page = tuple[int, dict[str, str], bytes]  # status, headers, body


class Front:
    """An HTTP server that passes requests on to a real one, unless a test has it answer itself.

    Attributes:
        target: URL of the real server.
        answer: Given the path and the body, the page to answer with; None passes the request on, "hang up" ends the
            connection.
        asked: Paths asked for, in order.
    """

    def __init__(self, target: str = "", answer: Callable[[str, bytes], Page | str | None] | None = None) -> None:
        self.target = target
        self.answer = answer or (lambda path, body: None)
        self.asked: list[str] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                front.asked.append(self.path)
                page = front.answer(self.path, body) or front._pass_on(self.command, self.path, body)
                if isinstance(page, str):
                    self.close_connection = True
                    return
                status, headers, content = page
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._client = httpx.Client(trust_env=False, timeout=60)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _pass_on(self, method: str, path: str, body: bytes) -> Page | str:
        try:
            answer = self._client.request(
                method, self.target + path, content=body, headers={"Content-Type": "application/json"}
            )
        except httpx.TransportError:
            return "hang up"
        return (
            answer.status_code,
            {"Content-Type": answer.headers["Content-Type"]} if answer.content else {},
            answer.content,
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._client.close()


def as_json(value: Any, status: int = 200) -> Page:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def at_times(answer: Page | str, share: int = 3) -> Callable[[str, bytes], Page | str | None]:
    """Answer like this to every third prompt that is to be scored, once the server was found."""
    count = iter(range(1, 10_000))
    return lambda path, body: answer if path == "/v1/completions" and next(count) % share == 0 else None
