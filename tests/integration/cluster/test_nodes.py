"""Nodes through the adapter on a real API server: cache, marks, conditions, and giving back exactly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.plane import Eventually

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_responder.core.node import Condition, Node, Taint, UndoRecord
from gpuheal_responder.core.undo import TAINT_KEY, UNDO_ANNOTATION, Marks, conditioned, cordoned, mark, release, tainted
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.shell.kube.cluster import KubeCluster

pytestmark = pytest.mark.cluster

MakeNodes = Callable[..., list[str]]
OURS = Taint(key=TAINT_KEY, value="true", effect="NoSchedule")


def record_of(node: Node, *, cordon: bool = True) -> UndoRecord:
    """The undo record of a first mark."""
    return UndoRecord(
        case=f"{node.name}-1",
        owner="gpuheal",
        at=datetime.now(UTC),
        policy="p",
        faults=("gpu-fell-off-bus",),
        changes=(tainted(OURS), *([cordoned()] if cordon else []), conditioned("GPUHealthy", None)),
        node_uid=node.uid,
        system_uuid=node.system_uuid,
        boot_id=node.boot_id,
    )


async def fresh(cluster: KubeCluster, name: str) -> Node:
    """The node as it is now."""
    node = await cluster.node(name)
    assert node is not None
    return node


def lasting(raw: dict[str, Any]) -> bytes:
    """The bytes of a node without its version, managed fields and heartbeats."""
    raw = json.loads(json.dumps(raw))
    del raw["metadata"]["resourceVersion"]
    raw["metadata"].pop("managedFields", None)
    for condition in raw["status"]["conditions"]:
        condition.pop("lastHeartbeatTime", None)
    return json.dumps(raw).encode()


async def test_the_cache_holds_gpu_nodes_only_and_follows_them(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """A GPU node appears with the fields decisions read, follows a change, and goes; a CPU node never appears."""
    (gpu,) = await asyncio.to_thread(make_nodes, 1, gpus=8, racks=1)
    (cpu,) = await asyncio.to_thread(make_nodes, 1, gpus=0)
    await eventually(lambda: cluster.mirror.peek(gpu), "the new node")
    node = await eventually(lambda: (n := cluster.mirror.peek(gpu)) and n.ready and n, "Ready in the cache")
    raw = await asyncio.to_thread(plane.node, gpu)
    assert node.uid == raw["metadata"]["uid"]
    assert node.labels == raw["metadata"]["labels"]
    assert (node.gpu_capacity, node.gpu_allocatable, node.unschedulable) == (8, 8, False)
    assert node.boot_id == raw["status"]["nodeInfo"]["bootID"]
    assert node.system_uuid == raw["status"]["nodeInfo"]["systemUUID"]
    assert cpu not in await cluster.nodes()

    boot = await asyncio.to_thread(plane.reboot, gpu)
    await eventually(lambda: (n := cluster.mirror.peek(gpu)) and n.boot_id == boot, "the new boot id")
    await asyncio.to_thread(plane.delete_nodes, [gpu])
    await eventually(lambda: cluster.mirror.peek(gpu) is None, "the node to go")
    assert await cluster.node(gpu) is None


async def test_a_node_that_lost_its_gpu_resource_stays(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """When the device plugin dies and even the label goes, the node is still in the cache, with no GPU."""
    (name,) = await asyncio.to_thread(make_nodes, 1, gpus=8)
    await eventually(lambda: cluster.mirror.peek(name), "the new node")
    gone = {"capacity": {"nvidia.com/gpu": None}, "allocatable": {"nvidia.com/gpu": None}}
    await asyncio.to_thread(
        plane.admin.patch, f"/api/v1/nodes/{name}", {"metadata": {"labels": {"nvidia.com/gpu.present": None}}}
    )
    await asyncio.to_thread(plane.admin.patch, f"/api/v1/nodes/{name}/status", {"status": gone})
    await eventually(lambda: (n := cluster.mirror.peek(name)) and n.gpu_capacity == 0, "no capacity")
    assert name in await cluster.nodes()


@pytest.mark.parametrize("before", ["bare", "tainted-and-annotated", "cordoned"])
async def test_s18_a_mark_and_its_release_leave_the_node_byte_for_byte(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually, before: str
) -> None:
    """After mark, conditions and release the node is what it was, but for version, managed fields and heartbeats."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    path = f"/api/v1/nodes/{name}"
    if before == "tainted-and-annotated":
        taint = {"key": "team", "value": "a", "effect": "NoSchedule"}
        change = {"spec": {"taints": [taint]}, "metadata": {"annotations": {"site/rack": "7"}}}
        await asyncio.to_thread(plane.admin.patch, path, change)
    if before == "cordoned":
        await asyncio.to_thread(plane.admin.patch, path, {"spec": {"unschedulable": True}})
        cordon = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")

        async def tainted() -> bool:
            return any(t.key == cordon.key for t in (await fresh(cluster, name)).taints)

        await eventually(tainted, "the controller's cordon taint")
    was = lasting(await asyncio.to_thread(plane.node, name))

    node = await fresh(cluster, name)
    marked = await cluster.mark(node, mark(node, record_of(node, cordon=before != "cordoned")))
    await cluster.set_conditions(marked, [Condition(type="GPUHealthy", status="False", reason="X", message="m")], ())
    raw = await asyncio.to_thread(plane.node, name)
    assert raw["spec"]["unschedulable"] is True
    assert OURS.key in {t["key"] for t in raw["spec"]["taints"]}
    assert UNDO_ANNOTATION in raw["metadata"]["annotations"]

    async def released() -> bool:
        found = await fresh(cluster, name)
        if found.undo is None:
            return True
        try:
            await cluster.mark(found, release(found))
        except Transient:
            return False
        return True

    await eventually(released, "the release")
    await cluster.set_conditions(await fresh(cluster, name), (), ["GPUHealthy"])

    async def same() -> bool:
        return lasting(await asyncio.to_thread(plane.node, name)) == was

    await eventually(same, "the node to be as before")


