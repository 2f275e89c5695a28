"""Custom resources of an API server in memory: versions, merge patches, and a status that is a resource of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from gpuheal_responder.shell.kube.api import ApiError

Json = dict[str, Any]


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merge(found.get(key), value)
    return found


class Shelf:
    """Answers as the API server does for a CRD; `status` is False for a CRD without the subresource."""

    def __init__(self, *, status: bool = True) -> None:
        self.objects: dict[str, Json] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.status = status
        self.die_before: tuple[str, str] = ("", "")
        """Method and path ending of a request that never arrives."""
        self._version = 100

    def put(self, raw: Json) -> Json:
        """An object is there, as somebody else wrote it."""
        self._version += 1
        raw = copy.deepcopy(raw)
        raw["metadata"]["resourceVersion"] = str(self._version)
        self.objects[raw["metadata"]["name"]] = raw
        return raw

    async def get(self, path: str, query: Mapping[str, object] | None = None, **_: object) -> Any:
        """One object."""
        return await self.call("GET", path)

    async def call(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, token: str = "", **_: object
    ) -> Any:
        """One request."""
        self.asked.append((method, path, token))
        if self.die_before[0] == method and path.endswith(self.die_before[1]):
            raise ApiError(0, "Timeout", "timed out")
        *_, name = path.removesuffix("/status").rsplit("/", 1)
        sub = path.endswith("/status")
        data = copy.deepcopy(dict(body or {}))
        if method == "POST":
            if data["metadata"]["name"] in self.objects:
                raise ApiError(409, "AlreadyExists", "exists")
            return self.put({key: value for key, value in data.items() if key != "status" or not self.status})
        if name not in self.objects or (sub and not self.status):
            raise ApiError(404, "NotFound", "not found")
        before = self.objects[name]
        wanted = data.get("metadata", data.get("preconditions", {})).get("resourceVersion", "")
        if method != "GET" and wanted not in ("", before["metadata"]["resourceVersion"]):
            raise ApiError(409, "Conflict", "modified")
        if method == "DELETE":
            return self.objects.pop(name)
        if method == "PATCH":
            mine = ("status",) if sub else ("spec",) if self.status else ("spec", "status")
            return self.put(merge(before, {key: data[key] for key in mine if key in data}))
        return copy.deepcopy(before)
