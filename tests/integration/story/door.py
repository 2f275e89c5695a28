"""The door between a responder and the API server: it names every changing request, and can refuse, kill or freeze."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aiohttp import web
from tests.integration.cluster.proxy import Proxy, is_write

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.process import wait_frozen

UNDO = "gpu.health/undo"


class Deed(Enum):
    """What to do with a changing request instead of passing it on."""

    KILL_BEFORE = "kill the process before the API server hears of it"
    KILL_AFTER = "kill the process when the API server has done it, before the answer"


@dataclass(frozen=True)
class Refuse:
    """Answer with this status; with `after` the API server does it all the same."""

    status: int
    after: bool = False


Judge = Callable[[str], Deed | Refuse | None]


class Door(Proxy):
    """A proxy that asks `judge` about every changing request by its label, and counts what the API server did."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane)
        self.judge: Judge = lambda _: None
        self.pid: Callable[[], int] | None = None
        self.asked: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        """Changing requests that the API server answered with success, by label."""
        self.killed_at: list[str] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if not is_write(request):
            return await super()._handle(request)
        self.seen.append((request.method, request.path_qs))
        label = label_of(request.method, request.path, await request.read())
        self.asked[label] += 1
        deed = self.judge(label) if label else None
        match deed:
            case None:
                answer = await super()._handle(request)
            case Refuse(status=status, after=after):
                if after:
                    await self._count(label, await self._pass_on(request, quiet=True))
                if status == 0:
                    return self._broken(request)
                body = {"kind": "Status", "status": "Failure", "message": "injected", "reason": "x", "code": status}
                headers = {"Retry-After": "1"} if status == 429 else {}
                return web.json_response(body, status=status, headers=headers)
            case Deed():
                return await self._kill(request, label, deed)
        return await self._count(label, answer)

    async def _count(self, label: str, answer: web.StreamResponse) -> web.StreamResponse:
        if answer.status < 400:
            self.done[label] += 1
        return answer

    async def _kill(self, request: web.Request, label: str, deed: Deed) -> web.StreamResponse:
        assert self.pid is not None
        pid = self.pid()
        if deed is Deed.KILL_AFTER:
            os.killpg(pid, signal.SIGSTOP)
            wait_frozen(pid)
            await self._count(label, await self._pass_on(request, quiet=True))
        os.killpg(pid, signal.SIGKILL)
        self.killed_at.append(label)
        return self._broken(request)


def label_of(method: str, path: str, body: bytes) -> str:
    """What a changing request is for; empty for those that belong to no step: election, reviews, Events."""
    parts = path.strip("/").split("/")
    raw: Mapping[str, Any] = json.loads(body) if body else {}
    if "remediations" in parts:
        return _of_case(method, raw)
    if parts[-1] == "eviction":
        return f"evict {parts[-4]}/{parts[-2]}"
    if "jobs" in parts:
        return "job"
    if "medik8s-leases" in parts:
        return "unlock" if method == "DELETE" else "lock"
    if parts[:3] == ["api", "v1", "nodes"]:
        if parts[-1] == "status":
            gone = any("$patch" in c for c in raw["status"]["conditions"])
            return "condition-off" if gone else "condition-on"
        undo = raw["metadata"].get("annotations", {}).get(UNDO)
        return f"mark {sum(c['kind'] == 'taint' for c in json.loads(undo)['changes'])}" if undo else "release"
    return ""


def _of_case(method: str, raw: Mapping[str, Any]) -> str:
    if method == "DELETE":
        return "forget"
    status = raw.get("status") or {}
    attempts = status.get("attempts") or ()
    steps = ",".join(f"{a['step']}={a['state']}" for a in attempts[-2:])
    words = ["open" if method == "POST" else "save", steps, status.get("result") or ""]
    return " ".join(word for word in words if word)
