"""Invariants of many nodes at once: S11 (a fleet's event is no node's fault), S19 (drains beside each other), S22."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.responder.stage import CLUSTER, LADDER, PlayedAlerts, Stage

from gpuheal_responder.core.alert import Alert
from gpuheal_responder.core.node import Node, Pod

FLEET_FAULTS = ("telemetry-anomaly", "rack-correlated")


def fleet_alert(stage: Stage, fault: str, **labels: str) -> Alert:
    """Return one of our own alerts about a domain or the fleet."""
    scope = "domain" if labels else "fleet"
    return Alert(
        fingerprint=fault,
        labels={"alertname": fault, "fault": fault, "scope": scope, "severity": "critical", "cluster": CLUSTER}
        | labels,
        starts_at=stage.sim.now(),
        updated_at=stage.sim.now(),
    )


def nodes_by_rack(stage: Stage) -> Mapping[str, list[int]]:
    """Return the indexes of the nodes of each rack."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(stage.names):
        labels = stage.sim.raw(name)["metadata"]["labels"]
        rack = labels.get("gpu.health/rack") or labels.get("topology.kubernetes.io/rack") or ""
        found.setdefault(rack, []).append(index)
    return found


async def test_s11_one_fault_on_a_fifth_of_a_pool_reboots_nobody() -> None:
    """Twenty of sixty-four nodes at once are an incident: tainted within the budget, and no ladder is climbed."""
    stage = Stage(nodes=64)
    for node in range(20):
        stage.break_gpu(node)
    await stage.play(60)
    assert stage.sim.machines.reboots == []
    assert stage.sim.gate.made("evict") == []
    assert any(w.startswith("Act taint") for w in stage.heard.words()), "taints are not held back"
    assert any(w.endswith("fleet-incident") for w in stage.heard.words())


async def test_s11_a_burst_of_warnings_that_a_policy_treats_is_an_incident() -> None:
    """What a site lets alert as a warning reboots nobody either when twenty of sixty-four nodes have it at once."""

    class Mild(PlayedAlerts):
        def _alerts(self) -> list[Alert]:
            return [replace(a, labels={**a.labels, "severity": "warning"}) for a in super()._alerts()]

    stage = Stage(nodes=64)
    stage.alerts = Mild(stage)
    stage.boot()
    for node in range(20):
        stage.break_gpu(node)
    await stage.play(30)
    assert stage.sim.machines.reboots == []
    assert stage.sim.gate.made("evict") == []
    assert any(w.endswith("fleet-incident") for w in stage.heard.words())


async def test_s11_three_nodes_of_a_rack_are_one_incident_and_a_person_releases_it() -> None:
    """Nodes of one rack have one cause; once a person has looked at the rack its nodes are healed again."""
    stage = Stage(nodes=64)
    rack, members = next(iter(nodes_by_rack(stage).items()))
    for node in members[:3]:
        stage.break_gpu(node)
    await stage.play(30)
    assert stage.sim.machines.reboots == []
    assert any(w.endswith("fleet-incident") for w in stage.heard.words())
    stage.cap(released=(f"rack/{rack}",))
    await stage.play(60)
    assert stage.sim.machines.reboots


async def test_s11_two_nodes_of_a_rack_are_healed() -> None:
    """Two faults in one rack are still two faults of nodes."""
    stage = Stage(nodes=64)
    members = next(iter(nodes_by_rack(stage).values()))
    for node in members[:2]:
        stage.break_gpu(node)
    await stage.play(60)
    assert stage.sim.machines.reboots


async def test_s11_a_scattered_true_burst_passes() -> None:
    """Faults in six racks at once, far below a fifth of the pool, are healed one after the other."""
    stage = Stage(nodes=128)
    for members in list(nodes_by_rack(stage).values())[:6]:
        stage.break_gpu(members[0])
    await stage.play(90)
    assert stage.sim.machines.reboots
    assert not any(w.endswith("fleet-incident") for w in stage.heard.words())


