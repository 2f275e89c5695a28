"""`gpuheal revert` on the simulated cluster: what the undo record says is undone, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.injection import conflict, forbidden
from gpuheal_lab.fleet.objects import Json
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.commands import revert as subject
from gpuheal_responder.commands.revert import chosen, planned, revert
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Condition, Taint, UndoRecord
from gpuheal_responder.core.undo import UNDO_ANNOTATION, conditioned, cordoned, mark, tainted
from gpuheal_responder.errors import Permanent

ONE, TWO = "gpu-node-001", "gpu-node-002"
OURS = Taint(key="gpu.health/unhealthy", value="true")


async def contained(sim: Simulation, node: str) -> None:
    """Taint, cordon and condition a node the way the responder does, with a case."""
    found = await sim.cluster.node(node)
    assert found is not None
    record = UndoRecord(
        case=f"{node}-1",
        owner="gpuheal",
        at=sim.now(),
        policy="p",
        faults=("gpu-fell-off-bus",),
        changes=(tainted(OURS), *([] if found.unschedulable else [cordoned()]), conditioned("GPUHealthy", None)),
    )
    marked = await sim.cluster.mark(found, mark(found, record))
    await sim.cluster.set_conditions(marked, [Condition(type="GPUHealthy", status="False", reason="GpuFellOffBus")], ())
    await sim.cluster.lock(marked, timedelta(minutes=5))
    case = Case(name=f"{node}-1", node=node, opened_at=sim.now(), policy="p")
    await sim.remediations.create(case, {"at": sim.now().isoformat(), "verdict": {}})


def essence(sim: Simulation, node: str) -> Json:
    """What people see of a node: labels, annotations, spec and condition types."""
    raw = sim.raw(node)
    conditions = {c["type"]: c["status"] for c in raw["status"]["conditions"]}
    annotations = raw["metadata"].get("annotations") or {}
    return {"annotations": annotations, "spec": raw["spec"], "conditions": conditions}


async def everything(sim: Simulation, case: str | None = None) -> dict[str, str]:
    """Revert as the command does."""
    names = chosen(await sim.cluster.nodes(), case)
    return dict(await revert(sim.cluster, names))


async def test_revert_all_leaves_no_trace() -> None:
    """Every marked node is as it was before us, its Lease free; its case is the responder's to end."""
    sim = Simulation(fleet(3, 8))
    before = {node: essence(sim, node) for node in (ONE, TWO)}
    for node in (ONE, TWO):
        await contained(sim, node)
    said = await everything(sim)
    assert said[ONE] == (
        f"{ONE}: taint gpu.health/unhealthy removed, uncordoned, condition GPUHealthy removed (case {ONE}-1)"
    )
    assert {node: essence(sim, node) for node in said} == before
    assert {s.case.closed_at for s in await sim.remediations.list()} == {None}
    assert await sim.cluster.lock_of(ONE) is None


async def test_only_the_named_case_is_reverted() -> None:
    """The other node stays contained; a case that marks nothing is refused."""
    sim = Simulation(fleet(3, 8))
    for node in (ONE, TWO):
        await contained(sim, node)
    assert list(await everything(sim, f"{TWO}-1")) == [TWO]
    assert UNDO_ANNOTATION in sim.raw(ONE)["metadata"]["annotations"]
    with pytest.raises(Permanent, match="no node has an undo record of 'gpu-node-003'"):
        await everything(sim, "gpu-node-003")


async def test_s18_a_foreign_cordon_and_taint_stay() -> None:
    """A node that somebody else had cordoned stays cordoned; taints that aren't ours stay."""
    sim = Simulation(fleet(3, 8))
    foreign = {"key": "example.com/maintenance", "effect": "NoExecute", "value": "x"}
    sim.edit(ONE, lambda raw: raw["spec"].update(unschedulable=True, taints=[foreign]))
    before = essence(sim, ONE)
    await contained(sim, ONE)
    assert await everything(sim) == {
        ONE: f"{ONE}: taint gpu.health/unhealthy removed, condition GPUHealthy removed (case {ONE}-1)"
    }
    assert essence(sim, ONE) == before


async def test_a_record_of_another_version_is_left_and_told() -> None:
    """What can't be read can't be undone exactly: the node is left alone and named."""
    sim = Simulation(fleet(3, 8))
    sim.edit(
        ONE, lambda raw: raw["metadata"].setdefault("annotations", {}).update({UNDO_ANNOTATION: '{"version": 99}'})
    )
    assert await everything(sim) == {
        ONE: f"{ONE}: NOT REVERTED: cannot read its undo record: its format version is 99, this release reads version 2"
    }


async def test_reverting_again_does_nothing() -> None:
    """A second run finds no marks."""
    sim = Simulation(fleet(3, 8))
    await contained(sim, ONE)
    await everything(sim)
    assert await everything(sim) == {}


async def test_a_case_that_is_gone_does_not_matter() -> None:
    """The undo record alone is enough: nodes are reverted without their Remediation."""
    sim = Simulation(fleet(3, 8))
    before = essence(sim, ONE)
    await contained(sim, ONE)
    await sim.remediations.delete(f"{ONE}-1")
    assert "removed" in (await everything(sim))[ONE]
    assert essence(sim, ONE) == before


async def test_a_race_is_tried_again_and_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict is somebody else's write: look and try again. What stays refused is named, the rest is reverted."""
    monkeypatch.setattr(subject, "PAUSE_S", 0)
    sim = Simulation(fleet(3, 8))
    for node in (ONE, TWO):
        await contained(sim, node)
    sim.gate.fail_next("mark", conflict(), target=ONE)
    sim.gate.fail_next("mark", forbidden(), target=TWO)
    said = await everything(sim)
    assert "uncordoned" in said[ONE]
    assert said[TWO].startswith(f"{TWO}: NOT REVERTED: ")
    assert UNDO_ANNOTATION not in (sim.raw(ONE)["metadata"].get("annotations") or {})
    assert UNDO_ANNOTATION in sim.raw(TWO)["metadata"]["annotations"]


async def test_a_dry_run_tells_the_same_and_changes_nothing() -> None:
    """Each node with its faults and what would be undone; the nodes stay as they are."""
    sim = Simulation(fleet(3, 8))
    await contained(sim, ONE)
    before = essence(sim, ONE)
    nodes = await sim.cluster.nodes()
    assert planned(nodes, chosen(nodes, None)) == {
        ONE: f"{ONE}: gpu-fell-off-bus; would be: taint gpu.health/unhealthy removed, uncordoned,"
        f" condition GPUHealthy removed (case {ONE}-1)"
    }
    assert essence(sim, ONE) == before
    done = await everything(sim)
    assert done[ONE].partition(": ")[2] == planned(nodes, [ONE])[ONE].partition("would be: ")[2]
