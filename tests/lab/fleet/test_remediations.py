"""The simulated store of cases keeps what a Remediation object would keep, and refuses old versions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.errors import Permanent, Transient


def made(sim: Simulation) -> Case:
    attempt = Attempt(
        step="taint",
        action="taint",
        phase=Phase.CONTAIN,
        operation="c-taint-1",
        state=AttemptState.SUCCEEDED,
        started_at=sim.now(),
    )
    return Case(name="c", node="gpu-node-001", opened_at=sim.now(), policy="p", gpus=("GPU-1",), attempts=(attempt,))


async def test_case_comes_back_as_it_was_stored() -> None:
    """A stored case is listed with the same content, having been through plain data."""
    sim = Simulation(fleet(1))
    case = made(sim)
    stored = await sim.remediations.create(case, {"verdict": "act"})
    assert [s.case for s in await sim.remediations.list()] == [case]
    assert stored.case is not case
    assert sim.remediations.decisions["c"] == [{"verdict": "act"}]


async def test_second_writer_with_an_old_version_is_refused() -> None:
    """Of two writers that read the same version, one is stored and the other gets a conflict and changes nothing."""
    sim = Simulation(fleet(1))
    stored = await sim.remediations.create(made(sim), {})
    first = await sim.remediations.save(replace(stored, case=replace(stored.case, escalated="first")), {"n": 1})
    with pytest.raises(Transient) as caught:
        await sim.remediations.save(replace(stored, case=replace(stored.case, escalated="second")), {"n": 2})
    assert caught.value.reason == "conflict"
    assert [s.case.escalated for s in await sim.remediations.list()] == ["first"]
    assert sim.remediations.decisions["c"] == [{}, {"n": 1}]
    assert first.version != stored.version


async def test_name_can_be_made_once_and_deleted_twice() -> None:
    """Creating an existing name is a conflict, saving a deleted case Permanent, deleting it again no error."""
    sim = Simulation(fleet(1))
    stored = await sim.remediations.create(made(sim), {})
    with pytest.raises(Transient):
        await sim.remediations.create(made(sim), {})
    await sim.remediations.delete("c")
    await sim.remediations.delete("c")
    assert await sim.remediations.list() == []
    with pytest.raises(Permanent):
        await sim.remediations.save(stored, None)
