"""Who may change anything: only the leader, only once it has caught up, and asked again before each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.responder.shell.kube.conftest import Told

from gpuheal_responder.errors import Transient
from gpuheal_responder.shell.kube.api import Api, ApiError, changing
from gpuheal_responder.shell.kube.fence import Fence


class Lead:
    """An election by hand."""

    def __init__(self) -> None:
        self.term = 0
        self.is_leader = False


class Cache:
    """A cache that catches up when it is told to, or fails as often as it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.failures = 0
        self.arrived = asyncio.Event()

    async def catch_up(self) -> None:
        """Wait to arrive."""
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise ApiError(503, "Unavailable", "no")
        await self.arrived.wait()


@pytest.fixture
async def fence() -> AsyncIterator[Fence]:
    """A fence that runs."""
    made = Fence()
    made.start()
    yield made
    await made.stop()


async def until(check: object) -> None:
    """A few turns of the loop; the check is true after them."""
    async with asyncio.timeout(10):
        while not check():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_s22_a_new_leader_waits_until_it_sees_what_was_written_before(fence: Fence) -> None:
    """It leads, but may act only when every cache has arrived; a term that began meanwhile has to wait again."""
    lead, nodes, cases = Lead(), Cache(), Cache()
    fence.guard(lead, (nodes, cases))
    assert not fence.may_act()
    lead.is_leader, lead.term = True, 1
    fence.moved()
    nodes.arrived.set()
    await until(lambda: cases.asked == 1)
    assert not fence.may_act()
    lead.term = 2  # led by another for a moment
    fence.moved()
    cases.arrived.set()
    await until(fence.may_act)
    assert (nodes.asked, cases.asked) == (2, 2)
    lead.is_leader = False
    assert not fence.may_act()


async def test_s22_a_cache_that_cannot_catch_up_is_asked_again(fence: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is let through meanwhile."""
    monkeypatch.setattr("gpuheal_responder.shell.kube.fence.RETRY_S", 0.01)
    lead, nodes = Lead(), Cache()
    nodes.failures = 3
    nodes.arrived.set()
    fence.guard(lead, (nodes,))
    lead.is_leader, lead.term = True, 1
    fence.moved()
    await until(lambda: nodes.asked == 2)
    assert not fence.may_act()
    await until(fence.may_act)
    assert nodes.asked == 4


async def test_s22_every_write_is_asked_about_and_a_persons_is_not(told: Told, told_api: Api) -> None:
    """Reading goes on; a write without leading is never sent; with a person's own token it is theirs."""
    leads = False
    api = told_api.fenced(lambda: leads)
    await api.get("/x")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(Transient) as caught, changing("x"):
            await api.call(method, "/x", body={})
        assert caught.value.reason == "not-leader"
    await api.call("PATCH", "/x", body={}, token="ann")
    leads = True
    await api.call("DELETE", "/x", body={})
    assert [asked.method for asked in told.asked] == ["GET", "PATCH", "DELETE"]
