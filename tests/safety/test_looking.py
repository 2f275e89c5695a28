"""Invariants of looking: S05 to S09."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.responder.stage import CLUSTER, Stage

from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_responder.core.alert import Alert, Silence
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.sighting import WitnessClass
from gpuheal_responder.core.undo import HOLD_ANNOTATION

ANN = Silence(id="s1", created_by="ann", comment="rack work")


def disruptive(stage: Stage) -> list[str]:
    """Return every disruptive call that took effect."""
    return [c.method for c in stage.sim.gate.calls if c.method in {"evict", "reboot"}]


async def test_s05_an_alert_of_another_cluster_is_a_dead_letter() -> None:
    """An alert whose cluster label is not ours opens no case and is told of."""
    stage = Stage()
    labels = {
        "alertname": "GPUFellOffBus",
        "fault": "gpu-fell-off-bus",
        "severity": "critical",
        "node": stage.names[1],
        "gpu_uuid": "GPU-x",
        "cluster": "other",
    }
    now = stage.sim.now()
    stage.alerts.extra = (Alert(fingerprint="f", labels=labels, starts_at=now, updated_at=now),)
    await stage.play(5)
    assert stage.cases() == []
    assert {d.reason for d in stage.heard.dead} == {"cluster-mismatch"}


async def test_s05_alerts_are_judged_one_by_one() -> None:
    """A useless alert beside a good one costs the good one nothing."""
    stage = Stage()
    now = stage.sim.now()
    stage.alerts.extra = (
        Alert(fingerprint="f", labels={"fault": "gpu-fell-off-bus", "cluster": CLUSTER}, starts_at=now, updated_at=now),
    )
    stage.break_gpu()
    said = await stage.play(until="Done")
    assert said[-1] == "Done restored"
    assert stage.heard.dead[0].reason == "unknown-severity"


async def test_s06_no_peer_answers_nothing_begins() -> None:
    """Without a single Alertmanager answer there is not even a case; with evidence alone nothing is done."""
    stage = Stage()
    stage.break_gpu()
    stage.alerts.answers = False
    await stage.play(10)
    assert stage.sim.gate.calls == []


async def test_s06_a_silenced_alert_holds_the_first_step_and_names_the_author() -> None:
    """A silence from the start keeps the node untouched, and the hold says who made it and why."""
    stage = Stage()
    stage.alerts.silences = (ANN,)
    stage.break_gpu()
    said = await stage.play(10)
    assert said == ["Hold taint alert-silenced"]
    _, verdict = stage.heard.verdicts[0]
    assert verdict.refusals[0].blockers == ("ann: rack work",)  # type: ignore[union-attr]
    assert not disruptive(stage)
    assert stage.sim.gate.made("mark") == []


async def test_s06_an_inhibited_alert_holds_the_start() -> None:
    """Inhibition counts at the start gate."""
    stage = Stage()
    stage.alerts.inhibited = ("other",)
    stage.break_gpu()
    assert await stage.play(5) == ["Hold taint alert-inhibited"]


async def test_s06_stale_evidence_holds() -> None:
    """Witness samples older than two minutes by Prometheus' clock do not count."""
    stage = Stage()
    stage.evidence.sample_age = timedelta(minutes=3)
    stage.break_gpu()
    assert await stage.play(5) == ["Hold taint evidence-stale"]


async def test_s06_prometheus_out_of_reach_holds() -> None:
    """Without evidence not even a mark is made."""
    stage = Stage()
    stage.evidence.answers = False
    stage.break_gpu()
    assert await stage.play(5) == ["Hold taint no-evidence"]


async def test_s06_identity_needs_a_second_source_before_anything_disruptive() -> None:
    """One source that knows the GPU in this node is enough for a taint, not for a drain."""
    stage = Stage()
    stage.sim.workloads.deployment("web", replicas=2, nodes=(stage.names[0],))
    stage.advance(3)
    stage.evidence.sources = ("exporter",)
    stage.break_gpu()
    said = await stage.play(10)
    assert said == ["Act taint", "Act condition", "Hold drain identity-unproven"]
    assert not disruptive(stage)