@pytest.mark.parametrize("fault", FLEET_FAULTS)
async def test_s11_what_the_rules_say_of_the_fleet_counts(fault: str) -> None:
    """Our own alert about a domain or the fleet stops the ladders of its nodes, and they go on when it ends."""
    stage = Stage(nodes=64, more_faults=FLEET_FAULTS)
    rack, members = next(iter(nodes_by_rack(stage).items()))
    stage.alerts.extra = (fleet_alert(stage, fault, **({"rack": rack} if fault.startswith("rack") else {})),)
    stage.break_gpu(members[0])
    said = await stage.play(20)
    assert said[-1].endswith("fleet-incident")
    assert stage.sim.machines.reboots == []
    stage.alerts.extra = ()
    assert (await stage.play(60, until="Done"))[-1] == "Done restored"


async def test_s11_old_faults_that_an_alert_tells_anew_are_no_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted Prometheus gives three old faults of a rack one new beginning: they stay three faults."""
    stage = Stage(nodes=64)
    stage.cap(paused="ann: wait")
    members = next(iter(nodes_by_rack(stage).values()))
    for node in members[:3]:
        stage.break_gpu(node)
        await stage.play(3)
        stage.sim.advance(timedelta(minutes=20))
        stage.advance(3)
    restarted_at, listed = stage.sim.now(), type(stage.alerts)._alerts

    def anew(self: Any) -> list[Alert]:
        return [replace(a, starts_at=max(a.starts_at, restarted_at)) for a in listed(self)]

    monkeypatch.setattr(type(stage.alerts), "_alerts", anew)
    stage.cap(paused="")
    await stage.play(60)
    assert stage.sim.machines.reboots
    assert not any(w.endswith("fleet-incident") for w in stage.heard.words())


async def test_s11_an_incident_ends_with_its_faults() -> None:
    """Nothing latches: when the faults of all but one node are over, that node is healed."""
    stage = Stage(nodes=64)
    members = next(iter(nodes_by_rack(stage).values()))
    names = [stage.break_gpu(node) for node in members[:3]]
    await stage.play(20)
    assert stage.sim.machines.reboots == []
    for name in names[1:]:
        stage.sim.fleet[name].cure("reboot")
        for key in [k for k in stage.latch.latched if k[0] == name]:
            del stage.latch.latched[key]
    await stage.play(90)
    assert [node for node, _ in stage.sim.machines.reboots] == [names[0]]


async def test_s19_a_pod_that_becomes_protected_while_a_drain_goes_on_stays() -> None:
    """Whether a pod may go is asked before its own eviction, in every pass."""
    stage = Stage(steps=[*LADDER[:2], {"drain": {"deadline": "30m"}}, *LADDER[3:]])
    name, sim = stage.names[0], stage.sim
    sim.workloads.deployment("web", replicas=1, nodes=(name,), min_available=1)
    stage.advance(3)
    stage.break_gpu(0)
    await stage.play(20)
    sim.workloads.bare_pod("postgres-by-hand", node=name, gpus=0)
    sim.cluster.protect["default/postgres-by-hand"] = "annotation gpu.health/do-not-evict"
    sim.workloads.budget("web", selector={"app": "web"}, min_available=0)
    await stage.play(20)
    assert "default/postgres-by-hand" not in [c.target for c in sim.gate.made("evict")]
    assert sim.machines.reboots == []


async def test_s19_two_drains_are_no_excuse_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two replicas on two nodes that are emptied in one round one stays: each drain sees what the other evicted."""
    stage = Stage(nodes=64)
    sim, ends = stage.sim, (stage.names[0], stage.names[40])
    sim.workloads.deployment("prometheus", replicas=2, gpus=0, nodes=ends)
    stage.advance(3)
    listed = sim.cluster.pods_on

    def serving(elsewhere: str) -> list[object]:
        return [
            raw
            for raw in sim.api.pods.values()
            if raw["metadata"]["labels"].get("app") == "prometheus"
            and "deletionTimestamp" not in raw["metadata"]
            and raw["spec"].get("nodeName") != elsewhere
            and any(c["type"] == "Ready" and c["status"] == "True" for c in raw["status"].get("conditions", ()))
        ]

    async def pods_on(node: str) -> tuple[Pod, ...]:
        """As the real adapter: the last serving replica of a vital application is protected."""
        found = await listed(node)
        seen = tuple(
            replace(p, protected="last running replica of prometheus")
            if p.labels.get("app") == "prometheus" and p.evictable and not serving(node)
            else p
            for p in found
        )
        await asyncio.sleep(0)  # the other drain lists its pods too before either has evicted one
        return seen

    monkeypatch.setattr(sim.cluster, "pods_on", pods_on)
    stage.break_gpu(0)
    stage.break_gpu(40)
    for _ in range(20):
        await stage.round()
        assert serving(""), "no Prometheus serves any more"
        stage.advance()
    assert sim.gate.made("evict"), "one of the two nodes is emptied"


