"""What the gate does to callers: who called is told, the dead get no further, a call hangs, a machine is exchanged."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from datetime import timedelta

import pytest

from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.injection import ACTOR, Call, Killed
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.core.case import Case
from gpuheal_responder.ports import Note

ONE = "gpu-node-001"
NOTE = Note(node=ONE, reason="Test", message="a test")


def as_actor(sim: Simulation, name: str) -> asyncio.Task[None]:
    """Return a replica's task that publishes one Event."""
    context = copy_context()
    context.run(ACTOR.set, name)
    return asyncio.get_running_loop().create_task(sim.cluster.publish(NOTE), context=context)


async def test_calls_say_who_called_and_listeners_hear_them_at_once() -> None:
    """Two replicas' calls are told apart, and a listener hears each before its caller goes on."""
    sim = Simulation(fleet(1, 2))
    heard: list[Call] = []
    sim.gate.on_call.append(heard.append)
    await as_actor(sim, "a")
    await as_actor(sim, "b")
    assert [(c.actor, c.method, c.target) for c in heard] == [("a", "publish", ONE), ("b", "publish", ONE)]
    assert sim.gate.current is None


async def test_the_dead_get_no_further_than_to_their_next_call() -> None:
    """A buried replica's call takes no effect; the other's does."""
    sim = Simulation(fleet(1, 2))
    sim.gate.bury("a")
    with pytest.raises(Killed):
        await as_actor(sim, "a")
    await as_actor(sim, "b")
    assert [c.actor for c in sim.gate.made("publish")] == ["b"]


async def test_a_stalled_call_takes_effect_when_it_is_released() -> None:
    """The call hangs before its effect while the time goes on; it says when it was sent and when it took effect."""
    sim = Simulation(fleet(1, 2))
    stall = sim.gate.stall_at(0)
    task = as_actor(sim, "a")
    await stall.reached.wait()
    sent = sim.now()
    sim.advance(timedelta(seconds=30))
    assert sim.gate.made("publish") == []
    stall.release()
    await task
    (call,) = sim.gate.made("publish")
    assert call.asked_at == sent
    assert call.at == sent + timedelta(seconds=30)


async def test_a_frozen_list_of_cases_shows_own_writes_only() -> None:
    """While the watch hangs, what is written through the port is listed, and what others took away still is."""
    sim = Simulation(fleet(1, 2))
    one, two = (Case(name=n, node=ONE, opened_at=sim.now(), policy="p") for n in ("one", "two"))
    await sim.remediations.create(one, {})
    sim.remediations.freeze_cache()
    del sim.remediations.stored["one"]
    await sim.remediations.create(two, {})
    assert [s.case.name for s in await sim.remediations.list()] == ["one", "two"]
    sim.remediations.thaw_cache()
    assert [s.case.name for s in await sim.remediations.list()] == ["two"]


async def test_a_machine_is_exchanged_under_its_name() -> None:
    """The new machine has another UID, serial and GPUs, is well, and what was due on the old one happens nowhere."""
    sim = Simulation(fleet(2, 2))
    before = sim.raw(ONE)
    sim.break_gpu(ONE, 0, fell_off_bus())
    sim.fleet[ONE].reboot()
    sim.swap(ONE)
    sim.settle()
    after, machine = sim.raw(ONE), sim.fleet[ONE]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["status"]["nodeInfo"]["systemUUID"] != before["status"]["nodeInfo"]["systemUUID"]
    assert after["status"]["nodeInfo"]["bootID"] == machine.boot_id
    assert not any(s.faults for s in machine.states.values())
    assert {g.uuid for g in machine.spec.gpus}.isdisjoint(g.uuid for g in fleet(2, 2)[0].gpus)


async def test_a_deleted_node_joins_again_as_another_object() -> None:
    """The same machine registers a Node with another UID."""
    sim = Simulation(fleet(1, 2))
    before = sim.raw(ONE)
    sim.api.delete_node(ONE)
    sim.rejoin(ONE)
    after = sim.raw(ONE)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["status"]["nodeInfo"]["systemUUID"] == before["status"]["nodeInfo"]["systemUUID"]
