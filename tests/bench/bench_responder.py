"""What a whole responder costs on a large fleet: memory, time to ready, CPU, and how long its event loop stands still.

    python -m tests.bench.bench_responder [--nodes 1000 10000] [--settle S] [--json FILE]

`gpuheal serve` runs as in production, against a real etcd and API server with nodes of 25 KB that report every five
minutes as kubelets do. Alertmanager and Prometheus are played by another process: the answers are as large as real ones
(8 GPUs a node, two sources of identity, ten minutes of states), and only the responder is measured. Phases:
start (until ready), steady (rounds without faults), burst (a tenth of the nodes become faulty, webhooks in parallel).
Stalls are what the responder's own metric says: `wall` is what others wait, `cpu` the part that its own work takes. On
a busy machine wall is more, and how long the loop's thread waited for a CPU in all is printed too.
Goals: RSS <= 150 MB at 1,000 nodes, <= 300 MB at 10,000, stalls <= 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import yaml
from tests.bench.bench_kube import RSS_GOALS_MB, heavy_node
from tests.bench.bench_webhook import body as delivery
from tests.bench.played import Json, name_of, play

from gpuheal_lab.controlplane.kubeapi import STRATEGIC
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.process import Child, free_ports
from gpuheal_lab.servers.stack import wait_for

BASE = Path(__file__).parents[2] / "deploy" / "kustomize" / "base"
GPUHEAL = Path(sys.executable).with_name("gpuheal")
TOKEN = "bench-secret"
CREATORS = 4
REPORT_S = 300.0
"""How often a kubelet writes its Node when nothing has changed (kubelet's nodeStatusReportFrequency)."""
STALL_GOAL_MS = 50.0
READY_DEADLINE_S = 180.0
FORGOTTEN_S = 125.0
"""After this the gauge of the longest stall knows nothing of what was before."""
BURST_S = 60.0
SENDERS = 8
ROUNDS = 'gpuheal_tick_duration_seconds_count{ok="true"}'

# The real parts


@dataclass
class Responder:
    """The process under measurement."""

    folder: Path
    plane: ControlPlane
    played: int
    port: int

    def child(self) -> Child:
        """Return the process, not started."""
        (self.folder / "token").write_text("webhook")
        (self.folder / "metrics-token").write_text(TOKEN)
        steps = ["taint", {"drain": {"deadline": "5m"}}]
        policy = {"name": "bench", "mode": "enforce", "match": {"faults": ["gpu-fell-off-bus"]}, "steps": steps}
        (self.folder / "policies.yaml").write_text(yaml.safe_dump({"policies": [policy]}))
        played = {"url": f"http://127.0.0.1:{self.played}", "settle": "1s"}
        tokens = {"webhook_token_files": ["token"], "metrics_token_files": ["metrics-token"]}
        settings = {
            "policies": ["policies.yaml"],
            "listen": {"host": "127.0.0.1", "port": self.port, **tokens},
            "alertmanagers": [played],
            "prometheus": played,
            "kubernetes": {"kubeconfig": str(self.plane.kubeconfig())},
        }
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        argv = [str(GPUHEAL), "serve", "--config", str(self.folder / "settings.yaml")]
        return Child("responder", argv, log_path=self.folder / "responder.log", ready=self._unready)

    def _unready(self) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                return None
        except OSError as problem:
            return str(problem)

    def wait_for_look(self) -> None:
        """Wait until it has led a whole round: then nodes and Remediations are listed."""

        def rounds() -> float:
            counted = self.metrics()
            return counted["gpuheal_leader"] and counted.get(ROUNDS, 0.0)

        wait_for(rounds, "it to lead", READY_DEADLINE_S)
        before = rounds()
        wait_for(lambda: rounds() > before, "the first look", READY_DEADLINE_S)

    def metrics(self) -> Mapping[str, float]:
        """Return all samples by name and labels."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}


@dataclass
class Usage:
    """What the kernel has counted of a process."""

    rss_mb: float
    peak_mb: float
    cpu_s: float
    waited_s: float
    """How long its first thread, which runs the event loop, was ready to run and had no CPU."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Read it."""
        status = Path(f"/proc/{pid}/status").read_text()
        rss, peak = (int(re.search(rf"{f}:\s+(\d+)", status).group(1)) / 1000 * 1.024 for f in ("VmRSS", "VmHWM"))  # type: ignore[union-attr]
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        waited = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
        return cls(rss, peak, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), waited)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def kubelets(plane: ControlPlane, count: int, stop: threading.Event) -> None:
    """Every node is written once in five minutes, evenly spread, until `stop` is set."""
    index = 0
    while not stop.wait(REPORT_S / count):
        index = (index + 1) % count
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now}
        plane.admin.patch(f"/api/v1/nodes/{name_of(index)}/status", {"status": {"conditions": [ready]}}, STRATEGIC)


