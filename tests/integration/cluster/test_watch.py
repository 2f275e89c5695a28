"""The watch cache against a real API server behind a faulty proxy: it survives, or says that it lags."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from tests.integration.cluster.proxy import Proxy, is_list, is_watch, is_write
from tests.integration.plane import SYNC, Eventually, WallClock

from gpuheal_lab.controlplane.manifests import write_kubeconfig
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_responder.core.node import Condition
from gpuheal_responder.core.undo import Marks
from gpuheal_responder.errors import ObserveError, Transient
from gpuheal_responder.ports import Note
from gpuheal_responder.shell.kube.api import connect
from gpuheal_responder.shell.kube.cluster import ClusterSettings, KubeCluster
from gpuheal_responder.shell.kube.mirror import WatchSettings

pytestmark = pytest.mark.cluster

MakeNodes = Callable[..., list[str]]
Start = Callable[..., Awaitable[KubeCluster]]


@pytest.fixture
async def proxy(plane: ControlPlane) -> AsyncIterator[Proxy]:
    """A proxy before the API server."""
    made = Proxy(plane)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def through(plane: ControlPlane, proxy: Proxy) -> AsyncIterator[Start]:
    """`await through(**watch settings)` starts an adapter that reaches the API server by the proxy."""
    made = []

    async def start(
        *, wait: bool = True, deadline: timedelta = timedelta(seconds=10), **settings: object
    ) -> KubeCluster:
        config = await asyncio.to_thread(write_kubeconfig, plane, proxy.url)
        api = await connect(config, deadline=deadline)
        watch = WatchSettings(**settings)  # type: ignore[arg-type]
        cluster = KubeCluster(api, WallClock(), ClusterSettings(watch=watch))
        made.append((cluster, api))
        cluster.start()
        if wait:
            await cluster.mirror.wait_synced(SYNC)
        return cluster

    yield start
    for cluster, api in made:
        await cluster.stop()
        await api.close()


@dataclass
class Labeller:
    """Puts labels on a node past the proxy and sees whether the cache learns of them."""

    plane: ControlPlane
    cluster: KubeCluster
    eventually: Eventually

    async def put(self, name: str, value: str) -> None:
        """The node has label step=value."""
        change = {"metadata": {"labels": {"step": value}}}
        await asyncio.to_thread(self.plane.admin.patch, f"/api/v1/nodes/{name}", change)

    async def arrives(self, name: str, value: str) -> None:
        """The cache shows it."""

        def check() -> bool:
            node = self.cluster.mirror.peek(name)
            return node is not None and node.labels.get("step") == value

        await self.eventually(check, f"step={value} in the cache")


async def test_lists_are_read_in_pages(make_nodes: MakeNodes, through: Start, proxy: Proxy) -> None:
    """With pages of 2, five nodes take at least three requests and are all there."""
    names = await asyncio.to_thread(make_nodes, 5)
    cluster = await through(page=2)
    assert set(names) <= set(await cluster.nodes())
    lists = [path for method, path in proxy.seen if "limit=2" in path]
    assert len(lists) >= 3
    assert "continue=" in lists[-1]


async def test_a_cut_watch_goes_on_where_it_ended(
    plane: ControlPlane, make_nodes: MakeNodes, through: Start, proxy: Proxy, eventually: Eventually
) -> None:
    """After ten cuts the cache has every change, and never listed again."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    cluster = await through()
    labels = Labeller(plane, cluster, eventually)
    for turn in range(10):
        proxy.cut()
        await labels.put(name, str(turn))
    await labels.arrives(name, "9")
    assert cluster.mirror.lists == 1
    assert name in await cluster.nodes()


@pytest.mark.parametrize("status", [0, 429, 500])
async def test_refused_lists_and_watches_are_tried_again(
    plane: ControlPlane, make_nodes: MakeNodes, through: Start, proxy: Proxy, eventually: Eventually, status: int
) -> None:
    """The first pages and watches fail twice each; the cache still fills and follows."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    proxy.fail(is_list, status, 2, Retry_After="1")
    proxy.fail(is_watch, status, 2)
    cluster = await through()
    labels = Labeller(plane, cluster, eventually)
    await labels.put(name, "x")
    await labels.arrives(name, "x")
    assert all(f.times == 0 for f in proxy.faults)


async def test_a_version_too_old_lists_again(
    plane: ControlPlane, make_nodes: MakeNodes, through: Start, proxy: Proxy, eventually: Eventually
) -> None:
    """While the API server cannot be reached it restarts and nodes come and go; 410 Gone leads to one new list."""
    stays, goes = await asyncio.to_thread(make_nodes, 2)
    cluster = await through()
    labels = Labeller(plane, cluster, eventually)
    await labels.put(stays, "before")
    await labels.arrives(stays, "before")
    proxy.down = True
    proxy.cut()
    for turn in range(3):
        await labels.put(stays, f"while-{turn}")
    await asyncio.to_thread(plane.admin.delete, f"/api/v1/nodes/{goes}")
    await asyncio.to_thread(plane.apiserver.restart)
    await labels.put(stays, "after")
    proxy.down = False
    await labels.arrives(stays, "after")
    await eventually(lambda: cluster.mirror.peek(goes) is None, "the deleted node to go")
    assert cluster.mirror.lists == 2


async def test_an_api_server_restart_is_survived(
    plane: ControlPlane, make_nodes: MakeNodes, cluster: KubeCluster, eventually: Eventually
) -> None:
    """Straight at the API server: it is killed and started again, and changes keep arriving."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    labels = Labeller(plane, cluster, eventually)
    await labels.put(name, "before")
    await labels.arrives(name, "before")
    await asyncio.to_thread(plane.apiserver.kill)
    await asyncio.to_thread(plane.apiserver.start)
    await labels.put(name, "after")
    await labels.arrives(name, "after")
    assert name in await cluster.nodes()


