"""The simulated cluster answers and refuses as a real one does, in a time that only moves when told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.injection import Killed, conflict, timeout, unseen
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_lab.fleet.objects import Json, differences, essence
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.core.node import Condition, Taint, UndoRecord
from gpuheal_responder.core.undo import UNDO_ANNOTATION, Marks, cordoned, mark, release, tainted
from gpuheal_responder.core.world import NodeLock
from gpuheal_responder.errors import ObserveError, Permanent, Transient
from gpuheal_responder.ports import EvictionResult, Note

ONE = "gpu-node-001"
SECOND = timedelta(seconds=1)
OURS = Taint(key="gpu.health/unhealthy", value="true")


def simulation(nodes: int = 3) -> Simulation:
    return Simulation(fleet(nodes, 8))


def undo_record(sim: Simulation, *, cordon: bool = True) -> UndoRecord:
    return UndoRecord(
        case=f"{ONE}-1",
        owner="gpuheal",
        at=sim.now(),
        policy="p",
        faults=("gpu-fell-off-bus",),
        changes=(tainted(OURS), *([cordoned()] if cordon else [])),
    )


async def test_taint_cordon_and_undo_record_arrive_in_one_write() -> None:
    """After one call the node carries taint, cordon and annotation, at a version of its own."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    marked = await sim.cluster.mark(node, mark(node, undo_record(sim)))
    raw = sim.raw(ONE)
    assert raw["spec"]["unschedulable"] is True
    assert raw["spec"]["taints"] == [{"key": OURS.key, "value": "true", "effect": "NoSchedule"}]
    assert UNDO_ANNOTATION in raw["metadata"]["annotations"]
    assert marked.undo == undo_record(sim)
    assert marked.resource_version != node.resource_version


async def test_write_at_an_old_version_is_a_conflict_and_changes_nothing() -> None:
    """A PATCH that names a version which somebody has replaced is Transient `conflict`."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    sim.edit(ONE, lambda raw: raw["metadata"]["labels"].update(touched="true"))
    before = sim.raw(ONE)
    with pytest.raises(Transient) as caught:
        await sim.cluster.mark(node, mark(node, undo_record(sim)))
    assert caught.value.reason == "conflict"
    assert sim.raw(ONE) == before


async def test_controllers_follow_a_cordon_and_so_change_the_version() -> None:
    """A cordoned node gets Kubernetes' own taint a moment later and loses it when the cordon goes."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    marked = await sim.cluster.mark(node, mark(node, undo_record(sim)))
    sim.advance(SECOND)
    after = await sim.cluster.node(ONE)
    assert after is not None
    assert "node.kubernetes.io/unschedulable" in {t.key for t in after.taints}
    with pytest.raises(Transient):
        await sim.cluster.mark(marked, release(marked))
    await sim.cluster.mark(after, release(after))
    sim.advance(SECOND)
    freed = await sim.cluster.node(ONE)
    assert freed is not None
    assert freed.taints == ()


async def test_marking_and_releasing_leaves_the_raw_node_exactly_as_before() -> None:
    """Labels, annotations, foreign taints, conditions and cordon are the same bytes after release as before."""
    sim = simulation()
    sim.edit(ONE, lambda raw: raw["spec"].update(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}]))
    before = sim.snapshot(ONE)
    node = await sim.cluster.node(ONE)
    assert node is not None
    await sim.cluster.mark(node, mark(node, undo_record(sim)))
    condition = Condition(type="GPUHealthy", status="False", reason="Xid79", message="lost")
    await sim.cluster.set_conditions(node, [condition], [])
    sim.advance(SECOND)
    assert sim.snapshot(ONE) != before
    node = await sim.cluster.node(ONE)
    assert node is not None
    await sim.cluster.set_conditions(node, [], ["GPUHealthy"])
    node = await sim.cluster.node(ONE)
    assert node is not None
    await sim.cluster.mark(node, release(node))
    sim.advance(SECOND)
    assert sim.snapshot(ONE) == before


def test_comparison_sees_every_trace_left_on_a_node() -> None:
    """A label, an annotation, a taint, a cordon or a condition left behind is a difference that names its path."""
    sim = simulation()
    before = essence(sim.raw(ONE))
    changes: dict[str, Callable[[Json], None]] = {
        "metadata.labels.x": lambda raw: raw["metadata"]["labels"].update(x="1"),
        "metadata.annotations.y": lambda raw: raw["metadata"]["annotations"].update(y="1"),
        "spec.taints": lambda raw: raw["spec"].update(taints=[{"key": "z", "effect": "NoSchedule"}]),
        "spec.unschedulable": lambda raw: raw["spec"].update(unschedulable=True),
        "status.conditions": lambda raw: raw["status"]["conditions"].append({"type": "GPUHealthy", "status": "True"}),
    }
    for path, change in changes.items():
        raw: Json = sim.raw(ONE)
        change(raw)
        found = differences(before, essence(raw))
        assert [line.partition(":")[0] for line in found] == [path]


