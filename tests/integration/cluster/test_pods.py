"""Pods through the adapter on a real API server: who runs where, who must not be moved, and evictions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.plane import Eventually, deployment

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_responder.core.node import Pod
from gpuheal_responder.ports import EvictionResult
from gpuheal_responder.shell.kube.cluster import KubeCluster
from gpuheal_responder.shell.kube.read import UNMANAGED

pytestmark = pytest.mark.cluster

MakeNodes = Callable[..., list[str]]
Json = dict[str, Any]


async def create(plane: ControlPlane, path: str, body: Json) -> Json:
    """The object as created."""
    return await asyncio.to_thread(plane.admin.create, path, body)


async def running(cluster: KubeCluster, eventually: Eventually, node: str, count: int) -> tuple[Pod, ...]:
    """The running pods of the node, when there are as many."""

    async def check() -> tuple[Pod, ...] | None:
        found = tuple(p for p in await cluster.pods_on(node) if p.phase == "Running" and not p.terminating)
        return found if len(found) == count else None

    pods: tuple[Pod, ...] = await eventually(check, f"{count} running pods")
    return pods


def budget(name: str, app: str, minimum: int) -> Json:
    """A PodDisruptionBudget over the pods of an app."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"minAvailable": minimum, "selector": {"matchLabels": {"app": app}}},
    }


def bare_pod(name: str, node: str, **metadata: Any) -> Json:
    """A pod without an owner."""
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "m", "image": "x:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


