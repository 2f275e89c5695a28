"""What every implementation of the ports must do; run against the real API server and against the lab's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.contract.rig import Rig

from gpuheal_lab.fleet.objects import canonical, differences, essence
from gpuheal_responder.core.case import Approval, Attempt, AttemptState, Case, Result
from gpuheal_responder.core.node import Condition, Node, Pod, Taint, UndoRecord
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.undo import (
    TAINT_KEY,
    Marks,
    conditioned,
    cordoned,
    intact,
    mark,
    pause,
    release,
    resume,
    tainted,
)
from gpuheal_responder.core.verdict import Done
from gpuheal_responder.core.world import OperationState, World
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.ports import EvictionResult, Note, Stored
from gpuheal_responder.shell.record import decision

CORDONED = "node.kubernetes.io/unschedulable"
UNWELL = Condition(type="GPUHealthy", status="False", reason="GpuFellOffBus", message="one")
OURS = Taint(key=TAINT_KEY, value="true", effect="NoSchedule")
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SPAN = timedelta(minutes=5)
PAUSES = {"gpu.health/operand": "false", "gpu.health/absent": "false"}
"""Labels that our account may change; those of operands join them with the action that pauses them."""


async def node_of(rig: Rig, name: str) -> Node:
    """The node from the API server itself."""
    node = await rig.cluster.node(name)
    assert node is not None
    return node


def record_of(node: Node) -> UndoRecord:
    """An undo record with all of it."""
    return UndoRecord(
        case=f"{node.name}-1",
        owner="gpuheal",
        at=NOW,
        policy="p",
        faults=("gpu-fell-off-bus",),
        changes=(tainted(OURS), cordoned(), conditioned("GPUHealthy", None)),
        system_uuid=node.system_uuid,
        node_uid=node.uid,
        boot_id=node.boot_id,
        gpus=("GPU-1",),
    )


async def contained(rig: Rig, name: str) -> Node:
    """The node after a mark."""
    node = await node_of(rig, name)
    return await rig.cluster.mark(node, mark(node, record_of(node)))


async def marked(rig: Rig, name: str, marks: Callable[[Node], Marks | None]) -> Node:
    """The node after these marks, however often others write in between."""
    found: Node | None = None

    async def check() -> bool:
        nonlocal found
        node = await node_of(rig, name)
        wanted = marks(node)
        assert wanted is not None
        try:
            found = await rig.cluster.mark(node, wanted)
        except Transient:
            return False
        return True

    await rig.until(check, "the mark")
    assert found is not None
    return found


async def released(rig: Rig, name: str) -> None:
    """The mark is taken back, however often others write in between."""
    await marked(rig, name, release)


async def running(rig: Rig, node: str, count: int) -> tuple[Pod, ...]:
    """The running pods of the node, when there are as many."""
    found: tuple[Pod, ...] = ()

    async def check() -> bool:
        nonlocal found
        found = tuple(p for p in await rig.cluster.pods_on(node) if p.phase == "Running" and not p.terminating)
        return len(found) == count

    await rig.until(check, f"{count} running pods on {node}")
    return found


def case_of(name: str) -> Case:
    """A new case."""
    return Case(name=name, node="n", opened_at=NOW, policy="p")


def record(case: Case) -> dict[str, object]:
    """A decision about it."""
    return decision(NOW, Done(result=Result.GONE, reason="node-gone"), World(now=NOW, node=None), case, None)


class PortContract:
    """The facts, one by one."""

    async def test_nodes_are_told_alike_by_cache_and_server(self, rig: Rig) -> None:
        """Both nodes are in the cache with the same identity, GPUs and readiness as read directly; others are None."""
        cached = await rig.cluster.nodes()
        for name in rig.nodes:
            direct = await node_of(rig, name)
            known = cached[name]
            assert (known.uid, known.boot_id, known.system_uuid) == (direct.uid, direct.boot_id, direct.system_uuid)
            assert (direct.gpu_capacity, direct.gpu_allocatable, direct.ready) == (8, 8, True)
            assert direct.boot_id
            assert direct.system_uuid
            assert direct.labels["kubernetes.io/hostname"] == name
        assert await rig.cluster.node("no-such-node") is None

    async def test_a_mark_is_whole_and_a_release_leaves_no_trace(self, rig: Rig) -> None:
        """Taint, cordon and record appear together; releasing makes the node byte for byte what it was."""
        name = rig.nodes[0]
        before = essence(await rig.raw(name))
        unmarked = await node_of(rig, name)
        marked = await rig.cluster.mark(unmarked, mark(unmarked, record_of(unmarked)))
        raw = await rig.raw(name)
        stored = int(raw["metadata"]["resourceVersion"])
        assert int(unmarked.resource_version) < int(marked.resource_version) <= stored
        assert intact(marked)
        assert marked.undo == record_of(marked)
        assert {"key": TAINT_KEY, "value": "true", "effect": "NoSchedule"} in raw["spec"]["taints"]
        assert raw["spec"]["unschedulable"] is True

        async def followed() -> bool:
            return CORDONED in {t.key for t in (await node_of(rig, name)).taints}

        await rig.until(followed, "Kubernetes' own taint of a cordoned node")
        seen = await node_of(rig, name)
        assert intact(seen)
        assert seen.undo == marked.undo
        assert (await rig.cluster.nodes())[name].undo == marked.undo
        await rig.cluster.set_conditions(seen, [UNWELL], ())
        await rig.cluster.set_conditions(await node_of(rig, name), (), [UNWELL.type])
        await released(rig, name)

        async def free() -> bool:
            return CORDONED not in {t.key for t in (await node_of(rig, name)).taints}

        await rig.until(free, "Kubernetes' own taint to go")
        after = essence(await rig.raw(name))
        assert differences(before, after) == []
        assert canonical(before) == canonical(after)

    async def test_a_paused_operand_goes_on_and_leaves_no_trace(self, rig: Rig) -> None:
        """Its label and the record that tells of it change in one write; the label is as before, all others stay."""
        name = rig.nodes[0]
        await rig.label(name, "gpu.health/operand", "true")
        await contained(rig, name)
        before = await node_of(rig, name)
        paused = await marked(rig, name, lambda node: pause(node, node.record or record_of(node), PAUSES))
        raw = (await rig.raw(name))["metadata"]["labels"]
        assert dict(paused.labels) == {**before.labels, "gpu.health/operand": "false"} == raw
        resumed = await marked(rig, name, lambda node: resume(node, node.record or record_of(node)))
        assert (resumed.labels, resumed.record) == (before.labels, before.record)
        assert (await rig.raw(name))["metadata"]["labels"] == before.labels
        await released(rig, name)

    async def test_a_mark_at_an_old_version_changes_nothing(self, rig: Rig) -> None:
        """A person's write in between makes the mark a conflict, and nothing of ours is on the node."""
        node = await node_of(rig, rig.nodes[0])
        await rig.label(node.name, "site", "x")
        before = (await rig.raw(node.name))["spec"]
        with pytest.raises(Transient) as caught:
            await rig.cluster.mark(node, mark(node, record_of(node)))
        assert caught.value.reason == "conflict"
        after = await node_of(rig, node.name)
        assert (after.undo, after.unschedulable) == (None, False)
        assert OURS not in after.taints
        assert (await rig.raw(node.name))["spec"] == before

    async def test_marking_what_is_not_there_is_permanent(self, rig: Rig) -> None:
        """A node that never was, and one that was deleted after we read it, are None and cannot be marked."""
        deleted = await node_of(rig, rig.nodes[0])
        await rig.delete_node(deleted.name)
        for ghost in (deleted, Node(name="no-such-node", uid="u", resource_version="1")):
            assert await rig.cluster.node(ghost.name) is None
            with pytest.raises(Permanent) as caught:
                await rig.cluster.mark(ghost, mark(ghost, record_of(ghost)))
            assert caught.value.reason == "not-found"

    async def test_the_cache_comes_to_say_what_the_server_says(self, rig: Rig) -> None:
        """A label that somebody sets is in the cache soon, and then cache and direct read give equal nodes."""
        name = rig.nodes[0]
        await rig.label(name, "seen", "yes")

        async def same() -> bool:
            known = (await rig.cluster.nodes())[name]
            return known.labels.get("seen") == "yes" and known == await node_of(rig, name)

        await rig.until(same, "the cache to follow")

    async def test_foreign_taints_survive_mark_and_release(self, rig: Rig) -> None:
        """A taint that came before us and one that came between stay when we go."""
        name = rig.nodes[0]
        await rig.taint(name, "team-a")
        await contained(rig, name)
        await rig.taint(name, "team-b")
        await released(rig, name)
        left = {t.key for t in (await node_of(rig, name)).taints}
        assert {"team-a", "team-b"} <= left
        assert TAINT_KEY not in left

    async def test_only_conditions_that_are_named_change(self, rig: Rig) -> None:
        """A condition of ours is put, put again with other words, and removed; all others stay as they are."""
        name = rig.nodes[0]
        others = (await node_of(rig, name)).conditions
        await rig.cluster.set_conditions(await node_of(rig, name), [UNWELL], ())
        assert UNWELL in (await node_of(rig, name)).conditions
        again = replace(UNWELL, message="two")
        await rig.cluster.set_conditions(await node_of(rig, name), [again], ())
        found = (await node_of(rig, name)).conditions
        assert [c for c in found if c.type == UNWELL.type] == [again]
        assert {c for c in found if c.type != UNWELL.type} == set(others)
        await rig.cluster.set_conditions(await node_of(rig, name), (), [UNWELL.type, "NVLinkHealthy"])
        assert (await node_of(rig, name)).conditions == others

    async def test_pods_are_told_with_owner_gang_gpus_and_protection(self, rig: Rig) -> None:
        """Deployment, gang and unmanaged pods of one node are told apart; the other node has none of them."""
        one, two = rig.nodes
        await rig.deployment("web", one, 1, 2)
        await rig.gang("llama", one, 2)
        await rig.bare_pod("alone", one)
        await rig.daemonset("agent", one)
        pods = await running(rig, one, 5)
        (web,) = [p for p in pods if p.owner_kind == "ReplicaSet"]
        gang = [p for p in pods if p.owner_kind == "Job"]
        (alone,) = [p for p in pods if not p.owner_kind]
        assert (web.gpus, web.protected, web.gang, web.evictable) == (2, "", "", True)
        assert len({p.gang for p in gang}) == 1
        assert gang[0].gang.startswith("JobSet/")
        assert gang[0].gang.endswith("/llama")
        assert all(p.evictable for p in gang)
        assert alone.protected
        assert [p.evictable for p in pods if p.owner_kind == "DaemonSet"] == [False]
        assert not {p.uid for p in await rig.cluster.pods_on(two)} & {p.uid for p in pods}
        assert await rig.cluster.pods_on("no-such-node") == ()

    async def test_an_eviction_is_blocked_by_name_accepted_or_gone(self, rig: Rig) -> None:
        """A full budget is named; without it the pod leaves; another UID and a missing pod are gone."""
        one, _ = rig.nodes
        await rig.deployment("web", one, 2, 1)
        pods = await running(rig, one, 2)
        await contained(rig, one)
        await rig.budget("keep-web", "web", 2)

        async def blocked() -> bool:
            answer = await rig.cluster.evict(pods[0])
            assert answer.result is EvictionResult.BLOCKED
            return answer.blocker == "The disruption budget keep-web needs 2 healthy pods and has 2 currently"

        await rig.until(blocked, "the budget to refuse in its own words")
        assert (await rig.cluster.evict(replace(pods[0], name="no-such-pod"))).result is EvictionResult.GONE
        await rig.budget("keep-web", "web", 0)
        for pod in pods:

            async def accepted(pod: Pod = pod) -> bool:
                return (await rig.cluster.evict(pod)).result is EvictionResult.ACCEPTED

            await rig.until(accepted, "the eviction")

        async def left() -> bool:
            return not {p.uid for p in pods} & {p.uid for p in await rig.cluster.pods_on(one)}

        await rig.until(left, "the pods to leave")
        assert (await rig.cluster.evict(pods[0])).result is EvictionResult.GONE

    async def test_events_never_fail_the_caller(self, rig: Rig) -> None:
        """Notes on a node that exists, and on one that does not, return nothing and raise nothing."""
        for name in (rig.nodes[0], "no-such-node"):
            note = Note(node=name, reason="Tainted", message="m", warning=True)
            await rig.cluster.publish(note)
            await rig.cluster.publish(note)

    async def test_the_node_lock_is_exclusive_and_ends(self, rig: Rig) -> None:
        """Ours is not foreign to us and can be renewed; another tool's keeps us out until it runs out."""
        one, two = rig.nodes
        node = await node_of(rig, one)
        assert await rig.cluster.lock_of(one) is None
        await rig.cluster.lock(node, SPAN)
        await rig.cluster.lock(node, SPAN)
        assert await rig.cluster.lock_of(one) is None
        await rig.cluster.unlock(one)
        await rig.cluster.unlock(one)
        await rig.foreign_lock(two, "node-healthcheck", timedelta(seconds=2))
        held = await rig.cluster.lock_of(two)
        assert held is not None
        assert held.holder == "node-healthcheck"
        with pytest.raises(Transient) as caught:
            await rig.cluster.lock(await node_of(rig, two), SPAN)
        assert caught.value.reason == "node-locked"
        await rig.cluster.unlock(two)
        assert await rig.cluster.lock_of(two) is not None

        async def free() -> bool:
            return await rig.cluster.lock_of(two) is None

        await rig.until(free, "the foreign lock to run out")
        await rig.cluster.lock(await node_of(rig, two), SPAN)

    async def test_a_case_is_created_saved_and_deleted(self, rig: Rig) -> None:
        """The list shows each state at once; deleting twice is no error."""
        attempt = Attempt(
            step="taint",
            action="taint",
            phase=Phase.CONTAIN,
            operation="life-taint-1",
            state=AttemptState.SUCCEEDED,
            started_at=NOW,
            ended_at=NOW + timedelta(microseconds=250_000),
        )
        case = replace(case_of("life"), gpus=("GPU-1",), attempts=(attempt,))
        stored = await rig.remediations.create(case, record(case))
        assert stored.case == case
        changed = replace(case, escalated="drain-deadline")
        saved = await rig.remediations.save(Stored(case=changed, version=stored.version), None)
        assert saved.version != stored.version
        assert [s for s in await rig.remediations.list() if s.case.name == "life"] == [saved]
        await rig.remediations.delete("life")
        await rig.remediations.delete("life")
        assert [s for s in await rig.remediations.list() if s.case.name == "life"] == []

    async def test_two_writers_of_one_version_cannot_both_win(self, rig: Rig) -> None:
        """The second save of a version, and a second create of a name, are conflicts; a deleted case is Permanent."""
        case = case_of("race")
        stored = await rig.remediations.create(case, record(case))
        with pytest.raises(Transient) as caught:
            await rig.remediations.create(case, record(case))
        assert caught.value.reason == "conflict"
        won = await rig.remediations.save(
            Stored(case=replace(case, escalated="a"), version=stored.version), record(case)
        )
        with pytest.raises(Transient) as caught:
            await rig.remediations.save(Stored(case=replace(case, escalated="b"), version=stored.version), record(case))
        assert caught.value.reason == "conflict"
        assert [s for s in await rig.remediations.list() if s.case.name == "race"] == [won]
        await rig.remediations.delete("race")
        with pytest.raises(Permanent) as gone:
            await rig.remediations.save(won, None)
        assert gone.value.reason == "not-found"

    async def test_a_save_leaves_approvals_and_the_opening_alone(self, rig: Rig) -> None:
        """What a case was opened on, and its approvals, are not written by a save: those are for people."""
        case = case_of("opened")
        stored = await rig.remediations.create(case, record(case))
        given = Approval(step="drain", evidence="0" * 12, by="ann", expires_at=NOW)
        saved = await rig.remediations.save(
            Stored(case=replace(case, approvals=(given,), gangs=("Job/a/b",)), version=stored.version), None
        )
        assert saved.case == replace(case, gangs=("Job/a/b",))
        assert [s for s in await rig.remediations.list() if s.case.name == "opened"] == [saved]
        assert list(await rig.remediations.unreadable()) == []
        await rig.remediations.delete("opened")

    async def test_an_operation_is_known_once_it_was_asked_for(self, rig: Rig) -> None:
        """Unknown before, accepted after, and asking again with the same id is no error."""
        node = await node_of(rig, rig.nodes[0])
        operation = f"{node.name}-1-reboot-1"
        assert await rig.machines.lookup(node, operation, "job") is OperationState.NOT_FOUND
        await rig.machines.reboot(node, operation, "job")
        await rig.machines.reboot(node, operation, "job")
        assert await rig.machines.lookup(node, operation, "job") is OperationState.ACCEPTED
        assert await rig.machines.lookup(node, f"{operation}0", "job") is OperationState.NOT_FOUND

    async def test_an_operation_can_be_withdrawn(self, rig: Rig) -> None:
        """Afterwards nobody knows it; withdrawing it twice, or of a node that is gone, is no error."""
        node = await node_of(rig, rig.nodes[0])
        operation = f"{node.name}-2-reboot-1"
        await rig.stand_still(node.name)
        await rig.machines.reboot(node, operation, "job")
        await rig.machines.withdraw(node, operation, "job")
        await rig.machines.withdraw(None, operation, "job")
        assert await rig.machines.lookup(None, operation, "job") is OperationState.NOT_FOUND
