"""An Alertmanager and a Prometheus that are played for benches: they answer what the responder asks, for any fleet."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gpuheal_responder.shell.sources.prometheus import BOOTED, IDENTITY, STATE, WITNESS

GPUS = 8
EVALUATION_S = 15.0
WINDOW_S = 600.0

Json = dict[str, Any]


class Played:
    """Both servers at one address; POST /faulty sets how many nodes are faulty."""

    def __init__(self) -> None:
        self.faulty: tuple[str, ...] = ()
        self.since = datetime.now(UTC)

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/faulty", self._set)
        app.router.add_get("/api/v2/status", self._status)
        app.router.add_get("/api/v2/alerts", self._alerts)
        app.router.add_post("/api/v1/query", self._query)
        return app

    async def _set(self, request: web.Request) -> web.Response:
        self.faulty = tuple(name_of(i) for i in range(int(await request.text())))
        self.since = datetime.now(UTC)
        return web.Response()

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response({"uptime": "2026-01-01T00:00:00Z", "cluster": {"status": "ready"}})

    async def _alerts(self, _request: web.Request) -> web.Response:
        now = datetime.now(UTC).isoformat()
        state = {"state": "active", "silencedBy": [], "inhibitedBy": [], "mutedBy": []}

        def alert(since: str, **labels: str) -> Json:
            fingerprint = f"{hash(tuple(labels.values())) & 0xFFFFFFFFFFFFFFFF:016x}"
            times = {"startsAt": since, "updatedAt": now, "endsAt": now}
            return {"fingerprint": fingerprint, "labels": labels, "status": state, **times}

        fault = {"alertname": "GPUFellOffBus", "fault": "gpu-fell-off-bus", "severity": "critical"}
        found = [alert(now, alertname="GPUHealWatchdog", fault="watchdog", severity="none")]
        found += [alert(self.since.isoformat(), **fault, node=name, gpu_uuid=gpu_of(name, 3)) for name in self.faulty]
        return web.json_response(found)

    async def _query(self, request: web.Request) -> web.Response:
        form = await request.post()
        kind, result = self._answer(str(form["query"]), float(str(form.get("time", time.time()))))
        return web.json_response({"status": "success", "data": {"resultType": kind, "result": result}})

    def _answer(self, query: str, at: float) -> tuple[str, object]:
        named = re.search(r'node=~"([^"]*)"', query)
        nodes = named.group(1).replace("[.]", ".").split("|") if named else self.faulty
        if query == "time()":
            return "scalar", [at, str(at)]
        if query in (WITNESS, f"time() - timestamp({WITNESS})"):
            value = str(self.since.timestamp() if query == WITNESS else 1.0)
            found = [(name, kind) for name in self.faulty for kind in ("kernel", "nvml")]
            return "vector", [self._one(at, value, n, 3, fault="gpu-fell-off-bus", **{"class": k}) for n, k in found]
        if query.startswith(IDENTITY):
            return "vector", [
                self._one(at, "1", n, g, source=s) for n in nodes for g in range(GPUS) for s in ("exporter", "dcgm")
            ]
        if BOOTED in query:
            return "vector", [{"metric": {"node": n}, "value": [at, str(at - 86400)]} for n in nodes]
        if query.startswith(STATE):
            times = [at - WINDOW_S + EVALUATION_S * (i + 1) for i in range(int(WINDOW_S / EVALUATION_S))]
            return "matrix", [
                {"metric": labels(n, g), "values": [[t, "4" if g == 3 else "0"] for t in times]}
                for n in nodes
                for g in range(GPUS)
            ]
        return "vector", []

    def _one(self, at: float, value: str, node: str, gpu: int, **more: str) -> Json:
        return {"metric": {**labels(node, gpu), **more}, "value": [at, value]}


def name_of(index: int) -> str:
    """The name of a node, as bench_kube gives it."""
    return f"bench-{index:05d}"


def gpu_of(node: str, index: int) -> str:
    """The UUID of a GPU."""
    return f"GPU-{index}{node.removeprefix('bench-'):0>35}"


def labels(node: str, gpu: int) -> dict[str, str]:
    """The labels that name a GPU."""
    return {"node": node, "gpu": str(gpu), "gpu_uuid": gpu_of(node, gpu), "pci_address": f"00000000:{gpu:02x}:00.0"}


def play(port: int) -> None:
    """Serve the played servers for ever."""
    web.run_app(Played().application(), host="127.0.0.1", port=port, print=None, access_log=None)
