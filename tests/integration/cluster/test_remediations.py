"""Cases as objects on a real API server: one write per transition, compare-and-swap, columns, bounded history."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.plane import SYNC, Eventually

from gpuheal_lab.controlplane.kubeapi import ApiRefused
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import run
from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Approval, Attempt, AttemptState, Case, Result
from gpuheal_responder.core.node import Node, Pod
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.verdict import Done, Escalate
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.kube import remediations as module
from gpuheal_responder.shell.kube.api import Api
from gpuheal_responder.shell.kube.remediations import KubeRemediations
from gpuheal_responder.shell.record import decision, load_case, load_world, unpacked

pytestmark = pytest.mark.cluster

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TARGET = Target(node="gpu-1", gpu_uuid="GPU-7")
CASE = Case(
    name="gpu-1-1",
    node="gpu-1",
    opened_at=NOW,
    policy="hgx",
    faults=(Fault(slug="gpu-fell-off-bus", target=TARGET, severity=Severity.CRITICAL, since=NOW, xid="79"),),
    node_uid="u-1",
    system_uuid="s-1",
    gpus=("GPU-7",),
    gangs=("Job/ml/llama",),
    attempts=(
        Attempt(
            step="taint",
            action="taint",
            phase=Phase.CONTAIN,
            operation="gpu-1-1-taint-1",
            state=AttemptState.SUCCEEDED,
            started_at=NOW,
            ended_at=NOW,
            reason="marked",
            boot_id="b",
        ),
    ),
    boot_id="b",
    gpu_slots={"GPU-7": "0000:0f:00.0"},
    gpu_capacity=8,
    domains={"rack": "r1"},
    quiet_since=NOW,
    settled_at=NOW,
    escalated="drain-deadline",
)
YES = Approval(step="reboot", evidence="0123456789ab", by="admin", given_at=NOW, expires_at=NOW + timedelta(hours=1))
WORLD = World(now=NOW, node=Node(name="gpu-1", uid="u-1", labels={"rack": "r1"}), peers_answering=1)


def record(after_s: float = 0, case: Case = CASE, world: World = WORLD) -> dict[str, Any]:
    """A decision record, some seconds later."""
    verdict = Escalate(reason="drain-deadline", message="m")
    return decision(NOW + timedelta(seconds=after_s), verdict, world, case, None)


async def raw(plane: ControlPlane, name: str = CASE.name) -> dict[str, Any]:
    """The object as the API server has it."""
    return await asyncio.to_thread(plane.admin.get, f"{module.PATH}/{name}")


async def test_a_case_is_stored_whole_and_listed_at_once(plane: ControlPlane, remediations: KubeRemediations) -> None:
    """Every field of a case survives the API server's pruning; our own write is in the list without waiting."""
    for info in fields(CASE):
        if info.name not in {"closed_at", "result", "approvals"}:
            assert getattr(CASE, info.name), f"the example must fill {info.name}"
    stored = await remediations.create(CASE, record())
    assert stored.case == CASE
    assert [s.case for s in await remediations.list()] == [CASE]
    closed = replace(CASE, closed_at=NOW, result=Result.RESTORED)
    saved = await remediations.save(Stored(case=closed, version=stored.version), None)
    read = module.KubeRemediations(remediations._api)
    read.start()
    await read.mirror.wait_synced(SYNC)
    assert list(await read.list()) == [saved]
    await read.stop()


async def test_a_second_case_of_the_same_name_is_a_conflict(remediations: KubeRemediations) -> None:
    """Creating a name that exists is Transient `conflict` and leaves the first one."""
    await remediations.create(CASE, record())
    with pytest.raises(Transient) as caught:
        await remediations.create(replace(CASE, policy="other"), record())
    assert caught.value.reason == "conflict"
    assert [s.case.policy for s in await remediations.list()] == ["hgx"]


async def test_s16_of_two_writers_of_one_version_one_wins(remediations: KubeRemediations, api: Api) -> None:
    """A save that names an old version is Transient `conflict` and changes nothing, also from another replica."""
    stored = await remediations.create(CASE, record())
    other = KubeRemediations(api)
    won = await other.save(Stored(case=replace(CASE, escalated="first"), version=stored.version), record(1))
    with pytest.raises(Transient) as caught:
        await remediations.save(Stored(case=replace(CASE, escalated="second"), version=stored.version), record(1))
    assert caught.value.reason == "conflict"
    again = await remediations.save(Stored(case=replace(CASE, escalated="third"), version=won.version), None)
    assert again.case.escalated == "third"


