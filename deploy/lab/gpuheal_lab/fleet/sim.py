"""Serve a simulated GPU fleet over HTTP: metrics for Prometheus to scrape, and an API to inject faults.

GET  /fleet                                  state of every machine, GPU and node
GET  /nodes/NODE/dcgm/metrics                dcgm-exporter's metrics; 503 while it is down
GET  /nodes/NODE/exporter/metrics            the gpuheal exporter's metrics
GET  /kube-state-metrics/metrics             kube-state-metrics' node metrics
POST /nodes/NODE/kmsg                        write a kernel log line, plain or as in /dev/kmsg (PRIO,SEQ,USEC,-;TEXT)
POST /nodes/NODE/reboot                      reboot the machine
POST /faults                                 {"node": …, "gpu": 3, "fault": "gpu-fell-off-bus"}; see `parse_fault`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

    from gpuheal_lab.fleet.cluster import Simulation
    from gpuheal_lab.fleet.machine import GpuFault
    from gpuheal_lab.fleet.objects import Json
    from gpuheal_lab.fleet.telemetry import Telemetry

MAX_BODY = 64 * 1024
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class BadRequest(ValueError):
    """What was sent cannot be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """A fault that somebody asked for."""

    node: str
    gpu: str
    fault: GpuFault


class FleetServer:
    """The HTTP side of one simulation, on a loopback port until `stop`."""

    def __init__(self, simulation: Simulation, telemetry: Telemetry) -> None:
        self.simulation = simulation
        self.telemetry = telemetry
        self.address = ""
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> str:
        """It listens; returns `host:port` (a free one for port 0). Raises LabError when the port is taken."""
        from aiohttp import web

        from gpuheal_lab.servers.process import LabError

        self._runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as problem:
            await self.stop()
            raise LabError(f"cannot listen on {host}:{port}: {problem.strerror or problem}") from problem
        found: tuple[Any, ...] = self._runner.addresses[0]
        self.address = f"{host}:{found[1]}"
        return self.address

    async def stop(self) -> None:
        """It no longer listens. Repeatable."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def application(self) -> web.Application:
        """The routes, as an aiohttp application."""
        from aiohttp import web

        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/fleet", self._fleet),
                web.get("/nodes/{node}/dcgm/metrics", self._dcgm),
                web.get("/nodes/{node}/exporter/metrics", self._exporter),
                web.get("/kube-state-metrics/metrics", self._kube),
                web.post("/nodes/{node}/kmsg", self._kmsg),
                web.post("/nodes/{node}/reboot", self._reboot),
                web.post("/faults", self._faults),
            ]
        )
        return app

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _json({"healthy": True})

    async def _dcgm(self, request: web.Request) -> web.Response:
        node = self.telemetry.nodes.get(request.match_info["node"])
        return _missing() if node is None else _metrics(node.dcgm_text())

    async def _exporter(self, request: web.Request) -> web.Response:
        node = self.telemetry.nodes.get(request.match_info["node"])
        return _missing() if node is None else _metrics(node.exporter_text())

    async def _kube(self, _request: web.Request) -> web.Response:
        return _metrics(self.telemetry.kube_state_metrics())

    async def _kmsg(self, request: web.Request) -> web.Response:
        name = request.match_info["node"]
        if name not in self.simulation.fleet:
            return _missing()
        lines = (await request.text()).splitlines()
        written = 0
        for text in lines:
            written += write_line(self.simulation, name, text)
        if written < len(lines):
            return _json({"written": written, "error": f"{name} is down"}, status=409)
        return _json({"written": written})

    async def _reboot(self, request: web.Request) -> web.Response:
        machine = self.simulation.fleet.get(request.match_info["node"])
        if machine is None:
            return _missing()
        self.simulation.schedule.catch_up()
        machine.reboot()
        return _json({"power": machine.power.value})

    async def _faults(self, request: web.Request) -> web.Response:
        try:
            wanted = parse_fault(self.simulation, await request.text())
        except BadRequest as problem:
            return _json({"error": str(problem)}, status=400)
        at = self.simulation.now()
        self.simulation.break_gpu(wanted.node, wanted.gpu, wanted.fault)
        return _json({"node": wanted.node, "gpu_uuid": wanted.gpu, "fault": wanted.fault.slug, "at": at.isoformat()})

    async def _fleet(self, _request: web.Request) -> web.Response:
        return _json(describe(self.simulation, self.telemetry.objects))


def parse_fault(simulation: Simulation, text: str) -> Injection:
    """The fault that a JSON body asks for; raises BadRequest that names the key.

    Keys: node, gpu (index, UUID or PCI address), fault (a slug), and if wanted cured_by (a list of repairs, default
    ["reboot"]) and relapse_after (such as 90s).
    """
    from gpuheal_lab.fleet.machine import FAULTS
    from gpuheal_responder.core.duration import parse_duration

    try:
        raw = json.loads(text)
    except ValueError as problem:
        raise BadRequest(f"not JSON: {problem}") from None
    if not isinstance(raw, dict) or not {"node", "gpu", "fault"} <= raw.keys() or not raw.keys() <= _KEYS:
        raise BadRequest(f"expected an object with node, gpu and fault, and at most {', '.join(sorted(_KEYS))}")
    if raw["fault"] not in FAULTS:
        raise BadRequest(f"fault: unknown {raw['fault']!r}; known: {', '.join(sorted(FAULTS))}")
    if raw["node"] not in simulation.specs:
        raise BadRequest(f"node: no such node {raw['node']!r}")
    cured_by = raw.get("cured_by", ["reboot"])
    if not isinstance(cured_by, list) or not all(isinstance(repair, str) for repair in cured_by):
        raise BadRequest("cured_by: expected a list of repairs such as reboot, replace")
    try:
        gpu = simulation.specs[raw["node"]].gpu(str(raw["gpu"]))
        relapse = parse_duration(raw["relapse_after"]) if "relapse_after" in raw else None
    except KeyError as problem:
        raise BadRequest(f"gpu: {problem.args[0]}") from None
    except ValueError as problem:
        raise BadRequest(f"relapse_after: {problem}") from None
    fault = FAULTS[raw["fault"]](cured_by=frozenset(cured_by), relapse_after=relapse)
    return Injection(node=raw["node"], gpu=gpu.uuid, fault=fault)


_KEYS = frozenset({"node", "gpu", "fault", "cured_by", "relapse_after"})


def write_line(simulation: Simulation, node: str, text: str) -> bool:
    """Whether the node's kernel log has the line now; a raw record keeps its facility: user space stays untrusted."""
    from gpuheal_exporters.kernel.kmsg import parse_raw

    simulation.schedule.catch_up()
    raw = parse_raw(text.encode())
    facility, level = (0, 3) if raw is None or raw.prio is None else (raw.prio >> 3, raw.prio & 7)
    return simulation.fleet[node].log(text if raw is None else raw.text, facility=facility, level=level) is not None