def ready_node(index: int) -> Json:
    """A node of 25 KB whose kubelet runs."""
    node = heavy_node(index)
    at = {"lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    kinds = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    node["status"]["conditions"] = [
        {"type": kind, "status": "True" if kind == "Ready" else "False", "reason": f"Kubelet{kind}", **at}
        for kind in kinds
    ]
    return node


def create(plane: ControlPlane, indices: Sequence[int]) -> None:
    """The nodes exist."""
    threads = [
        threading.Thread(
            target=lambda part: [plane.admin.create("/api/v1/nodes", ready_node(i)) for i in part], args=(p,)
        )
        for p in (indices[i::CREATORS] for i in range(CREATORS))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def prepare(plane: ControlPlane) -> None:
    """The API server runs, with our namespaces and our CRD."""
    plane.etcd.start()
    plane.apiserver.start()
    for name in ("gpuheal", "gpuheal-privileged", "medik8s-leases"):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        plane.admin.create("/api/v1/namespaces", body)
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    plane.admin.create(definition, yaml.safe_load((BASE / "crd.yaml").read_text(encoding="utf-8")))
    wait_for(lambda: plane.admin.list("/apis/gpu.health/v1alpha1/remediations") is not None, "the CRD", 60)


async def burst(port: int, nodes: int, seconds: float) -> int:
    """Send deliveries of 8 alerts on several connections, and now and then one of all nodes; return how many."""
    small, large = delivery(8), delivery(nodes)
    end, count = time.monotonic() + seconds, 0
    headers = {"Authorization": f"Bearer {TOKEN}"}

    async def send(session: aiohttp.ClientSession, payload: bytes, pause_s: float) -> None:
        nonlocal count
        while time.monotonic() < end:
            async with session.post(f"http://127.0.0.1:{port}/webhook", data=payload, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
            count += 1
            await asyncio.sleep(pause_s)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(send(session, small, 0.05) for _ in range(SENDERS)), send(session, large, 5.0))
    return count


class Phases:
    """Figures of one responder, phase by phase."""

    def __init__(self, responder: Responder, pid: int) -> None:
        self._responder = responder
        self._pid = pid
        self.found: dict[str, float] = {}
        self._began, self._before = time.monotonic(), Usage(0, 0, 0, 0)
        self._counted: Mapping[str, float] = {}

    def end(self, phase: str) -> None:
        """Note what the phase that ends now took."""
        now, usage, counted = time.monotonic(), Usage.of(self._pid), self._responder.metrics()
        rounds = [c.get(ROUNDS, 0.0) for c in (self._counted, counted)]
        self.found |= {
            f"{phase}_s": now - self._began,
            f"{phase}_rounds": rounds[1] - rounds[0],
            f"{phase}_stall_wall_ms": 1000 * counted['gpuheal_event_loop_longest_stall_seconds{time="wall"}'],
            f"{phase}_stall_cpu_ms": 1000 * counted['gpuheal_event_loop_longest_stall_seconds{time="cpu"}'],
            f"{phase}_stalls_over_50_ms": self._over(counted) - self._over(self._counted),
            f"{phase}_rss_mb": usage.rss_mb,
            f"{phase}_peak_mb": usage.peak_mb,
            f"{phase}_cpu_s": usage.cpu_s - self._before.cpu_s,
            f"{phase}_waited_for_cpu_s": usage.waited_s - self._before.waited_s,
        }
        self._began, self._before, self._counted = now, usage, counted

    @staticmethod
    def _over(counted: Mapping[str, float]) -> float:
        name = "gpuheal_event_loop_stall_seconds"
        return counted.get(f"{name}_count", 0.0) - counted.get(f'{name}_bucket{{le="0.05"}}', 0.0)

    def lines(self, phase: str) -> Iterator[str]:
        """Yield the figures of a phase as one line."""
        shown = {key.removeprefix(f"{phase}_"): v for key, v in self.found.items() if key.startswith(f"{phase}_")}
        if phase == "start":
            shown |= {key: self.found[key] for key in ("ready_s", "first_look_s")}
        yield f"  {phase:6} " + ", ".join(f"{key} {value:.1f}" for key, value in shown.items())


def measure(plane: ControlPlane, folder: Path, nodes: int, settle_s: float) -> dict[str, float]:
    """Start a responder and lead it through the phases."""
    port, played_port = free_ports(2)
    context = multiprocessing.get_context("spawn")
    played = context.Process(target=play, args=(played_port,), daemon=True)
    played.start()
    wait_for(lambda: answers(played_port), "the played servers", 30)
    responder = Responder(folder, plane, played_port, port)
    child = responder.child()
    stop = threading.Event()
    reports = threading.Thread(target=kubelets, args=(plane, nodes, stop), daemon=True)
    reports.start()
    try:
        began = time.monotonic()
        child.launch()
        phases = Phases(responder, child.pid)
        child.wait_ready(READY_DEADLINE_S)
        phases.found |= {"nodes": nodes, "ready_s": time.monotonic() - began}
        responder.wait_for_look()
        phases.found["first_look_s"] = time.monotonic() - began
        phases.end("start")
        print(*phases.lines("start"), sep="\n", flush=True)
        time.sleep(max(settle_s, FORGOTTEN_S))
        phases.end("steady")
        print(*phases.lines("steady"), sep="\n", flush=True)
        faulty = max(1, nodes // 10)
        told = urllib.request.Request(f"http://127.0.0.1:{played_port}/faulty", data=str(faulty).encode())
        with urllib.request.urlopen(told, timeout=10):
            pass
        phases.found["burst_deliveries"] = asyncio.run(burst(port, faulty, BURST_S))
        phases.end("burst")
        print(*phases.lines("burst"), sep="\n", flush=True)
        return phases.found
    finally:
        stop.set()
        child.stop()
        played.terminate()
        played.join()
        reports.join()


def clean(plane: ControlPlane) -> None:
    """No Remediations and no marks are left of a burst."""
    for node in plane.admin.list("/api/v1/nodes"):
        if "gpu.health/undo" in node["metadata"].get("annotations", {}):
            body = {
                "metadata": {"annotations": {"gpu.health/undo": None}},
                "spec": {"unschedulable": None, "taints": None},
            }
            plane.admin.patch(f"/api/v1/nodes/{node['metadata']['name']}", body)
    plane.admin.delete("/apis/gpu.health/v1alpha1/remediations")


def run(nodes: Sequence[int], settle_s: float) -> list[dict[str, float]]:
    """All figures."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        plane = ControlPlane(Path(folder) / "plane")
        try:
            prepare(plane)
            have = 0
            for want in sorted(nodes):
                create(plane, range(have, want))
                have = want
                print(f"{want} nodes of {len(json.dumps(ready_node(1)))} bytes", flush=True)
                found.append(measure(plane, Path(folder), want, settle_s))
                clean(plane)
        finally:
            plane.close()
    return found


def main(argv: Sequence[str]) -> int:
    """Print the figures, and which goals were missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--settle", type=float, default=FORGOTTEN_S, help="seconds of steady state, 125 at least")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    found = run(args.nodes, args.settle)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    for figures in found:
        count = int(figures["nodes"])
        for phase in ("start", "steady", "burst"):
            rss, stall = figures[f"{phase}_rss_mb"], figures[f"{phase}_stall_cpu_ms"]
            if rss > RSS_GOALS_MB.get(count, float("inf")):
                print(f"missed: {rss:.0f} MB at {count} nodes ({phase})")
            if stall > STALL_GOAL_MS:
                print(f"missed: the loop stood still for {stall:.0f} ms of CPU time at {count} nodes ({phase})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