async def test_s06_one_strong_witness_taints_but_does_not_drain() -> None:
    """Probable evidence may contain; a disruptive step needs it confirmed."""
    stage = Stage()
    stage.evidence.classes = (WitnessClass.KERNEL,)
    stage.break_gpu()
    said = await stage.play(10)
    assert said == ["Act taint", "Act condition", "Hold drain not-confirmed"]


@pytest.mark.parametrize("kinds", [(WitnessClass.KUBERNETES,), ()])
async def test_s06_weak_or_no_witness_never_acts(kinds: tuple[WitnessClass, ...]) -> None:
    """Suspicion alone does nothing."""
    stage = Stage()
    stage.evidence.classes = kinds
    stage.break_gpu()
    assert await stage.play(5) == ["Hold taint not-probable"]


async def test_s07_a_silence_in_flight_stops_at_the_safe_point() -> None:
    """A silence made while the drain runs lets it finish, then holds the reboot: cordoned and empty."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=2, nodes=(name,))
    stage.advance(3)
    stage.break_gpu()
    await stage.play(until="Act drain")
    stage.alerts.silences = (ANN,)
    said = await stage.play(30)
    assert said[-1] == "Hold reboot alert-silenced"
    pods = await stage.sim.cluster.pods_on(name)
    assert [p for p in pods if p.evictable] == []
    assert stage.sim.machines.reboots == []
    stage.alerts.silences = ()
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s07_the_kill_switch_stops_every_next_step() -> None:
    """A pause holds the next step, whichever it is, and lifting it lets the case go on."""
    stage = Stage()
    stage.break_gpu()
    await stage.play(until="Act condition")
    stage.cap(paused="bob: wait")
    said = await stage.play(10)
    assert said[-1] == "Hold drain paused"
    stage.cap(paused="")
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s07_a_hold_annotation_stops_the_next_step() -> None:
    """`gpu.health/hold` on the node holds, and says what it says."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")
    stage.sim.edit(name, lambda raw: raw["metadata"].setdefault("annotations", {}).update({HOLD_ANNOTATION: "cy"}))
    assert (await stage.play(10))[-1] == "Hold drain held"
    stage.sim.edit(name, lambda raw: raw["metadata"]["annotations"].pop(HOLD_ANNOTATION))
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s07_counter_evidence_at_the_safe_point_spares_the_reboot() -> None:
    """When the alert is gone and every GPU is provably well before the reboot, the node is proven and given back."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=2, nodes=(name,))
    stage.advance(3)
    stage.break_gpu()
    await stage.play(until="Act drain")
    stage.sim.fleet[name].cure("reboot")
    stage.latch.latched.clear()
    stage.advance(3)
    said = await stage.play(until="Done")
    assert said[-1] == "Done restored"
    assert stage.sim.machines.reboots == []


async def test_s07_missing_telemetry_in_flight_does_not_block() -> None:
    """Our own reboot takes alerts and GPU telemetry away; the case goes on without them."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=1, nodes=(name,))
    stage.advance(3)
    stage.break_gpu()
    await stage.play(until="Act drain")
    stage.evidence.blind = True
    stage.alerts.mute = True
    said = await stage.play(20, until="Act reboot")
    assert said[-1] == "Act reboot"


async def test_s07_another_machine_under_the_name_ends_the_case() -> None:
    """A systemUUID that differs is another machine: no strike, no failure, no further step."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")

    def swap(raw: dict) -> None:  # type: ignore[type-arg]
        raw["status"]["nodeInfo"]["systemUUID"] = "00000000-0000-0000-0000-000000000000"

    stage.sim.edit(name, swap)
    await stage.round()
    assert stage.only_case().result is Result.GONE
    assert stage.sim.machines.reboots == []


async def test_s08_a_resolved_alert_is_no_proof() -> None:
    """With the alert gone and no telemetry, a contained node stays contained."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")
    stage.alerts.mute = True
    stage.evidence.blind = True
    said = await stage.play(60)
    assert said[-1] == "Hold drain no-active-alert"
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


