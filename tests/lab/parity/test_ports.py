"""Facts about the ports that hold on the simulated cluster and on a real API server alike.

Each test has a node of its own, for the real control plane lasts as long as the session.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.lab.parity.bench import THIRD, Bench, eventually

from gpuheal_lab.fleet.objects import canonical, differences, essence
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.node import Condition, Node, Pod, Taint, UndoRecord
from gpuheal_responder.core.undo import TAINT_KEY, mark, release
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.ports import EvictionResult

AT = datetime(2026, 1, 5, 8, 0, 0, 250_000, tzinfo=UTC)
UNWELL = Condition(type="GPUHealthy", status="False", reason="GpuFellOffBus", message="lost")


def record(node: Node) -> UndoRecord:
    return UndoRecord(
        case="case-1",
        owner="gpuheal",
        at=AT,
        policy="p",
        faults=("gpu-fell-off-bus",),
        taints=(Taint(key=TAINT_KEY, value="true"),),
        cordoned=True,
        conditions=("GPUHealthy",),
        node_uid=node.uid,
        boot_id=node.boot_id,
    )


async def fresh(bench: Bench, name: str) -> Node:
    node = await bench.cluster.node(name)
    assert node is not None
    return node


async def test_mark_returns_the_node_as_it_is_stored(bench: Bench) -> None:
    """Taints, cordon and undo record of the answer are in the next read, at that version or a later one."""
    name = "gpu-node-001"
    node = await fresh(bench, name)
    marked = await bench.cluster.mark(node, mark(node, record(node)))
    raw = await bench.raw(name)
    assert int(node.resource_version) < int(marked.resource_version) <= int(raw["metadata"]["resourceVersion"])
    assert (marked.undo, marked.unschedulable) == (record(node), True)
    assert {"key": TAINT_KEY, "value": "true", "effect": "NoSchedule"} in raw["spec"]["taints"]
    assert raw["spec"]["unschedulable"] is True

    async def followed() -> bool:
        return "node.kubernetes.io/unschedulable" in {t.key for t in (await fresh(bench, name)).taints}

    await eventually(bench, followed, "Kubernetes' own taint of a cordoned node")
    again = await fresh(bench, name)
    assert again.undo == marked.undo


async def test_old_version_is_a_conflict_and_changes_nothing(bench: Bench) -> None:
    """After somebody else's write a mark at the version read before is Transient `conflict`; the node is untouched."""
    name = "gpu-node-002"
    node = await fresh(bench, name)
    await bench.label(name, "touched", "true")
    before = await bench.raw(name)
    with pytest.raises(Transient) as caught:
        await bench.cluster.mark(node, mark(node, record(node)))
    assert caught.value.reason == "conflict"
    assert (await bench.raw(name))["spec"] == before["spec"]


async def test_contained_and_released_the_node_is_byte_for_byte_as_before(bench: Bench) -> None:
    """Mark, condition, condition gone, release: what has to be the same is the same, what was absent is absent."""
    name = "gpu-node-004"
    before = essence(await bench.raw(name))
    node = await fresh(bench, name)
    await bench.cluster.mark(node, mark(node, record(node)))
    await bench.cluster.set_conditions(await fresh(bench, name), [UNWELL], [])
    assert UNWELL in (await fresh(bench, name)).conditions
    await bench.cluster.set_conditions(await fresh(bench, name), [], ["GPUHealthy"])

    async def released() -> bool:
        found = await fresh(bench, name)
        try:
            await bench.cluster.mark(found, release(found))
        except Transient:
            return False
        return True

    await eventually(bench, released, "a release without a conflict")

    async def free() -> bool:
        return not (await fresh(bench, name)).taints

    await eventually(bench, free, "Kubernetes' own taint to go")
    after = essence(await bench.raw(name))
    assert differences(before, after) == []
    assert canonical(before) == canonical(after)


async def test_conditions_of_others_stay(bench: Bench) -> None:
    """Writing and removing our condition leaves every other condition in status, reason and message."""
    name = "gpu-node-005"
    node = await fresh(bench, name)
    await bench.cluster.set_conditions(node, [UNWELL], [])
    await bench.cluster.set_conditions(await fresh(bench, name), [replace(UNWELL, status="True", reason="Well")], [])
    found = await fresh(bench, name)
    assert {c for c in found.conditions if c.type != "GPUHealthy"} == set(node.conditions)
    assert [c.reason for c in found.conditions if c.type == "GPUHealthy"] == ["Well"]
    await bench.cluster.set_conditions(found, [], ["GPUHealthy"])
    assert set((await fresh(bench, name)).conditions) == set(node.conditions)


async def test_deleted_node_is_none_and_cannot_be_marked(bench: Bench) -> None:
    """A node that is gone is None; marking what was read before is Permanent `not-found`."""
    name = "gpu-node-006"
    node = await fresh(bench, name)
    await bench.delete_node(name)
    assert await bench.cluster.node(name) is None
    assert await bench.cluster.node("never-was") is None
    with pytest.raises(Permanent) as caught:
        await bench.cluster.mark(node, mark(node, record(node)))
    assert caught.value.reason == "not-found"


