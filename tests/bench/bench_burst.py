"""A thousand nodes of 25 KB become faulty: how soon is the last one safe, against a bare loop of the same PATCHes?

Real etcd, API server and controller manager; Alertmanager and Prometheus are played, for they are not what is measured.
The mark budget, 10 % of a pool in ten minutes, is lifted by LIMITS below, which no policy file can say.
`python -m tests.bench.bench_burst [--nodes N]` prints seconds and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

from tests.responder.stage import CLUSTER, FAULTS, policies

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import run
from gpuheal_responder.core.alert import Alert, Peer
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.policy import Limits
from gpuheal_responder.core.sighting import Evidence, Identity, Witness, WitnessClass
from gpuheal_responder.core.world import Controls, OperationState
from gpuheal_responder.shell.kube.api import JSON, MERGE_PATCH, METADATA_ONLY, Api, connect
from gpuheal_responder.shell.kube.cluster import KubeCluster
from gpuheal_responder.shell.kube.remediations import KubeRemediations
from gpuheal_responder.shell.round.engine import Engine
from gpuheal_responder.shell.round.observe import Ports
from gpuheal_responder.shell.round.pace import Pace
from gpuheal_responder.shell.telemetry import Telemetry

BASE = Path(__file__).parents[2] / "deploy" / "kustomize" / "base"
LIMITS = Limits(mark_percent=100)
PADDING_BYTES = 24_000
AT_ONCE = 32


class WallClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC)


@dataclass(slots=True)
class Played:
    """Alerts, evidence, controls and machines of a fleet that becomes faulty within `spread_s` from `since` on."""

    names: Sequence[str]
    since: float = float("inf")
    spread_s: float = 0.0

    def faulty(self) -> Sequence[str]:
        """Return the nodes that are faulty by now."""
        passed = time.monotonic() - self.since
        if passed < 0:
            return ()
        share = 1.0 if self.spread_s == 0 else min(1.0, passed / self.spread_s)
        return self.names[: int(share * len(self.names))]

    async def peers(self) -> tuple[Peer, ...]:
        """Return one peer with all alerts."""
        now = datetime.now(UTC)
        labels = {"alertname": "GPUFellOffBus", "fault": "gpu-fell-off-bus", "severity": "critical", "cluster": CLUSTER}
        alerts = tuple(
            Alert(
                fingerprint=name,
                labels={**labels, "node": name, "gpu_uuid": f"GPU-{name}-3"},
                starts_at=now,
                updated_at=now,
            )
            for name in self.faulty()
        )
        return (Peer(name="am", answered=True, alerts=alerts),)

    async def read(self, nodes: Collection[str]) -> Mapping[str, Evidence]:
        """Return two witnesses for each."""
        now = datetime.now(UTC)
        return {
            name: Evidence(
                at=now,
                witnesses=tuple(
                    Witness(fault="gpu-fell-off-bus", gpu_uuid=f"GPU-{name}-3", witness_class=kind, last_seen_at=now)
                    for kind in (WitnessClass.KERNEL, WitnessClass.NVML)
                ),
                identities=(Identity(gpu_uuid=f"GPU-{name}-3", source="exporter"),),
            )
            for name in nodes
        }

    async def controls(self) -> Controls:
        """Return nothing special."""
        return Controls()

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """Never called: identity has one source only."""

    async def lookup(self, node: Node, operation: str, provider: str) -> OperationState:
        """Know nothing."""
        return OperationState.NOT_FOUND


def main(argv: Sequence[str]) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder), node_grace_s=300) as plane:
        kubectl = find("kubectl")
        config = f"--kubeconfig={plane.kubeconfig()}"
        run(kubectl.command(config, "apply", "-f", str(BASE / "crd.yaml"), folder=BASE), deadline_s=60)
        names = plane.create_nodes(args.nodes, prefix="burst", wait=False)
        asyncio.run(measure(plane, names))
    return 0


async def measure(plane: ControlPlane, names: Sequence[str]) -> None:
    """Run the loop and the engine in turn, twice each, all at once and within ten seconds."""
    api = await connect(plane.kubeconfig(), connections=AT_ONCE + 8)
    try:
        await pad(api, names)
        for spread_s in (0.0, 10.0):
            ratios = []
            for _ in range(2):
                bare = await bare_loop(api, names, spread_s)
                await release(api, names)
                ours = await engine(api, names, spread_s)
                await release(api, names)
                ratios.append(ours / bare)
                print(f"{len(names)} nodes within {spread_s:g} s: loop {bare:.2f} s, engine {ours:.2f} s", flush=True)
            print(f"  last taint + cordon, engine / loop: {', '.join(f'{r:.2f}' for r in ratios)}", flush=True)
    finally:
        await api.close()


async def each(items: Sequence[str], do: object) -> None:
    """Do something for each item, 32 at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: str) -> None:
        async with gate:
            await do(item)  # type: ignore[operator]

    await asyncio.gather(*(one(item) for item in items))