def describe(simulation: Simulation, objects: Mapping[str, Json]) -> dict[str, Any]:
    """The fleet as plain data: machines, their GPUs, and what their Nodes (`objects`) say."""
    from gpuheal_responder.shell.kube.read import read_node

    simulation.schedule.catch_up()
    nodes = []
    for name, machine in simulation.fleet.items():
        entry: dict[str, Any] = {"name": name, "rack": machine.spec.rack, "zone": machine.spec.zone}
        entry |= {"pool": machine.spec.pool, "power": machine.power.value, "boot_id": machine.boot_id}
        entry["gpus"] = [
            {
                "uuid": gpu.uuid,
                "pci_bus_id": gpu.pci_bus_id,
                "serial": gpu.serial,
                "faults": sorted(machine.states[gpu.uuid].faults),
            }
            for gpu in machine.spec.gpus
        ]
        raw = objects.get(name)
        if raw is not None:
            node = read_node(raw)
            entry |= {"ready": node.ready, "unschedulable": node.unschedulable, "allocatable": node.gpu_allocatable}
            entry["taints"] = [f"{t.key}={t.value}:{t.effect}" for t in node.taints]
        nodes.append(entry)
    return {"at": simulation.now().isoformat(), "nodes": nodes}


def _metrics(text: bytes | None) -> web.Response:
    from aiohttp import web

    if text is None:
        return web.Response(status=503, text="this target is down\n", headers={"Connection": "close"})
    return web.Response(body=text, headers={"Content-Type": PROMETHEUS_TEXT})


def _missing() -> web.Response:
    return _json({"error": "no such node; GET /fleet lists all nodes"}, status=404)


def _json(data: Any, status: int = 200) -> web.Response:
    from aiohttp import web

    return web.json_response(data, status=status)


def main(argv: Sequence[str]) -> int:
    """Serve the fleet until a signal ends it; exit status 0, 1 when it cannot listen, 2 for wrong arguments."""
    args = _parser().parse_args(list(argv))
    from gpuheal_lab.servers.process import LabError

    try:
        asyncio.run(_serve(args))
    except LabError as problem:
        print(f"gpuheal sim: {problem}", file=sys.stderr)
        return 1
    except ValueError as problem:
        print(f"gpuheal sim: {problem}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuheal sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=8, help="number of nodes (default: 8)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs per node (default: 8)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=9480, help="port to listen on, 0 for any free port (default: 9480)")
    parser.add_argument("--seed", type=int, default=0, help="seed for UUIDs and serial numbers")
    parser.add_argument("--sd-dir", type=Path, help="folder for Prometheus file service discovery")
    return parser


async def _serve(args: argparse.Namespace) -> None:
    from gpuheal_lab.fleet import discovery
    from gpuheal_lab.fleet.clock import WallClock
    from gpuheal_lab.fleet.cluster import Simulation
    from gpuheal_lab.fleet.spec import fleet
    from gpuheal_lab.fleet.telemetry import Telemetry

    specs = fleet(args.nodes, args.gpus, seed=args.seed)
    simulation = Simulation(specs, clock=WallClock(), seed=args.seed)
    server = FleetServer(simulation, Telemetry(simulation.fleet, simulation.schedule, simulation.api.nodes))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    address = await server.start(args.port, args.host)
    try:
        print(f"{len(specs)} nodes with {args.gpus} GPUs on http://{address}/fleet", flush=True)
        if args.sd_dir is not None:
            discovery.write(args.sd_dir, specs, address)
            print(f"service discovery in {args.sd_dir}", flush=True)
        await stop.wait()
    finally:
        await server.stop()
