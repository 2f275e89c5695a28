"""Webhook ingest against a bare aiohttp handler that reads and parses the same body, in the same run.

The two take turns, so that whatever else the machine does hits both. The sender is a process of its own and writes
prepared bytes on kept-alive connections. Also printed: how long the event loop stood still at worst while bodies of the
largest size came in. `python -m tests.bench.bench_webhook [--seconds S]`
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.responder.shell.standins import Crowd

from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.webhook import LARGEST_BODY, MOST_SIGNS, Intake, Web, understand
from gpuheal_responder.shell.process.reload import Tokens
from gpuheal_responder.shell.telemetry import Telemetry

TOKEN = "bench-secret"
SIZES = (1, 8, 64, 1000)
CONNECTIONS = 4
ROUNDS = 5


class WallClock:
    """The port Clock."""

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)


def body(alerts: int) -> bytes:
    """A webhook message with that many alerts of about 1.1 kB."""
    names = ("rack", "zone", "cluster", "namespace", "scope", "severity", "prometheus", "fabric_domain")
    one: dict[str, Any] = {
        "status": "firing",
        "labels": {"alertname": "GPUFellOffBus", "fault": "gpu-fell-off-bus", **{n: f"{n}-value" for n in names}},
        "annotations": {
            "summary": "a GPU fell off the bus " * 4,
            "description": "what was seen, and what to do. " * 12,
        },
        "startsAt": "2026-03-01T12:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.monitoring.svc:9090/graph?g0.expr=gpuheal%3Agpu_witnesses%3Acount",
        "fingerprint": "0123456789abcdef",
    }
    listed = [{**one, "labels": {**one["labels"], "node": f"n{i}", "gpu_uuid": f"GPU-{i:036d}"}} for i in range(alerts)]
    return json.dumps({"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "alerts": listed}).encode()


async def bare(request: web.Request) -> web.Response:
    """Read, parse, answer: the least that could be done."""
    json.loads(await request.read())
    return web.Response(text="ok\n")


def ours(folder: Path) -> web.Application:
    """The webhook as it is served."""
    (folder / "token").write_text(TOKEN)
    intake = Intake(
        wake=lambda: None,
        refusing=str,
        unready=str,
        telemetry=Telemetry(cluster="", clock=WallClock(), audit=io.StringIO()),
        admission=Admission(Crowd()),
        webhook_tokens=Tokens([folder / "token"], lambda problem: None),
    )
    app = web.Application()
    Web(intake).add_to(app)
    return app


async def listening(stack: AsyncExitStack, app: web.Application) -> int:
    """Serve an application on loopback until the stack ends; return its port."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


def send(port: int, payload: bytes, seconds: float, answer: Any) -> None:
    """Post for that long on kept-alive connections; put (requests, seconds, statuses) into the queue."""

    async def one(deadline: float, head: bytes) -> tuple[int, set[bytes]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count, statuses = 0, set()
        while time.perf_counter() < deadline:
            writer.write(head)
            writer.write(payload)
            await writer.drain()
            found = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(v.split(b":")[1]) for v in found.split(b"\r\n") if v.lower().startswith(b"content-length")
            )
            await reader.readexactly(length)
            statuses.add(found.split(b" ", 2)[1])
            count += 1
        writer.close()
        return count, statuses

    async def all_of_them() -> None:
        lines = (
            "POST /webhook HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {TOKEN}",
            f"Content-Length: {len(payload)}",
        )
        head = "\r\n".join((*lines, "", ""))
        began = time.perf_counter()
        found = await asyncio.gather(*(one(began + seconds, head.encode()) for _ in range(CONNECTIONS)))
        statuses = {status.decode() for _, seen in found for status in seen}
        answer.put((sum(count for count, _ in found), time.perf_counter() - began, sorted(statuses)))

    asyncio.run(all_of_them())


async def rate(port: int, payload: bytes, seconds: float) -> float:
    """Requests a second that the server on this port answers with 200; its process keeps serving meanwhile."""
    context = multiprocessing.get_context("spawn")
    answer: Any = context.Queue()
    sender = context.Process(target=send, args=(port, payload, seconds, answer))
    sender.start()
    count, spent, statuses = await asyncio.to_thread(answer.get)
    await asyncio.to_thread(sender.join)
    assert statuses == ["200"], statuses
    return float(count / spent)


async def worst_pause(port: int, payload: bytes) -> float:
    """The longest time the event loop stood still while such bodies came in, in seconds."""
    worst, running = 0.0, True

    async def watch() -> None:
        nonlocal worst
        while running:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - before - 0.001)

    watching = asyncio.create_task(watch())
    await rate(port, payload, 3.0)
    running = False
    await watching
    return worst


async def measure(seconds: float) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {"requests": []}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain = web.Application(client_max_size=LARGEST_BODY)
        plain.router.add_post("/webhook", bare)
        ports = (await listening(stack, ours(folder)), await listening(stack, plain))
        for alerts in SIZES:
            payload = body(alerts)
            pairs = [[await rate(port, payload, seconds) for port in ports] for _ in range(ROUNDS)]
            ratio = statistics.median(mine / theirs for mine, theirs in pairs)
            mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            row = {"alerts": alerts, "bytes": len(payload), "ours": mine, "bare": theirs, "ratio": ratio}
            found["requests"].append(row)
            print(
                f"{alerts:5} alerts {len(payload):8} B   ours {mine:8.0f}/s   bare {theirs:8.0f}/s   ratio {ratio:.2f}"
            )
        largest = next(b for n in range(4000, 0, -50) if len(b := body(n)) < LARGEST_BODY and signs(b) < MOST_SIGNS)
        found["largest_bytes"] = len(largest)
        began = time.process_time()
        understand(largest)
        found["understand_cpu_ms"] = 1000 * (time.process_time() - began)
        found["worst_pause_ms"] = 1000 * await worst_pause(ports[0], largest)
        print(
            f"largest body read {len(largest)} B: {found['understand_cpu_ms']:.0f} ms of CPU; the loop stood still "
            f"{found['worst_pause_ms']:.0f} ms at worst (other processes' turns included)"
        )
    return found


def signs(payload: bytes) -> int:
    """What the web layer counts before it parses."""
    return sum(payload.count(sign) for sign in (b",", b"{", b"["))


def main(argv: Sequence[str]) -> int:
    """Print the figures, and as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one round")
    print(json.dumps(asyncio.run(measure(parser.parse_args(argv).seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
