"""A proxy on the way from Alertmanager to the responder: passes deliveries on unchanged and notes when each came."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gpuheal_lab.servers.process import LabError

if TYPE_CHECKING:
    from aiohttp import ClientSession, web

DEADLINE_S = 15.0
MAX_BODY = 8 * 1024 * 1024
KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One delivery: when it came, which nodes' alerts it carried, and what the responder answered."""

    at: datetime
    nodes: frozenset[str]
    status: int


@dataclass(slots=True)
class WebhookProxy:
    """Listens on a port of its own until `stop` and forwards to `responder` (host:port)."""

    responder: str
    deliveries: list[Delivery] = field(default_factory=list)
    _session: ClientSession | None = None
    _runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        """It listens on 127.0.0.1; raises LabError when the port is taken."""
        from aiohttp import ClientSession, ClientTimeout, web

        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/{path:.*}", self._forward)
        self._session = ClientSession(timeout=ClientTimeout(total=DEADLINE_S))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except OSError as problem:
            await self.stop()
            raise LabError(f"cannot listen on 127.0.0.1:{port}: {problem.strerror or problem}") from problem

    async def stop(self) -> None:
        """It no longer listens. Repeatable."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    def first(self, node: str, *, since: datetime) -> Delivery | None:
        """The first delivery after `since` with an alert of this node that the responder took, or None."""
        taken = (d for d in self.deliveries if d.status == 200 and d.at >= since and node in d.nodes)
        return next(taken, None)

    async def _forward(self, request: web.Request) -> web.Response:
        from aiohttp import ClientError, web

        at = datetime.now(UTC)
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() in {"authorization", "content-type"}}
        assert self._session is not None
        try:
            url = f"http://{self.responder}/{request.match_info['path']}"
            async with self._session.post(url, data=body, headers=headers) as answer:
                status, text = answer.status, await answer.read()
        except (ClientError, TimeoutError) as problem:
            status, text = 503, str(problem).encode()
        if len(self.deliveries) < KEPT:
            self.deliveries.append(Delivery(at=at, nodes=_nodes(body), status=status))
        return web.Response(status=status, body=text)


def _nodes(body: bytes) -> frozenset[str]:
    try:
        alerts = json.loads(body)["alerts"]
        return frozenset(alert["labels"]["node"] for alert in alerts if alert["labels"].get("node"))
    except (ValueError, KeyError, TypeError):
        return frozenset()