async def test_s08_after_the_reboot_missing_series_are_unknown_not_healthy() -> None:
    """A node that comes back without telemetry is not restored; at the deadline people are called."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act verify")
    stage.evidence.blind = True
    said = await stage.play(150)
    assert said[-1] == "Escalate health-unknown"
    assert stage.sim.raw(name)["spec"]["unschedulable"] is True


async def test_s08_one_gpu_short_is_not_proven() -> None:
    """Seven of eight GPUs well is not a proof for the node."""
    stage = Stage()
    stage.break_gpu(fault=fell_off_bus(cured_by=frozenset()))
    said = await stage.play(200)
    assert not any(w.startswith("Done") for w in said)
    assert said[-1].startswith("Escalate")


async def test_s09_lingering_evidence_neither_climbs_nor_reopens() -> None:
    """An alert whose evidence is older than the reboot's end is waited out; after the case it opens no new one."""
    stage = Stage()
    name = stage.break_gpu()
    key = next(iter(stage.latch.latched))
    stage.evidence.classes = (WitnessClass.KERNEL,)
    first = stage.latch.latched[key]
    stage.evidence.classes = (WitnessClass.KERNEL, WitnessClass.NVML)
    await stage.play(until="Act verify")
    stage.evidence.classes = (WitnessClass.KERNEL,)
    stage.latch.latched[key] = first
    said = await stage.play(10)
    assert not any(w.startswith("Escalate") for w in said)
    assert len(stage.sim.machines.reboots) == 1
    stage.latch.latched.clear()
    assert (await stage.play(until="Done"))[-1] == "Done restored"
    stage.latch.latched[key] = first
    await stage.play(10)
    assert len(stage.cases()) == 1
    assert "unschedulable" not in stage.sim.raw(name)["spec"]


async def test_s09_a_second_real_fault_climbs() -> None:
    """A new Xid after the reboot fails the proof at once; with no cure left, people are called."""
    stage = Stage()
    stage.break_gpu(fault=fell_off_bus(relapse_after=timedelta(seconds=4)))
    said = await stage.play(60, until="Escalate")
    assert said[-1] == "Escalate fault-again"
    assert len(stage.sim.machines.reboots) == 1


async def test_s09_what_a_frozen_pipeline_shows_is_no_second_fault() -> None:
    """While Prometheus is not trusted the old fault is not taken for a new one; once it is, the node is proven."""
    stage = Stage()
    stage.break_gpu()
    key = next(iter(stage.latch.latched))
    await stage.play(until="Act verify")
    stage.cap(frozen="prometheus-settling: 3")
    stage.latch.latched[key] = stage.sim.now()
    said = await stage.play(10)
    assert not any(w.startswith("Escalate") for w in said)
    stage.latch.latched.clear()
    stage.cap(frozen="")
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s09_evidence_before_a_persons_uncordon_is_settled() -> None:
    """After a person takes the node back, the same evidence does not take it from them again."""
    stage = Stage()
    name = stage.break_gpu()
    await stage.play(until="Act condition")
    assert WitnessClass.NVML in stage.evidence.classes, "a level that goes on is seen anew at every look"
    stage.sim.edit(name, lambda raw: raw["spec"].pop("unschedulable"))
    await stage.play(10)
    case = stage.only_case()
    assert case.result is Result.TAKEN_OVER
    raw = stage.sim.raw(name)
    assert "taints" not in raw["spec"]
    assert "gpu.health/undo" not in raw["metadata"].get("annotations", {})
    stage.latch.latched[(name, stage.sim.fleet[name].spec.gpus[3].uuid)] = stage.sim.now() + timedelta(seconds=1)
    stage.advance(2)
    await stage.round()
    assert len(stage.cases()) == 2
