"""A page that answers queries the way Prometheus does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


@contextmanager
def page(answer: Callable[[str], tuple[int, bytes]], seen: list[str] | None = None) -> Iterator[str]:
    """A server that answers each query; `seen` gets the Authorization headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if seen is not None:
                seen.append(self.headers.get("Authorization", ""))
            status, body = answer(form["query"][0])
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """Nothing is logged."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has gone is no error."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def vector(*rows: dict[str, str], value: float = 1) -> bytes:
    """An instant vector of series with these labels."""
    result = [{"metric": row, "value": [0, str(value)]} for row in rows]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