async def pad(api: Api, names: Sequence[str]) -> None:
    """Make every node as large as real ones are (25 KB)."""
    text = "x" * PADDING_BYTES
    body = {"metadata": {"annotations": {"example.com/padding": text}}}
    await each(names, lambda name: patch(api, name, body))


async def patch(api: Api, name: str, body: Mapping[str, object], accept: str = METADATA_ONLY) -> None:
    """Send one merge PATCH."""
    await api.call("PATCH", f"/api/v1/nodes/{name}", body=body, content_type=MERGE_PATCH, accept=accept)


async def bare_loop(api: Api, names: Sequence[str], spread_s: float) -> float:
    """Return how long the same PATCHes take without anything around them, each sent when its node becomes faulty."""
    body = {
        "metadata": {"annotations": {"gpu.health/undo": "u" * 600}},
        "spec": {
            "unschedulable": True,
            "taints": [{"key": "gpu.health/unhealthy", "value": "true", "effect": "NoSchedule"}],
        },
    }
    began = time.monotonic()
    index = {name: i for i, name in enumerate(names)}

    async def one(name: str) -> None:
        due = began + spread_s * index[name] / len(names)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await patch(api, name, body, accept=JSON)

    await each(names, one)
    return time.monotonic() - began


async def release(api: Api, names: Sequence[str]) -> None:
    """Take all marks and Remediations away."""
    body = {"metadata": {"annotations": {"gpu.health/undo": None}}, "spec": {"unschedulable": None, "taints": None}}
    await each(names, lambda name: patch(api, name, body))
    path = "/apis/gpu.health/v1alpha1/remediations"
    await api.call("DELETE", path, accept=JSON, deadline=timedelta(minutes=2))


async def engine(api: Api, names: Sequence[str], spread_s: float) -> float:
    """Return how long the engine takes from the first fault to the last mark."""
    clock = WallClock()
    cluster, remediations = KubeCluster(api, clock), KubeRemediations(api)
    played = Played(names, spread_s=spread_s)
    (policy,) = policies("enforce", ["taint", "drain", {"reboot": {"provider": "lab"}}])
    made = Engine(
        ports=Ports(
            cluster=cluster,
            remediations=remediations,
            machines=played,
            alerts=played,
            evidence=played,
            controls=played,
            clock=clock,
        ),
        policies=lambda: (replace(policy, limits=LIMITS),),
        cluster=CLUSTER,
        owner="gpuheal",
        known_faults=FAULTS,
        recorder=Telemetry(cluster=CLUSTER, clock=clock, audit=StringIO()),
        may_act=lambda: True,
        pace=Pace(concurrency=AT_ONCE, poll=timedelta(milliseconds=500)),
    )
    cluster.start()
    remediations.start()
    await cluster.mirror.wait_synced(timedelta(seconds=60))
    await remediations.mirror.wait_synced(timedelta(seconds=60))
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    await asyncio.sleep(0.5)
    began = played.since = time.monotonic()
    deadline = began + 180
    last = began
    while time.monotonic() < deadline:
        made.wake()
        await asyncio.sleep(0.05)
        left = [n for n in (await cluster.nodes()).values() if n.undo is None]
        if not left:
            last = time.monotonic()
            break
    else:
        print("  NOT FINISHED", len(left), flush=True)
        last = float("inf")
    stop.set()
    await task
    await cluster.stop()
    await remediations.stop()
    return last - began


if __name__ == "__main__":
    print(json.dumps({"limits": str(LIMITS)}))
    sys.exit(main(sys.argv[1:]))
