"""Leases on a real API server: one executor among replicas, and the node lock that other tools honour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.cluster.proxy import Proxy
from tests.integration.plane import Eventually, WallClock

from gpuheal_lab.controlplane.manifests import write_kubeconfig
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_responder.core.node import Node
from gpuheal_responder.errors import Transient
from gpuheal_responder.ports import Note
from gpuheal_responder.shell.kube.api import Api, connect
from gpuheal_responder.shell.kube.cluster import KubeCluster
from gpuheal_responder.shell.kube.election import Election, ElectionSettings
from gpuheal_responder.shell.kube.lease import NODE_LOCK_NAMESPACE, NodeLocks

pytestmark = pytest.mark.cluster

MakeNodes = Callable[..., list[str]]
FAST = ElectionSettings(
    duration=timedelta(seconds=3), renew_deadline=timedelta(seconds=2), retry=timedelta(milliseconds=200)
)
LEASE = "gpuheal-responder"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/gpuheal/leases"


class Hands:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
async def fresh_lease(plane: ControlPlane) -> AsyncIterator[None]:
    """No Lease of ours before and after."""

    async def remove() -> None:
        items = (await asyncio.to_thread(plane.admin.get, LEASES))["items"]
        for item in items:
            await asyncio.to_thread(plane.admin.delete, f"{LEASES}/{item['metadata']['name']}")

    await remove()
    yield
    await remove()


def candidate(api: Api, identity: str, **more: object) -> Election:
    """One replica."""
    return Election(
        api,
        WallClock(),
        namespace="gpuheal",
        name=LEASE,
        identity=identity,
        settings=FAST,
        **more,  # type: ignore[arg-type]
    )


async def test_s22_at_most_one_replica_leads_and_another_takes_over(
    api: Api, fresh_lease: None, eventually: Eventually
) -> None:
    """Of three replicas one leads; when it stops, another leads at once, without waiting for the Lease to run out."""
    replicas = [candidate(api, f"r{i}") for i in range(3)]
    for replica in replicas:
        replica.start()
    await eventually(lambda: any(r.is_leader for r in replicas), "a leader")
    for _ in range(20):
        assert sum(r.is_leader for r in replicas) <= 1
        await asyncio.sleep(0.05)
    (first,) = [r for r in replicas if r.is_leader]
    await first.stop()
    assert not first.is_leader
    rest = [r for r in replicas if r is not first]
    await eventually(lambda: any(r.is_leader for r in rest), "a successor", 2.5)
    for replica in rest:
        await replica.stop()


async def test_s22_a_cut_off_leader_stops_believing_before_anyone_can_take_over(
    plane: ControlPlane, api: Api, fresh_lease: None, eventually: Eventually
) -> None:
    """A leader that cannot reach the API server is no leader any more when another becomes one."""
    proxy = Proxy(plane)
    await proxy.start()
    far_api = await connect(await asyncio.to_thread(write_kubeconfig, plane, proxy.url))
    said: list[bool] = []
    cut_off, other = candidate(far_api, "far", changed=said.append), candidate(api, "near")
    cut_off.start()
    await eventually(lambda: cut_off.is_leader, "the first leader")
    other.start()
    proxy.down = True
    while not other.is_leader:
        assert not (cut_off.is_leader and other.is_leader)
        await asyncio.sleep(0.01)
    assert not cut_off.is_leader
    await eventually(lambda: said == [True, False], "both changes to be told")
    for replica in (cut_off, other):
        await replica.stop()
    await far_api.close()
    await proxy.stop()


def leading(*replicas: Election) -> tuple[bool, ...]:
    """Who believes to lead."""
    return tuple(r.is_leader for r in replicas)


async def test_fencing_goes_by_the_own_monotonic_clock(api: Api, fresh_lease: None) -> None:
    """Leadership ends `renew_deadline` after the renewal began; others take it `duration` after they saw a change."""
    mine, theirs = Hands(), Hands()
    first, second = candidate(api, "a", monotonic=mine), candidate(api, "b", monotonic=theirs)
    await first.campaign()
    await second.campaign()
    assert leading(first, second) == (True, False)
    mine.at += 1.9
    assert leading(first, second) == (True, False)
    mine.at += 0.2
    assert leading(first, second) == (False, False)
    theirs.at += 2.9
    await second.campaign()
    assert leading(first, second) == (False, False)
    theirs.at += 0.2
    await second.campaign()
    assert leading(first, second) == (False, True)
    await first.campaign()
    assert leading(first, second) == (False, True)
    assert first.holder == "b"


async def test_a_renewal_seen_starts_the_wait_anew(api: Api, fresh_lease: None) -> None:
    """As long as the holder renews, nobody else takes the Lease, however long it goes on."""
    mine, theirs = Hands(), Hands()
    first, second = candidate(api, "a", monotonic=mine), candidate(api, "b", monotonic=theirs)
    for _ in range(5):
        await first.campaign()
        await second.campaign()
        assert leading(first, second) == (True, False)
        mine.at += 1.5
        theirs.at += 2.5


async def node_of(cluster: KubeCluster, name: str) -> Node:
    """The node now."""
    node = await cluster.node(name)
    assert node is not None
    return node


async def test_the_node_lock_keeps_others_out_and_is_given_back(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, api: Api
) -> None:
    """A lock of ours is foreign to another tool and the other way round; renewed, given back, and free at last."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    node = await node_of(cluster, name)
    other = NodeLocks(api, WallClock(), "node-healthcheck")
    assert await cluster.lock_of(name) is None
    await cluster.lock(node, timedelta(minutes=5))
    await cluster.lock(node, timedelta(minutes=10))
    assert await cluster.lock_of(name) is None
    seen = await other.foreign(name)
    assert seen is not None
    assert seen.holder == "gpuheal"
    with pytest.raises(Transient) as caught:
        await other.take(node, timedelta(minutes=1))
    assert caught.value.reason == "node-locked"
    await other.give_back(name)
    assert await other.foreign(name) is not None
    path = f"/apis/coordination.k8s.io/v1/namespaces/{NODE_LOCK_NAMESPACE}/leases/node-{name}"
    raw = await asyncio.to_thread(plane.admin.get, path)
    assert raw["metadata"]["ownerReferences"][0]["uid"] == node.uid
    assert raw["spec"]["leaseDurationSeconds"] == 600

    await cluster.unlock(name)
    await cluster.unlock(name)
    await other.take(node, timedelta(minutes=1))
    held = await cluster.lock_of(name)
    assert held is not None
    assert held.holder == "node-healthcheck"
    with pytest.raises(Transient):
        await cluster.lock(node, timedelta(minutes=1))