async def stalled_close(stage: Stage, name: str) -> tuple[asyncio.Task[object], asyncio.Event, dict[str, bool]]:
    """Return a leader that hangs as it reads the node to close its case, how to let it go, and whether it leads."""
    leads = {"old": True}
    stage.engine.may_act = lambda: leads["old"]
    stage.sim.edit(name, lambda raw: raw["spec"].pop("unschedulable"))
    read, reached, go = stage.sim.cluster.node, asyncio.Event(), asyncio.Event()

    async def node(asked: str) -> Node | None:
        if not reached.is_set():
            reached.set()
            await go.wait()
        return await read(asked)

    stage.sim.cluster.node = node  # type: ignore[method-assign]
    task: asyncio.Task[object] = asyncio.create_task(stage.engine.round())
    await asyncio.wait_for(reached.wait(), 10)
    stage.sim.cluster.node = read  # type: ignore[method-assign]
    return task, go, leads


async def test_s22_a_leader_that_stalled_strips_nothing() -> None:
    """A replica that wakes up without the Lease while it closes a case leaves the next case's marks alone."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    task, go, leads = await stalled_close(stage, name)
    leads["old"] = False
    stage.boot()
    await stage.play(5)
    stage.sim.advance(timedelta(minutes=10))
    stage.advance(3)
    stage.break_gpu(0, 6)
    await stage.play(10)
    assert len(stage.cases()) == 2
    made = len(stage.sim.gate.made("mark"))
    marked = stage.sim.snapshot(name)
    go.set()
    await task
    assert len(stage.sim.gate.made("mark")) == made
    assert stage.sim.snapshot(name) == marked


async def test_s22_a_leader_that_stalled_leaves_closing_to_the_next() -> None:
    """Without the Lease it does not even take off the marks of its own case; whoever leads then does."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    task, go, leads = await stalled_close(stage, name)
    leads["old"] = False
    made = len(stage.sim.gate.calls)
    go.set()
    await task
    assert [c.method for c in stage.sim.gate.calls[made:] if c.method in {"mark", "set_conditions", "unlock"}] == []
    stage.boot()
    await stage.play(5)
    assert stage.only_case().closed_at is not None


async def test_s22_a_leader_that_stalled_and_still_leads_closes_only_its_own_case() -> None:
    """Whose record is on the node is asked on the node as it is when the marks are taken off."""
    stage = Stage()
    name = stage.break_gpu(0)
    await stage.play(until="Act condition")
    task, go, _ = await stalled_close(stage, name)
    stage.boot()
    await stage.play(5)
    stage.sim.advance(timedelta(minutes=10))
    stage.advance(3)
    stage.break_gpu(0, 6)
    await stage.play(10)
    marked = stage.sim.snapshot(name)
    go.set()
    await task
    assert stage.sim.snapshot(name) == marked


async def test_s11_an_incident_does_not_end_because_an_exporter_falls_silent() -> None:
    """It consists of its nodes' cases: an alert that goes away with its exporter frees no neighbour's ladder."""
    stage = Stage(nodes=16)
    names = [stage.break_gpu(n) for n in range(3)]
    await stage.play(30)
    assert stage.sim.machines.reboots == []
    key = next(k for k in stage.latch.latched if k[0] == names[0])
    del stage.latch.latched[key]
    stage.samples = {k: v for k, v in stage.samples.items() if k[0] != names[0]}
    await stage.play(60)
    assert stage.sim.machines.reboots == []