async def test_a_mark_is_one_write_and_tells_the_cache_at_once(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster
) -> None:
    """The node that mark returns equals what the API server has, and the cache shows it without waiting."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    node = await fresh(cluster, name)
    record = record_of(node)
    marked = await cluster.mark(node, mark(node, record))
    raw = await asyncio.to_thread(plane.node, name)
    assert marked.taints[-1] == OURS
    assert marked.unschedulable
    assert marked.undo == record
    assert (await cluster.nodes())[name].undo == record
    assert (await fresh(cluster, name)).undo == record
    managers = [m for m in raw["metadata"]["managedFields"] if m["manager"] == "gpuheal"]
    assert [m["operation"] for m in managers] == ["Update"]


async def test_a_mark_on_an_old_version_changes_nothing(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster
) -> None:
    """A write between reading and marking makes the mark a conflict: Transient, and the node is untouched by us."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    node = await fresh(cluster, name)
    await asyncio.to_thread(plane.admin.patch, f"/api/v1/nodes/{name}", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(Transient) as caught:
        await cluster.mark(node, mark(node, record_of(node)))
    assert caught.value.reason == "conflict"
    raw = await asyncio.to_thread(plane.node, name)
    assert UNDO_ANNOTATION not in raw["metadata"].get("annotations", {})
    assert "unschedulable" not in raw["spec"]


async def test_marking_a_node_that_is_gone_is_for_people(make_nodes: MakeNodes, cluster: KubeCluster) -> None:
    """A mark on a node that does not exist is Permanent `not-found`."""
    node = Node(name="never-was", uid="u", resource_version="1")
    with pytest.raises(Permanent) as caught:
        await cluster.mark(node, Marks(taints=(OURS,), unschedulable=True, undo=None))
    assert caught.value.reason == "not-found"


async def test_conditions_keep_their_transition_time_and_leave_others_alone(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster
) -> None:
    """Writing the same status again moves only the heartbeat; kubelet's conditions keep order and content."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    others = [c["type"] for c in (await asyncio.to_thread(plane.node, name))["status"]["conditions"]]
    bad = Condition(type="GPUHealthy", status="False", reason="GpuFellOffBus", message="one")
    await cluster.set_conditions(await fresh(cluster, name), [bad], ())

    async def ours() -> dict[str, str]:
        raw = await asyncio.to_thread(plane.node, name)
        return next(c for c in raw["status"]["conditions"] if c["type"] == "GPUHealthy")

    first = await ours()
    await asyncio.sleep(1.1)
    await cluster.set_conditions(await fresh(cluster, name), [replace(bad, message="two")], ())
    second = await ours()
    assert second["message"] == "two"
    assert second["lastTransitionTime"] == first["lastTransitionTime"]
    assert second["lastHeartbeatTime"] > first["lastHeartbeatTime"]
    node = await fresh(cluster, name)
    assert next(c for c in node.conditions if c.type == "GPUHealthy").status == "False"
    await cluster.set_conditions(node, (), ["GPUHealthy", "NVLinkHealthy"])
    left = [c["type"] for c in (await asyncio.to_thread(plane.node, name))["status"]["conditions"]]
    assert left == others


async def test_s21_conditions_never_reach_a_new_machine_under_an_old_name(
    make_nodes: MakeNodes, cluster: KubeCluster
) -> None:
    """A node whose UID differs from the one looked at is a conflict."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    other = replace(await fresh(cluster, name), uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Transient) as caught:
        await cluster.set_conditions(other, [Condition(type="GPUHealthy", status="False")], ())
    assert caught.value.reason == "conflict"