async def test_budget_blocks_an_eviction_by_name_until_the_replacement_is_ready() -> None:
    """With minAvailable 1 of 2 the second eviction is refused by name until the first pod runs elsewhere."""
    sim = simulation()
    sim.workloads.deployment("web", replicas=2, nodes=(ONE,), min_available=1)
    first, second = await sim.cluster.pods_on(ONE)
    assert (await sim.cluster.evict(first)).result is EvictionResult.ACCEPTED
    blocked = await sim.cluster.evict(second)
    assert blocked.result is EvictionResult.BLOCKED
    assert "web" in blocked.blocker
    sim.settle()
    pods = {p.name for n in sim.specs for p in await sim.cluster.pods_on(n)}
    assert len(pods) == 2
    assert first.name not in pods
    assert (await sim.cluster.evict(second)).result is EvictionResult.ACCEPTED


async def test_evicted_pod_is_terminating_then_gone_and_another_with_its_name_is_safe() -> None:
    """An accepted eviction takes its grace; the UID of a pod that is gone never evicts anything again."""
    sim = simulation()
    sim.workloads.bare_pod("solo", node=ONE)
    (pod,) = await sim.cluster.pods_on(ONE)
    assert (await sim.cluster.evict(pod)).result is EvictionResult.ACCEPTED
    (going,) = await sim.cluster.pods_on(ONE)
    assert going.terminating
    sim.advance(2 * SECOND)
    assert await sim.cluster.pods_on(ONE) == ()
    assert (await sim.cluster.evict(pod)).result is EvictionResult.GONE
    sim.workloads.bare_pod("solo", node=ONE)
    assert (await sim.cluster.evict(pod)).result is EvictionResult.GONE
    (other,) = await sim.cluster.pods_on(ONE)
    assert not other.terminating


async def test_replacement_never_lands_on_a_tainted_node() -> None:
    """The scheduler places the evicted pod's replacement on an untainted node with free GPUs."""
    sim = simulation(2)
    sim.workloads.deployment("web", replicas=1, gpus=8, nodes=(ONE,))
    node = await sim.cluster.node(ONE)
    assert node is not None
    taints = Marks(taints=(OURS,), unschedulable=None, undo=undo_record(sim, cordon=False))
    await sim.cluster.mark(node, taints)
    (pod,) = await sim.cluster.pods_on(ONE)
    await sim.cluster.evict(pod)
    sim.settle()
    assert await sim.cluster.pods_on(ONE) == ()
    (moved,) = await sim.cluster.pods_on("gpu-node-002")
    assert (moved.owner_kind, moved.phase) == ("ReplicaSet", "Running")


async def test_replacement_waits_until_a_node_takes_it() -> None:
    """With no room anywhere the replacement stays unbound, and is placed when the taint goes."""
    sim = simulation(1)
    sim.workloads.gang("train", size=1, nodes=(ONE,))
    node = await sim.cluster.node(ONE)
    assert node is not None
    await sim.cluster.mark(node, mark(node, undo_record(sim)))
    (pod,) = await sim.cluster.pods_on(ONE)
    assert pod.gang == "JobSet/default/train"
    await sim.cluster.evict(pod)
    sim.settle()
    assert await sim.cluster.pods_on(ONE) == ()
    node = await sim.cluster.node(ONE)
    assert node is not None
    await sim.cluster.mark(node, release(node))
    sim.settle()
    assert [p.gang for p in await sim.cluster.pods_on(ONE)] == ["JobSet/default/train"]


async def test_stuck_pod_stays_until_its_finalizer_goes() -> None:
    """A pod that will not end stays terminating for as long as it likes."""
    sim = simulation()
    sim.workloads.bare_pod("solo", node=ONE)
    sim.workloads.stuck.add("default/solo")
    (pod,) = await sim.cluster.pods_on(ONE)
    await sim.cluster.evict(pod)
    sim.advance(timedelta(hours=1))
    assert [p.terminating for p in await sim.cluster.pods_on(ONE)] == [True]
    sim.workloads.release_stuck()
    assert await sim.cluster.pods_on(ONE) == ()


