"""Invariants of restraint: S18, S19, S21."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.responder.stage import PlayedAlerts, PlayedEvidence, Stage

from gpuheal_responder.core.alert import Alert
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.sighting import Evidence
from gpuheal_responder.core.world import NodeLock


async def test_s18_a_foreign_cordon_and_foreign_taints_stay() -> None:
    """A node that a person had cordoned before is given back cordoned, with their taint."""
    stage = Stage()
    name = stage.names[0]

    def cordon(raw: dict) -> None:  # type: ignore[type-arg]
        raw["spec"]["unschedulable"] = True
        raw["spec"]["taints"] = [{"key": "team", "value": "a", "effect": "NoSchedule"}]

    stage.sim.edit(name, cordon)
    stage.advance(1)
    before = stage.sim.snapshot(name)
    stage.break_gpu()
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before


@pytest.mark.parametrize(
    "label",
    [
        {"gpu.health/ignore": "true"},
        {"remediation.medik8s.io/exclude-from-remediation": "true"},
        {"nvidia.com/gpu-driver-upgrade-state": "drain-required"},
    ],
)
async def test_s18_nodes_of_other_tools_are_left_alone(label: dict[str, str]) -> None:
    """An opt-out or a driver upgrade keeps the node untouched."""
    stage = Stage()
    stage.sim.edit(stage.names[0], lambda raw: raw["metadata"]["labels"].update(label))
    stage.break_gpu()
    assert await stage.play(5) == ["Hold taint left-alone"]


async def test_s18_a_node_that_somebody_has_just_rebooted_is_given_time() -> None:
    """Within 30 minutes of a boot that was not ours nothing disruptive begins; after that it does."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.fleet[name].reboot()
    stage.advance(20)
    stage.break_gpu()
    said = await stage.play(10)
    assert said[-1] == "Hold drain booted-lately"
    stage.sim.advance(timedelta(minutes=30))
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s18_a_changed_boot_id_tells_of_a_reboot_where_no_exporter_does() -> None:
    """A site without our exporter knows no boot time: whose boot ID was seen to change has just been rebooted."""

    class Timeless(PlayedEvidence):
        def _of(self, node: str) -> Evidence:
            return replace(super()._of(node), booted_at=None)

    stage = Stage()
    stage.evidence = Timeless(stage)
    stage.boot()
    name = stage.names[0]
    await stage.play(5)
    stage.sim.fleet[name].reboot()
    await stage.play(30)
    stage.break_gpu()
    said = await stage.play(10)
    assert said[-1] == "Hold drain booted-lately"
    stage.sim.advance(timedelta(minutes=30))
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s18_a_foreign_lock_holds_and_is_named() -> None:
    """Whoever holds the node's Lease is waited for."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.cluster.locks[name] = NodeLock(
        holder="NodeHealthCheck-x", expires_at=stage.sim.now() + timedelta(hours=1)
    )
    stage.break_gpu()
    said = await stage.play(10)
    assert said[-1] == "Hold reboot node-locked"
    del stage.sim.cluster.locks[name]
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    assert name not in stage.sim.cluster.locks


async def test_s19_a_budget_blocks_the_drain_and_the_deadline_names_it() -> None:
    """A PodDisruptionBudget that allows nothing stops the drain; at the deadline people learn its name."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=1, nodes=(name,))
    stage.sim.workloads.budget("web-pdb", selector={"app": "web"}, min_available=1)
    stage.advance(3)
    stage.break_gpu()
    said = await stage.play(320)
    assert said[-1] == "Escalate drain-deadline"
    assert "web-pdb" in stage.heard.verdicts[-1][1].message  # type: ignore[union-attr]
    assert stage.sim.machines.reboots == []


async def test_s19_control_plane_nodes_are_held_by_name() -> None:
    """A control-plane node is never emptied."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.edit(name, lambda raw: raw["metadata"]["labels"].update({"node-role.kubernetes.io/control-plane": ""}))
    stage.break_gpu()
    assert (await stage.play(10))[-1] == "Hold drain control-plane"


async def test_s19_a_protected_pod_is_held_by_name() -> None:
    """A pod that must not be moved holds the drain, and its name is told."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("prometheus", replicas=1, nodes=(name,))
    stage.advance(3)
    pod = next(p for p in await stage.sim.cluster.pods_on(name) if p.evictable)
    stage.sim.cluster.protect[pod.ref] = "last replica of Prometheus"
    stage.break_gpu()
    said = await stage.play(10)
    assert said[-1] == "Hold drain protected-pod"
    assert stage.heard.verdicts[-1][1].refusals[0].blockers == (pod.ref,)  # type: ignore[union-attr]


async def test_s19_pods_leave_by_eviction_with_their_uid() -> None:
    """Every pod that goes, goes through the Eviction API, with its UID as precondition."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=3, nodes=(name,))
    stage.advance(3)
    uids = {p.uid for p in await stage.sim.cluster.pods_on(name) if p.evictable}
    stage.break_gpu()
    await stage.play(until="Done")
    assert {c.detail for c in stage.sim.gate.made("evict")} == uids


async def test_s21_evidence_of_before_its_node_object_reboots_no_machine() -> None:
    """A Prometheus that repeats the past tells of the machine that had this name before: the new one is not drained."""

    class Alerting(PlayedAlerts):
        def _alerts(self) -> list[Alert]:
            return past[0]

    class Repeating(PlayedEvidence):
        def _of(self, node: str) -> Evidence:
            return past[1]

    stage = Stage()
    name = stage.break_gpu()
    stage.advance(3)
    past = stage.alerts._alerts(), stage.evidence._of(name)
    stage.alerts, stage.evidence = Alerting(stage), Repeating(stage)
    stage.boot()
    stage.sim.swap(name)
    said = await stage.play(30)
    assert said[-1] == "Hold drain evidence-predates-node"
    assert stage.sim.gate.made("evict") == []


async def test_s21_a_deleted_node_ends_the_case_without_failure() -> None:
    """A node that is gone ends its case as gone."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")
    del stage.sim.api.nodes[name]
    await stage.round()
    assert stage.only_case().result is Result.GONE