async def test_pods_of_one_node_are_told_with_owner_gpus_and_protection(
    plane: ControlPlane, namespace: str, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """Deployment pods name their ReplicaSet and GPUs; annotated and unmanaged pods say why they are protected."""
    node, other = await asyncio.to_thread(make_nodes, 2)
    apps, pods = f"/apis/apps/v1/namespaces/{namespace}/deployments", f"/api/v1/namespaces/{namespace}/pods"
    gpus = {"limits": {"nvidia.com/gpu": "2"}}
    await create(plane, apps, deployment("train", node, 1, resources=gpus))
    await create(plane, apps, deployment("kept", node, 1, annotations={"gpu.health/do-not-evict": "true"}))
    await create(plane, apps, deployment("elsewhere", other, 1))
    await create(plane, pods, bare_pod("alone", node))
    found = {p.name.split("-")[0]: p for p in await running(cluster, eventually, node, 3)}
    assert set(found) == {"train", "kept", "alone"}
    assert (found["train"].owner_kind, found["train"].gpus, found["train"].protected) == ("ReplicaSet", 2, "")
    assert "do-not-evict" in found["kept"].protected
    assert found["alone"].protected == UNMANAGED
    assert found["train"].evictable


async def test_a_gang_job_names_its_gang(
    plane: ControlPlane, namespace: str, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """Pods of a real Job carry kind, namespace and name of the Job as their gang."""
    (node,) = await asyncio.to_thread(make_nodes, 1)
    template = deployment("x", node, 1)["spec"]["template"]["spec"] | {"restartPolicy": "Never"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "llama"},
        "spec": {"parallelism": 2, "completions": 2, "template": {"spec": template}},
    }
    await create(plane, f"/apis/batch/v1/namespaces/{namespace}/jobs", job)

    async def gangs() -> set[str]:
        return {p.gang for p in await cluster.pods_on(node)}

    await eventually(gangs, "the pods")
    assert await gangs() == {f"Job/{namespace}/llama"}


async def test_s19_the_last_running_replica_of_a_vital_app_is_protected(
    plane: ControlPlane, namespace: str, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """One Prometheus is protected by name; as soon as another runs elsewhere it is not."""
    node, other = await asyncio.to_thread(make_nodes, 2)
    apps = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    labels = {"app.kubernetes.io/name": "prometheus", "app.kubernetes.io/instance": "main"}
    await create(plane, apps, deployment("first", node, 1, labels))
    (alone,) = await running(cluster, eventually, node, 1)
    assert alone.protected == "last running replica of prometheus"
    await create(plane, apps, deployment("second", other, 1, labels))

    async def free() -> bool:
        return all(not p.protected for p in await cluster.pods_on(node))

    await eventually(free, "protection to end")


async def test_an_eviction_is_blocked_by_name_then_accepted_then_gone(
    plane: ControlPlane, namespace: str, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """A full budget blocks and is named; lifted, the pod goes; asked again, it is gone; its successor is untouched."""
    (node,) = await asyncio.to_thread(make_nodes, 1)
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    await create(plane, f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("web", node, 1))
    await create(plane, budgets, budget("keep-web", "web", 1))
    (pod,) = await running(cluster, eventually, node, 1)

    async def status(key: str) -> Any:
        return (await asyncio.to_thread(plane.admin.get, f"{budgets}/keep-web")).get("status", {}).get(key)

    await eventually(lambda: status("currentHealthy"), "the budget's status")
    blocked = await cluster.evict(pod)
    assert blocked.result is EvictionResult.BLOCKED
    assert "keep-web" in blocked.blocker

    await asyncio.to_thread(plane.admin.patch, f"{budgets}/keep-web", {"spec": {"minAvailable": 0}})
    await eventually(lambda: status("disruptionsAllowed"), "an allowance")
    assert (await cluster.evict(pod)).result is EvictionResult.ACCEPTED
    (successor,) = await eventually(lambda: _others(cluster, node, pod.uid), "the successor")
    assert (await cluster.evict(pod)).result is EvictionResult.GONE
    stale = replace(successor, uid=pod.uid)
    assert (await cluster.evict(stale)).result is EvictionResult.GONE
    assert [p.uid for p in await cluster.pods_on(node) if not p.terminating] == [successor.uid]


async def _others(cluster: KubeCluster, node: str, uid: str) -> list[Pod]:
    pods = await cluster.pods_on(node)
    return [p for p in pods if p.uid != uid and p.phase == "Running"] if all(p.uid != uid for p in pods) else []


async def test_two_budgets_over_one_pod_block_it_in_words(
    plane: ControlPlane, namespace: str, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """The API server's 500 for a pod with two budgets is an answer: blocked, and why."""
    (node,) = await asyncio.to_thread(make_nodes, 1)
    await create(plane, f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("web", node, 1))
    for name in ("one", "two"):
        await create(plane, f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets", budget(name, "web", 0))
    (pod,) = await running(cluster, eventually, node, 1)
    answer = await cluster.evict(pod)
    assert answer.result is EvictionResult.BLOCKED
    assert "more than one PodDisruptionBudget" in answer.blocker


async def test_a_pod_of_a_namespace_that_is_going_needs_no_eviction(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """The API server's 403 in a terminating namespace means that the pod is going anyway."""
    (node,) = await asyncio.to_thread(make_nodes, 1)
    place = await asyncio.to_thread(plane.create_namespace, "going")
    pods = f"/api/v1/namespaces/{place}/pods"
    await create(plane, pods, bare_pod("held", node, finalizers=["gpu.health/test"]))
    (pod,) = await running(cluster, eventually, node, 1)
    await asyncio.to_thread(plane.admin.delete, f"/api/v1/namespaces/{place}")

    async def terminating() -> bool:
        return any(p.terminating for p in await cluster.pods_on(node))

    await eventually(terminating, "the namespace's pods to terminate")
    assert (await cluster.evict(pod)).result is EvictionResult.GONE
    change = {"metadata": {"finalizers": None}}
    await asyncio.to_thread(plane.admin.patch, f"{pods}/held", change)


async def test_many_pods_are_read_page_by_page(
    plane: ControlPlane, namespace: str, make_nodes: MakeNodes, cluster: KubeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pages of 3, all 8 pods of the node come back, each once."""
    (node,) = await asyncio.to_thread(make_nodes, 1)
    monkeypatch.setattr("gpuheal_responder.shell.kube.cluster.PODS_PAGE", 3)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    names = sorted([(await create(plane, pods, bare_pod(f"p{i}", node)))["metadata"]["name"] for i in range(8)])
    assert sorted(p.name for p in await cluster.pods_on(node)) == names