async def test_lock_of_others_is_honoured_and_ours_is_not_in_our_way() -> None:
    """A foreign Lease refuses ours until it expires; our own is not reported and can be renewed and given back."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    sim.cluster.locks[ONE] = NodeLock(holder="nhc", expires_at=sim.now() + 10 * SECOND)
    with pytest.raises(Transient, match="nhc"):
        await sim.cluster.lock(node, SECOND)
    sim.advance(11 * SECOND)
    await sim.cluster.lock(node, 10 * SECOND)
    await sim.cluster.lock(node, 20 * SECOND)
    assert await sim.cluster.lock_of(ONE) is None
    await sim.cluster.unlock(ONE)
    assert sim.cluster.locks == {}


async def test_same_event_again_is_counted() -> None:
    """Publishing one note three times leaves one Event with count 3."""
    sim = simulation()
    for _ in range(3):
        await sim.cluster.publish(Note(node=ONE, reason="GPUHealDraining", message="draining"))
    assert [(e.reason, e.count) for e in sim.api.events(ONE)] == [("GPUHealDraining", 3)]


async def test_planned_failures_come_before_or_after_the_effect() -> None:
    """A conflict changes nothing; a timeout after the fact leaves the write in place; then calls succeed again."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    sim.gate.fail_next("mark", conflict(), times=2)
    for _ in range(2):
        with pytest.raises(Transient):
            await sim.cluster.mark(node, mark(node, undo_record(sim)))
    assert "taints" not in sim.raw(ONE)["spec"]
    sim.gate.fail_next("mark", timeout(), applied=True)
    with pytest.raises(Transient):
        await sim.cluster.mark(node, mark(node, undo_record(sim)))
    assert "taints" in sim.raw(ONE)["spec"]
    assert [c.answered for c in sim.gate.made("mark")] == [False]
    sim.gate.fail_next("nodes", unseen())
    with pytest.raises(ObserveError):
        await sim.cluster.nodes()
    assert len(await sim.cluster.nodes()) == 3


async def test_kill_visits_both_sides_of_every_changing_call() -> None:
    """Crossing 0 dies before the first write takes effect, crossing 1 after it, and reads are no crossings."""
    for crossing, written in ((0, False), (1, True)):
        sim = simulation()
        sim.gate.kill_at(crossing)
        node = await sim.cluster.node(ONE)
        assert node is not None
        with pytest.raises(Killed):
            await sim.cluster.mark(node, mark(node, undo_record(sim)))
        assert ("taints" in sim.raw(ONE)["spec"]) is written


async def test_a_kill_waits_for_a_call_of_ours_whatever_others_do_meanwhile() -> None:
    """What a person writes crosses no boundary of ours and ends nobody."""
    sim = simulation()
    sim.gate.kill_at(0)
    node = await sim.cluster.node(ONE)
    assert node is not None
    with sim.gate.by_others():
        node = await sim.cluster.mark(node, mark(node, undo_record(sim)))
    with pytest.raises(Killed):
        await sim.cluster.mark(node, mark(node, undo_record(sim)))


async def test_frozen_cache_tells_the_past_and_a_direct_read_the_truth() -> None:
    """While the watch hangs, `nodes` is old and `node` is new."""
    sim = simulation()
    sim.cluster.freeze_cache()
    sim.edit(ONE, lambda raw: raw["spec"].update(unschedulable=True))
    truth = await sim.cluster.node(ONE)
    assert truth is not None
    assert truth.unschedulable
    assert not (await sim.cluster.nodes())[ONE].unschedulable
    sim.cluster.thaw_cache()
    assert (await sim.cluster.nodes())[ONE].unschedulable


async def test_deleted_node_is_gone_with_its_pods() -> None:
    """A deleted node is None, and marking what was read before is Permanent."""
    sim = simulation()
    sim.workloads.bare_pod("solo", node=ONE)
    node = await sim.cluster.node(ONE)
    assert node is not None
    sim.api.delete_node(ONE)
    assert await sim.cluster.node(ONE) is None
    assert await sim.cluster.pods_on(ONE) == ()
    with pytest.raises(Permanent):
        await sim.cluster.mark(node, mark(node, undo_record(sim)))


async def test_two_simulations_with_one_seed_are_the_same() -> None:
    """Names, UIDs, versions and boot ids are equal in two runs, so a failing run can be repeated."""
    raws = []
    for _ in range(2):
        sim = simulation()
        sim.workloads.deployment("web", replicas=2)
        sim.break_gpu(ONE, 3, fell_off_bus())
        sim.settle()
        raws.append((sim.raw(ONE), sorted(sim.api.pods)))
    assert raws[0] == raws[1]


async def test_node_of_another_machine_is_not_rebooted() -> None:
    """A reboot names the machine; a node object of another systemUUID is refused."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    with pytest.raises(Permanent):
        await sim.machines.reboot(replace(node, system_uuid="other"), "op-1", "lab")
    assert sim.machines.reboots == []
