"""A real webhook receiver on loopback: keeps every request, answers what it is told to."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request as it came in; `at` is monotonic seconds, `answered` the status it got."""

    at: float
    path: str
    token: str
    body: dict[str, Any]
    answered: int

    @property
    def names(self) -> list[str]:
        """The alertnames of the message, sorted."""
        return sorted(alert["labels"]["alertname"] for alert in self.body["alerts"])

    @property
    def nodes(self) -> set[str]:
        """The nodes of the message's alerts."""
        return {alert["labels"].get("node", "") for alert in self.body["alerts"]}


class Webhook:
    """The receiver as a context; `status` and `location` are what the next answers say."""

    def __init__(self) -> None:
        self.status = 200
        self.location = ""
        self._lock = threading.Lock()
        self._deliveries: list[Delivery] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                token = self.headers.get("Authorization", "")
                with outer._lock:
                    outer._deliveries.append(
                        Delivery(at=time.monotonic(), path=self.path, token=token, body=body, answered=outer.status)
                    )
                self.send_response(outer.status)
                if outer.location:
                    self.send_header("Location", outer.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def deliveries(self, path: str = "/") -> list[Delivery]:
        """What came in under paths that start with `path`, in order."""
        with self._lock:
            return [delivery for delivery in self._deliveries if delivery.path.startswith(path)]

    def accepted(self, path: str = "/") -> list[Delivery]:
        """The same without those it refused."""
        return [delivery for delivery in self.deliveries(path) if delivery.answered == 200]