async def test_saving_removes_what_the_case_has_no_more(plane: ControlPlane, remediations: KubeRemediations) -> None:
    """Fields of the status that are back at their default vanish; what the case was opened on stays."""
    stored = await remediations.create(CASE, record())
    bare = Case(name=CASE.name, node=CASE.node, opened_at=NOW, policy="hgx")
    await remediations.save(Stored(case=bare, version=stored.version), None)
    found = await raw(plane)
    assert set(found["spec"]) == {"node", "nodeUID", "systemUUID", "policy", "openedAt"}
    assert not {"faults", "gpus", "gangs", "attempts", "escalated"} & set(found["status"])


async def test_the_last_ten_decisions_are_kept_whole(plane: ControlPlane, remediations: KubeRemediations) -> None:
    """After 14 decisions, two of them at the same instant, the newest ten are there in order, each loadable."""
    pods = (Pod(namespace="ml", name="p", uid="x", gpus=8),)
    world = replace(WORLD, pods=pods)
    stored = await remediations.create(CASE, record(0, world=world))
    for number in range(1, 14):
        stored = await remediations.save(stored, record(min(number, 12), world=world))
    found = await remediations.decisions(CASE.name)
    assert [r["at"] for r in found] == [record(s)["at"] for s in (4, 5, 6, 7, 8, 9, 10, 11, 12, 12)]
    assert all(load_world(r["world"]) == world and load_case(r["case"]) == CASE for r in found)
    assert len((await raw(plane))["status"]["decisions"]) == module.DECISIONS


async def test_a_large_decision_is_packed_and_loses_nothing(remediations: KubeRemediations) -> None:
    """A world of 4,000 pods is kept as one compressed text; reason and time stay plain, and it can be replayed."""
    pods = tuple(Pod(namespace="ml", name=f"pod-{i}", uid=f"uid-{i}") for i in range(4000))
    world = replace(WORLD, pods=pods)
    await remediations.create(CASE, record(world=world))
    (kept,) = await remediations.decisions(CASE.name)
    assert "world" not in kept
    assert kept["verdict"]["reason"] == "drain-deadline"
    assert load_world(unpacked(kept, "decision")["world"]) == world


async def test_people_see_the_case_in_columns(
    plane: ControlPlane, remediations: KubeRemediations, tmp_path: Path
) -> None:
    """`kubectl get remediations` shows target, fault, state and what is next; since moves only when they do."""
    stored = await remediations.create(CASE, record())
    stored = await remediations.save(stored, record(60))
    assert (await raw(plane))["status"]["since"] == "2026-01-31T12:00:00Z"
    kubectl = find("kubectl")
    argv = kubectl.command(f"--kubeconfig={plane.kubeconfig()}", "get", "remediations", folder=tmp_path)
    header, line = (await asyncio.to_thread(run, argv, deadline_s=30)).splitlines()
    assert header.split() == ["NAME", "TARGET", "FAULT", "STEP", "STATE", "NEXT", "BLOCKED-BY", "SINCE"]
    assert line.split()[:4] == ["gpu-1-1", "gpu-1/GPU-7", "gpu-fell-off-bus", "escalated"]
    assert "manual intervention: drain-deadline" in line
    closed = replace(stored.case, closed_at=NOW, result=Result.GONE)
    verdict = Done(result=Result.GONE, reason="node-gone")
    await remediations.save(
        Stored(case=closed, version=stored.version), decision(NOW + timedelta(minutes=2), verdict, WORLD, CASE, None)
    )
    status = (await raw(plane))["status"]
    assert (status["state"], status["since"]) == ("gone", "2026-01-31T12:02:00Z")
    assert "next" not in status


async def test_deleting_is_repeatable_and_saving_the_deleted_is_for_people(remediations: KubeRemediations) -> None:
    """A case is gone after delete, also from the list; deleting again is no error; saving it is Permanent."""
    stored = await remediations.create(CASE, record())
    await remediations.delete(CASE.name)
    await remediations.delete(CASE.name)
    assert await remediations.list() == []
    with pytest.raises(Permanent) as caught:
        await remediations.save(stored, None)
    assert caught.value.reason == "not-found"