async def test_an_outage_is_told_not_hidden(
    make_nodes: MakeNodes, through: Start, proxy: Proxy, eventually: Eventually
) -> None:
    """Not connected for longer than allowed, `nodes` is an ObserveError; connected again, it answers."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    cluster = await through(max_outage=timedelta(seconds=1))
    proxy.down = True
    proxy.cut()

    async def lags() -> bool:
        try:
            await cluster.nodes()
        except ObserveError as problem:
            return "not connected" in str(problem)
        return False

    await eventually(lags, "an ObserveError")
    assert cluster.mirror.synced
    with pytest.raises(ObserveError):
        await cluster.node(name)
    with pytest.raises(ObserveError):
        await cluster.pods_on(name)
    proxy.down = False

    async def answers() -> bool:
        return not await lags()

    await eventually(answers, "the cache to recover")
    assert name in await cluster.nodes()


async def test_a_watch_that_falls_silent_is_told_and_replaced(
    plane: ControlPlane, make_nodes: MakeNodes, through: Start, proxy: Proxy, eventually: Eventually
) -> None:
    """A watch that says nothing makes the cache lag in its own words; another one brings what was missed."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    cluster = await through(max_silence=timedelta(seconds=2))
    labels = Labeller(plane, cluster, eventually)
    proxy.mute = True
    await labels.put(name, "unheard")
    before = len([path for _, path in proxy.seen if "watch=1" in path])
    await eventually(lambda: cluster.mirror.problem(), "the cache to say that it lags")
    proxy.mute = False
    await labels.arrives(name, "unheard")
    assert len([path for _, path in proxy.seen if "watch=1" in path]) > before
    assert cluster.mirror.lists == 1


async def test_before_the_first_list_nothing_is_told(through: Start, proxy: Proxy) -> None:
    """With the API server out of reach from the start, `nodes` is an ObserveError with the reason."""
    proxy.down = True
    cluster = await through(wait=False)
    with pytest.raises(ObserveError):
        await cluster.mirror.wait_synced(timedelta(seconds=0.5))
    with pytest.raises(ObserveError, match="kubernetes"):
        await cluster.nodes()


CORDON = Marks(taints=(), unschedulable=True, undo=None)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(0, "api-unavailable"), (409, "conflict"), (429, "throttled"), (500, "api-unavailable"), (401, "api-unavailable")],
)
async def test_refused_writes_are_transient_and_change_nothing(
    plane: ControlPlane, make_nodes: MakeNodes, through: Start, proxy: Proxy, status: int, reason: str
) -> None:
    """Every change is Transient with the right reason; a lost Event is counted; the node is as before."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    cluster = await through()
    node = await cluster.node(name)
    assert node is not None
    proxy.fail(is_write, status, 10, Retry_After="7")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: cluster.mark(node, CORDON),
        lambda: cluster.set_conditions(node, [Condition(type="GPUHealthy", status="False")], ()),
        lambda: cluster.lock(node, timedelta(minutes=1)),
    ]
    for call in calls:
        with pytest.raises(Transient) as caught:
            await call()
        assert caught.value.reason == reason
        if status in {429, 500}:
            assert caught.value.retry_in == timedelta(seconds=7)
    await cluster.publish(Note(node=name, reason="Tainted", message="m"))
    assert cluster.events.failed == 1
    raw = await asyncio.to_thread(plane.node, name)
    assert "unschedulable" not in raw["spec"]


async def test_a_write_whose_answer_is_lost_is_transient_and_seen_by_the_next_look(
    make_nodes: MakeNodes, through: Start, proxy: Proxy, eventually: Eventually
) -> None:
    """The API server did it but we never heard: Transient, then the cache shows it, and repeating is a conflict."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    cluster = await through()
    node = await cluster.node(name)
    assert node is not None
    proxy.fail(is_write, 0, 1, after=True)
    with pytest.raises(Transient):
        await cluster.mark(node, CORDON)
    await eventually(lambda: (n := cluster.mirror.peek(name)) and n.unschedulable, "the cordon in the cache")
    with pytest.raises(Transient) as caught:
        await cluster.mark(node, CORDON)
    assert caught.value.reason == "conflict"


async def test_a_request_that_is_never_answered_ends_at_its_deadline(
    make_nodes: MakeNodes, through: Start, plane: ControlPlane
) -> None:
    """With the API server frozen a read is an ObserveError after its deadline, and works again afterwards."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    cluster = await through(deadline=timedelta(seconds=2))
    plane.apiserver.freeze()
    try:
        with pytest.raises(ObserveError, match="timed out"):
            await cluster.node(name)
    finally:
        plane.apiserver.thaw()
    assert await cluster.node(name) is not None
