"""The adapters of the real API server keep the contract, as the responder's service account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from tests.contract.rig import Json
from tests.contract.suite import PortContract
from tests.integration.plane import NODES, Eventually, WallClock, deployment

from gpuheal_lab.controlplane.kubeapi import ApiRefused
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.demo.kubefleet import JOBS
from gpuheal_responder.providers import made
from gpuheal_responder.providers.job import JobSettings
from gpuheal_responder.providers.provider import Tools
from gpuheal_responder.shell.kube.api import Api
from gpuheal_responder.shell.kube.cluster import KubeCluster
from gpuheal_responder.shell.kube.jobs import KubeJobs
from gpuheal_responder.shell.kube.lease import NODE_LOCK_PREFIX, Lease, Leases
from gpuheal_responder.shell.kube.remediations import KubeRemediations

pytestmark = pytest.mark.cluster

IMAGE = "tools@sha256:" + "0" * 64


class KubeRig:
    """Two nodes and a namespace of the control plane."""

    def __init__(
        self,
        control: ControlPlane,
        connection: Api,
        adapter: KubeCluster,
        store: KubeRemediations,
        place: str,
        nodes: tuple[str, str],
        wait: Eventually,
    ) -> None:
        self.cluster = adapter
        self.remediations = store
        self.machines = made(
            "job", {"job": JobSettings(image=IMAGE)}, Tools(jobs=KubeJobs(connection), clock=WallClock())
        )
        self.nodes = nodes
        self._plane = control
        self._api = connection
        self._namespace = place
        self._wait = wait

    async def raw(self, node: str) -> Json:
        """The raw Node."""
        return await asyncio.to_thread(self._plane.node, node)

    async def delete_node(self, node: str) -> None:
        """The Node object is deleted."""
        await asyncio.to_thread(self._plane.admin.delete, f"{NODES}/{node}")

    async def label(self, node: str, key: str, value: str) -> None:
        """A label is set."""
        await self._patch(node, {"metadata": {"labels": {key: value}}})

    async def taint(self, node: str, key: str) -> None:
        """A taint is added."""
        while True:
            raw = await asyncio.to_thread(self._plane.node, node)
            taints = [{"key": key, "effect": "NoSchedule"}, *raw["spec"].get("taints", ())]
            version = raw["metadata"]["resourceVersion"]
            try:
                await self._patch(node, {"metadata": {"resourceVersion": version}, "spec": {"taints": taints}})
            except ApiRefused as refusal:
                if refusal.status != 409:
                    raise
            else:
                return

    async def deployment(self, name: str, node: str, replicas: int, gpus: int) -> None:
        """A Deployment runs."""
        wanted = {"limits": {"nvidia.com/gpu": str(gpus)}}
        await self._create("apis/apps/v1", "deployments", deployment(name, node, replicas, resources=wanted))

    async def gang(self, name: str, node: str, size: int) -> None:
        """A gang runs: a Job with the labels that the JobSet controller gives its pods."""
        spec = deployment(name, node, size)["spec"]["template"]["spec"] | {"restartPolicy": "Never"}
        template = {"metadata": {"labels": {"jobset.sigs.k8s.io/jobset-name": name}}, "spec": spec}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"{name}-workers-0"},
            "spec": {"parallelism": size, "completions": size, "template": template},
        }
        await self._create("apis/batch/v1", "jobs", job)

    async def daemonset(self, name: str, node: str) -> None:
        """A DaemonSet's pod runs."""
        spec = deployment(name, node, 1)["spec"]
        del spec["replicas"]
        body = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name}, "spec": spec}
        await self._create("apis/apps/v1", "daemonsets", body)

    async def bare_pod(self, name: str, node: str) -> None:
        """A pod runs."""
        spec = deployment(name, node, 1)["spec"]["template"]["spec"]
        await self._create("api/v1", "pods", {"kind": "Pod", "metadata": {"name": name}, "spec": spec})

    async def budget(self, name: str, app: str, minimum: int) -> None:
        """A budget guards, or guards otherwise than before."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": {"minAvailable": minimum, "selector": {"matchLabels": {"app": app}}},
        }
        path = f"/apis/policy/v1/namespaces/{self._namespace}/poddisruptionbudgets"
        try:
            await asyncio.to_thread(self._plane.admin.create, path, body)
        except ApiRefused as refusal:
            if refusal.status != 409:
                raise
            await asyncio.to_thread(self._plane.admin.patch, f"{path}/{name}", {"spec": {"minAvailable": minimum}})

    async def stand_still(self, node: str) -> None:
        """Its kubelet is gone."""
        await asyncio.to_thread(self._plane.leave, node)

    async def foreign_lock(self, node: str, holder: str, span: timedelta) -> None:
        """Somebody else holds the lock."""
        now = WallClock().now()
        lease = Lease(holder=holder, span=span, renewed_at=now, acquired_at=now)
        await Leases(self._api, "medik8s-leases").write(NODE_LOCK_PREFIX + node, lease)

    async def until(self, check: Callable[[], Awaitable[object]], words: str) -> None:
        """Time passes until the check is true."""
        await self._wait(check, words)

    async def _patch(self, node: str, change: Json) -> None:
        await asyncio.to_thread(self._plane.admin.patch, f"{NODES}/{node}", change)

    async def _create(self, group: str, plural: str, body: Json) -> None:
        path = f"/{group}/namespaces/{self._namespace}/{plural}"
        await asyncio.to_thread(self._plane.admin.create, path, {"apiVersion": "v1", **body})


@pytest.fixture
async def rig(
    plane: ControlPlane,
    api: Api,
    cluster: KubeCluster,
    remediations: KubeRemediations,
    namespace: str,
    make_nodes: Callable[..., list[str]],
    eventually: Eventually,
) -> AsyncIterator[KubeRig]:
    """Two fresh nodes, known to the cache."""
    one, two = await asyncio.to_thread(make_nodes, 2)
    await eventually(lambda: all((n := cluster.mirror.peek(name)) and n.ready for name in (one, two)), "both nodes")
    yield KubeRig(plane, api, cluster, remediations, namespace, (one, two), eventually)
    for job in (await asyncio.to_thread(plane.admin.get, JOBS))["items"]:
        path = f"{JOBS}/{job['metadata']['name']}?propagationPolicy=Background"
        await asyncio.to_thread(plane.admin.delete, path)


class TestKube(PortContract):
    """All of it on the API server."""