async def test_cache_comes_to_say_what_a_direct_read_says(bench: Bench) -> None:
    """A label that somebody sets is in `nodes` soon, and then both reads give equal nodes."""
    name = "gpu-node-007"
    await bench.label(name, "seen", "yes")

    async def seen() -> bool:
        return (await bench.cluster.nodes())[name].labels.get("seen") == "yes"

    await eventually(bench, seen, "the cache to follow")
    assert (await bench.cluster.nodes())[name] == await fresh(bench, name)


async def test_lock_of_others_refuses_ours_and_ours_is_not_in_our_way(bench: Bench) -> None:
    """A foreign Lease is told and refuses; a free node can be locked, renewed and given back twice."""
    taken, free = await fresh(bench, "gpu-node-008"), await fresh(bench, "gpu-node-009")
    await bench.foreign_lock(taken.name, "node-maintenance")
    lock = await bench.cluster.lock_of(taken.name)
    assert lock is not None
    assert lock.holder == "node-maintenance"
    with pytest.raises(Transient) as caught:
        await bench.cluster.lock(taken, timedelta(minutes=1))
    assert caught.value.reason == "node-locked"
    await bench.cluster.unlock(taken.name)
    assert await bench.cluster.lock_of(taken.name) is not None
    for _ in range(2):
        await bench.cluster.lock(free, timedelta(minutes=1))
        assert await bench.cluster.lock_of(free.name) is None
    for _ in range(2):
        await bench.cluster.unlock(free.name)


async def test_pods_are_told_alike_and_budgets_block_by_name(bench: Bench) -> None:
    """Owners, gangs and GPUs of the third node's pods; a budget that wants them all blocks in the API server's words,
    one that can spare one lets them go one by one; what is gone is GONE.
    """
    pods = await bench.cluster.pods_on(THIRD)
    chat = [p for p in pods if p.labels.get("app") == "chat"]
    gang = [p for p in pods if p.gang]
    assert [(p.owner_kind, p.gpus, p.phase, p.protected, p.evictable) for p in chat] == [
        ("ReplicaSet", 1, "Running", "", True)
    ] * 2
    assert {p.gang for p in gang} == {"JobSet/training/llm"}
    assert [p.evictable for p in pods if p.owner_kind == "DaemonSet"] == [False]
    node = await fresh(bench, THIRD)
    await bench.cluster.mark(node, mark(node, record(node)))
    await bench.need(2)
    for pod in chat:
        answer = await bench.cluster.evict(pod)
        assert answer.result is EvictionResult.BLOCKED
        assert answer.blocker == "The disruption budget chat needs 2 healthy pods and has 2 currently"
    await bench.need(1)
    for pod in chat:

        async def accepted(pod: Pod = pod) -> bool:
            return (await bench.cluster.evict(pod)).result is EvictionResult.ACCEPTED

        await eventually(bench, accepted, "the budget to allow it")

    async def empty() -> bool:
        return not [p for p in await bench.cluster.pods_on(THIRD) if p.labels.get("app") == "chat"]

    await eventually(bench, empty, "both to be gone, and none to come back")
    assert (await bench.cluster.evict(chat[0])).result is EvictionResult.GONE


async def test_store_keeps_cases_and_refuses_old_versions(bench: Bench) -> None:
    """A case comes back equal; names are made once; of two writers one wins; a deleted case cannot be saved."""
    attempt = Attempt(
        step="taint", action="taint", operation="c-taint-1", state=AttemptState.SUCCEEDED, started_at=AT, ended_at=AT
    )
    case = Case(name="parity-1", node="gpu-node-010", opened_at=AT, policy="p", gpus=("GPU-1",), attempts=(attempt,))
    decision = {"at": "2026-01-05T08:00:00Z", "verdict": {"verdict": "act", "step": "taint", "reason": "due"}}
    stored = await bench.remediations.create(case, decision)
    assert stored.case == case
    assert [s.case for s in await bench.remediations.list()] == [case]
    with pytest.raises(Transient) as caught:
        await bench.remediations.create(case, decision)
    assert caught.value.reason == "conflict"
    later = {**decision, "at": "2026-01-05T08:00:01Z"}
    first = await bench.remediations.save(replace(stored, case=replace(case, escalated="first")), later)
    with pytest.raises(Transient) as caught:
        await bench.remediations.save(replace(stored, case=replace(case, escalated="second")), None)
    assert caught.value.reason == "conflict"
    assert list(await bench.remediations.list()) == [first]
    for _ in range(2):
        await bench.remediations.delete(case.name)
    assert list(await bench.remediations.list()) == []
    with pytest.raises(Permanent) as gone:
        await bench.remediations.save(first, None)
    assert gone.value.reason == "not-found"