async def test_an_object_that_is_no_case_is_left_alone_and_named(
    plane: ControlPlane, remediations: KubeRemediations, eventually: Eventually
) -> None:
    """A Remediation that people broke is not listed, its problem is told, and the others are still listed."""
    await remediations.create(CASE, record())
    broken = {
        "apiVersion": "gpu.health/v1alpha1",
        "kind": "Remediation",
        "metadata": {"name": "by-hand"},
        "spec": {"node": "gpu-9", "policy": "p", "openedAt": "9999-12-31T23:00:00-05:00"},
    }
    await asyncio.to_thread(plane.admin.create, module.PATH, broken)
    (found,) = await eventually(remediations.unreadable, "the broken object")
    assert (found.name, found.node) == ("by-hand", "gpu-9")
    assert "openedAt" in found.problem
    assert [s.case for s in await remediations.list()] == [CASE]
    await asyncio.to_thread(plane.admin.delete, f"{module.PATH}/by-hand")

    async def gone() -> bool:
        return not await remediations.unreadable()

    await eventually(gone, "nothing to be left of it")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("spec", {"node": "x" * 300}),
        ("spec", {"openedAt": "yesterday"}),
        ("status", {"result": "x" * 100}),
        ("status", {"attempts": [{"step": 7}]}),
        ("status", {"attempts": [{"step": "x"}] * 200}),
        ("status", {"decisions": {f"k{i}": {} for i in range(11)}}),
    ],
)
async def test_the_schema_bounds_what_may_be_stored(plane: ControlPlane, part: str, change: dict[str, Any]) -> None:
    """Too long, too many and of a wrong kind is refused by the API server itself."""
    body: dict[str, Any] = {
        "apiVersion": "gpu.health/v1alpha1",
        "kind": "Remediation",
        "metadata": {"name": "bad"},
        "spec": {"node": "n", "policy": "p", "openedAt": "2026-01-31T12:00:00Z"},
    }
    engine = plane.as_service_account("gpuheal", "gpuheal-responder")
    if part == "spec":
        body["spec"] |= change
        with pytest.raises(ApiRefused) as caught:
            await asyncio.to_thread(engine.create, module.PATH, body)
    else:
        await asyncio.to_thread(engine.create, module.PATH, body)
        with pytest.raises(ApiRefused) as caught:
            await asyncio.to_thread(engine.patch, f"{module.PATH}/bad/status", {"status": change})
        await asyncio.to_thread(engine.delete, f"{module.PATH}/bad")
    assert caught.value.status == 422


async def test_s17_what_a_case_was_opened_on_never_changes_not_for_an_administrator(
    plane: ControlPlane, remediations: KubeRemediations
) -> None:
    """A case cannot be turned to another node or machine: what was proven for one would be believed of the other."""
    await remediations.create(CASE, record())
    for change in ({"node": "gpu-2"}, {"systemUUID": "other"}, {"nodeUID": None}, {"policy": "other"}):
        with pytest.raises(ApiRefused, match="is immutable") as caught:
            await asyncio.to_thread(plane.admin.patch, f"{module.PATH}/{CASE.name}", {"spec": change})
        assert caught.value.status == 422


async def test_an_approval_is_a_persons_and_stays_when_we_write(
    plane: ControlPlane, remediations: KubeRemediations
) -> None:
    """With a token of somebody who may it is stored; with our own account it is forbidden; our next write keeps it."""
    stored = await remediations.create(CASE, record())
    with pytest.raises(Permanent) as caught:
        await remediations.approve(stored, (YES,))
    assert caught.value.reason == "forbidden"
    approved = await remediations.approve(stored, (YES,), plane.tokens["admin"])
    assert approved.case.approvals == (YES,)
    saved = await remediations.save(Stored(case=replace(CASE, escalated="x"), version=approved.version), record(1))
    assert saved.case == replace(CASE, escalated="x", approvals=(YES,))
    assert (await raw(plane))["spec"]["approvals"][0]["by"] == "admin"
