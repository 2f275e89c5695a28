"""Real Prometheus and Alertmanager on the simulated fleet: an injected fault becomes the contract's alert, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web

from gpuheal_lab.demo import pipeline
from gpuheal_lab.fleet import discovery
from gpuheal_lab.fleet.clock import WallClock
from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_lab.fleet.sim import FleetServer
from gpuheal_lab.fleet.spec import fleet
from gpuheal_lab.fleet.telemetry import Telemetry
from gpuheal_lab.servers.find import Generation
from gpuheal_lab.servers.process import free_ports
from gpuheal_lab.servers.stack import Stack, wait_for

pytestmark = pytest.mark.servers

ONE = "gpu-node-001"
T = TypeVar("T")


async def waited(check: Callable[[], T], what: str) -> T:
    return await asyncio.to_thread(partial(wait_for, check, what))


@pytest.mark.parametrize("generation", list(Generation), ids=str)
async def test_fault_becomes_an_alert_with_the_contracts_labels_and_a_reboot_ends_it(
    tmp_path: Path, generation: Generation
) -> None:
    """A broken GPU is delivered to the webhook with exactly the contract's labels; after the reboot its state is 0."""
    specs = fleet(2, 8)
    sim = Simulation(specs, clock=WallClock())
    server = FleetServer(sim, Telemetry(sim.fleet, sim.schedule, sim.api.nodes))
    delivered: list[dict[str, str]] = []

    async def take(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        delivered.extend(alert["labels"] for alert in (await request.json())["alerts"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/webhook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    (tmp_path / "token").write_text("secret")
    hook = pipeline.Webhook(address=f"127.0.0.1:{port}", token_file=tmp_path / "token")
    scrape = discovery.write(tmp_path / "sd", specs, await server.start())
    try:
        with Stack(tmp_path / "stack", generation) as stack:
            path = await asyncio.to_thread(partial(pipeline.start, stack, scrape=scrape, webhook=hook, cluster="lab"))
            await asyncio.to_thread(path.wait_for_fleet, 16)
            gpu = specs[0].gpus[3].uuid
            sim.break_gpu(ONE, 3, fell_off_bus())
            ours = {"alertname": "GPUFellOffBus", "fault": "gpu-fell-off-bus", "scope": "gpu", "severity": "critical"}
            where = {"node": ONE, "gpu_uuid": gpu, "rack": "rack-01", "zone": "zone-a"}
            expected = {**ours, **where, "namespace": "gpuheal", "cluster": "lab"}
            await waited(lambda: expected in delivered, "the alert at the webhook")
            sim.fleet[ONE].reboot()
            state = f'gpuheal:gpu_state{{gpu_uuid="{gpu}"}}'
            other = f'gpuheal:gpu_state{{gpu_uuid="{specs[0].gpus[0].uuid}"}}'
            await waited(lambda: [v for _, v in path.prometheus.query(other)] == [5], "unknown states while it is down")
            await waited(lambda: [v for _, v in path.prometheus.query(state)] == [0], "the state ok after the reboot")
            witnesses = path.prometheus.query('gpuheal:fault_witness:last_seen_seconds{fault="gpu-fell-off-bus"}')
            assert witnesses == []
    finally:
        await server.stop()
        await runner.cleanup()
