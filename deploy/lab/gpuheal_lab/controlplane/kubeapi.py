"""A small blocking client of the API server for tests and the demo: JSON in, JSON out, refusals as exceptions."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from gpuheal_lab.servers.process import LabError

Json = dict[str, Any]

DEADLINE_S = 15.0
PAGE = 500
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ApiRefused(LabError):
    """The API server refused; `status` is the HTTP status, `body` its Status object ({} if it sent none)."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        self.status = status
        try:
            self.body: Json = json.loads(text)
        except ValueError:
            self.body = {}
        super().__init__(f"{method} {path}: {status} {self.body.get('message', text[:300])}")


class KubeApi:
    """Requests as one identity."""

    def __init__(self, url: str, ca_file: Path, token: str) -> None:
        self.url = url
        self.ca_file = ca_file
        self.token = token
        self._trust: ssl.SSLContext | None = None

    def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Json:
        """The JSON answer; raises ApiRefused for a status of 400 or more, LabError if there is no answer."""
        if self._trust is None:
            self._trust = ssl.create_default_context(cafile=str(self.ca_file))
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind, "Accept": "application/json"}
        asked = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(asked, timeout=DEADLINE_S, context=self._trust) as answer:  # noqa: S310
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                raise ApiRefused(method, path, error.code, error.read().decode(errors="replace")) from error
        except OSError as error:
            raise LabError(f"{method} {self.url}{path}: {error}") from error
        if not text.startswith("{"):
            return {"text": text}
        parsed: Json = json.loads(text)
        return parsed

    def get(self, path: str) -> Json:
        """The object or list at the path."""
        return self.request("GET", path)

    def list(self, path: str) -> list[Json]:
        """All objects of a collection, read page by page."""
        found: list[Json] = []
        more = ""
        while True:
            page = self.get(f"{path}?limit={PAGE}" + (f"&continue={more}" if more else ""))
            found += page["items"]
            more = page["metadata"].get("continue", "")
            if not more:
                return found

    def create(self, path: str, body: Json) -> Json:
        """The object as created in the collection at the path."""
        return self.request("POST", path, body)

    def patch(self, path: str, body: Json, kind: str = MERGE) -> Json:
        """The object as patched; merge patch unless `kind` says otherwise."""
        return self.request("PATCH", path, body, kind)

    def delete(self, path: str, body: Json | None = None) -> Json:
        """The object is deleted or being deleted."""
        return self.request("DELETE", path, body)
