"""Two small HTTP servers on loopback for tests with real servers: a scrape target and a webhook receiver."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class _Loopback:
    """A server in a thread of its own; leaving the context ends both."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class Target(_Loopback):
    """Answers each scrape with `text`, which may change."""

    def __init__(self, text: str) -> None:
        target = self
        self.text = text

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = target.text.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
                """Says nothing: a test's output is for its failures."""

        super().__init__(Handler)


class Webhook(_Loopback):
    """Keeps every message posted to it, in the order of arrival."""

    def __init__(self) -> None:
        messages: list[dict[str, Any]] = []
        self.messages = messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
                """Says nothing: a test's output is for its failures."""

        super().__init__(Handler)

    def with_status(self, status: str) -> list[dict[str, Any]]:
        """The messages of that status: firing or resolved."""
        return [message for message in self.messages if message["status"] == status]
