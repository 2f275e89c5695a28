"""Two benches with the same fleet and the same work on it: simulated, and a real control plane."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from gpuheal_lab.demo.kubescene import KubeScene
from gpuheal_lab.demo.scene import work
from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.objects import Json
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.core.world import NodeLock
from gpuheal_responder.ports import Cluster, Remediations
from gpuheal_responder.shell.kube.api import connect
from gpuheal_responder.shell.kube.cluster import ClusterSettings, KubeCluster
from gpuheal_responder.shell.kube.remediations import KubeRemediations

NODES = 10
THIRD = "gpu-node-003"
TRIES = 150
STEP = timedelta(milliseconds=200)


class Bench(Protocol):
    """One implementation of the ports, and other people's hands on the same cluster."""

    @property
    def cluster(self) -> Cluster:
        """The port."""
        ...

    @property
    def remediations(self) -> Remediations:
        """The port."""
        ...

    async def raw(self, node: str) -> Json:
        """The raw Node."""
        ...

    async def label(self, node: str, key: str, value: str) -> None:
        """Somebody else labels the node."""
        ...

    async def foreign_lock(self, node: str, holder: str) -> None:
        """Somebody else holds the node's Lease."""
        ...

    async def delete_node(self, node: str) -> None:
        """The Node object is deleted."""
        ...

    async def need(self, pods: int) -> None:
        """The budget of the service `chat` wants so many pods from now on."""
        ...

    async def wait(self) -> None:
        """A moment goes by."""
        ...


@dataclass(slots=True)
class SimulatedBench:
    """The ports in memory, with a time of their own."""

    sim: Simulation

    @property
    def cluster(self) -> Cluster:
        return self.sim.cluster

    @property
    def remediations(self) -> Remediations:
        return self.sim.remediations

    async def raw(self, node: str) -> Json:
        return self.sim.raw(node)

    async def label(self, node: str, key: str, value: str) -> None:
        self.sim.edit(node, lambda raw: raw["metadata"]["labels"].update({key: value}))

    async def foreign_lock(self, node: str, holder: str) -> None:
        self.sim.cluster.locks[node] = NodeLock(holder=holder, expires_at=self.sim.now() + timedelta(minutes=5))

    async def delete_node(self, node: str) -> None:
        self.sim.api.delete_node(node)

    async def need(self, pods: int) -> None:
        self.sim.workloads.budget("chat", namespace="serving", selector={"app": "chat"}, min_available=pods)

    async def wait(self) -> None:
        self.sim.advance(STEP)


@dataclass(slots=True)
class KubeBench:
    """The ports on the API server, as the responder's service account."""

    scene: KubeScene
    cluster: KubeCluster
    remediations: KubeRemediations

    async def raw(self, node: str) -> Json:
        return await asyncio.to_thread(self.scene.plane.node, node)

    async def label(self, node: str, key: str, value: str) -> None:
        await self._admin("patch", f"/api/v1/nodes/{node}", {"metadata": {"labels": {key: value}}})

    async def foreign_lock(self, node: str, holder: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": f"node-{node}"},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 300, "acquireTime": now, "renewTime": now},
        }
        await self._admin("create", "/apis/coordination.k8s.io/v1/namespaces/medik8s-leases/leases", body)

    async def delete_node(self, node: str) -> None:
        await self._admin("delete", f"/api/v1/nodes/{node}")

    async def need(self, pods: int) -> None:
        path = "/apis/policy/v1/namespaces/serving/poddisruptionbudgets/chat"
        await self._admin("patch", path, {"spec": {"minAvailable": pods}})

        async def followed() -> bool:
            found = await asyncio.to_thread(self.scene.plane.admin.get, path)
            return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])

        await eventually(self, followed, "the disruption controller")

    async def wait(self) -> None:
        await asyncio.sleep(STEP.total_seconds())

    async def _admin(self, verb: str, *args: Any) -> None:
        await asyncio.to_thread(getattr(self.scene.plane.admin, verb), *args)


class WallClock:
    """The port Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def simulated() -> SimulatedBench:
    """A fresh simulated bench."""
    sim = Simulation(fleet(NODES, 8))
    work(sim)
    return SimulatedBench(sim)


@contextlib.asynccontextmanager
async def on(scene: KubeScene) -> AsyncIterator[KubeBench]:
    """A bench on the running control plane of a scene, its caches complete."""
    api = await connect(await asyncio.to_thread(scene.kubeconfig))
    cluster = KubeCluster(api, WallClock(), ClusterSettings())
    remediations = KubeRemediations(api)
    try:
        for followed in (cluster, remediations):
            followed.start()
            await followed.mirror.wait_synced(timedelta(seconds=30))
        yield KubeBench(scene, cluster, remediations)
    finally:
        await cluster.stop()
        await remediations.stop()
        await api.close()


async def eventually(bench: Bench, check: Callable[[], Awaitable[bool]], what: str) -> None:
    """The check was true within some moments."""
    for _ in range(TRIES):
        if await check():
            return
        await bench.wait()
    raise AssertionError(f"waited in vain for {what}")