async def test_a_lock_that_ran_out_is_free(
    make_nodes: MakeNodes, cluster: KubeCluster, api: Api, eventually: Eventually
) -> None:
    """Another tool's Lease that has not been renewed in time can be taken, counting a transition."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    node = await node_of(cluster, name)
    await NodeLocks(api, WallClock(), "dead-tool").take(node, timedelta(seconds=1))

    async def free() -> bool:
        return await cluster.lock_of(name) is None

    await eventually(free, "the lock to run out")
    await cluster.lock(node, timedelta(minutes=1))
    assert await NodeLocks(api, WallClock(), "dead-tool").foreign(name) is not None


async def test_the_same_event_again_raises_its_count(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually, tmp_path: Path
) -> None:
    """Three times the same note is one Event with count 3, bound to the node; another message is another Event."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    node = await eventually(lambda: cluster.mirror.peek(name), "the node")
    note = Note(node=name, reason="Tainted", message="GPU fell off the bus", warning=True)
    for _ in range(3):
        await cluster.publish(note)
    await cluster.publish(replace(note, message="something else"))
    path = f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={name},source=gpuheal"
    found = (await asyncio.to_thread(plane.admin.get, path))["items"]
    assert sorted((e["count"], e["type"], e["involvedObject"]["uid"]) for e in found) == [
        (1, "Warning", node.uid),
        (3, "Warning", node.uid),
    ]
    assert cluster.events.failed == 0
