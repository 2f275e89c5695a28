"""What our own reboot does to the evidence neither stops nor reopens a case; what is really new does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from tests.integration.story.conftest import Playing
from tests.integration.story.play import CLUSTER, FAULT, LADDER, Play, assert_as_before, pause, steps_of

from gpuheal_lab.fleet.machine import Power, Timings, fell_off_bus
from gpuheal_lab.servers.process import LabError
from gpuheal_lab.servers.stack import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

NODE_DOWN = "KubeNodeNotReady"
SLOW_BOOT = Timings(boot=timedelta(seconds=15))
QUIET_S = 6.0


def test_our_own_reboot_neither_blocks_nor_reopens(playing: Playing) -> None:
    """NotReady, silent exporters, and the alert inhibited by a stock NotReady alert: one case, restored, no second."""
    play = playing(timings=SLOW_BOOT)
    name = play.node()
    before = play.settled(name)
    _inhibit(play)
    play.break_gpu()
    play.wait_step(name, "reboot")

    machine = play.fleet.simulation.fleet[name]
    wait_for(lambda: machine.power is Power.DOWN, "the machine to go down")
    _say(play, {"alertname": NODE_DOWN, "node": name, "severity": "critical"})
    play.plane.wait_until_ready(name, ready=False, deadline_s=20)
    wait_for(lambda: play.path.prometheus.query(f'up{{node="{name}"}} == 1') == [], "the exporters to be silent", 20)
    wait_for(lambda: all(a["status"]["state"] == "suppressed" for a in _alerts(play, name)), "the inhibition", 20)
    assert steps_of(play.wait_step(name, "reboot"))[-1] == "reboot running"

    play.wait_closed(name)
    assert_as_before(play, name, before)
    pause(QUIET_S)
    assert len(play.remediations()) == 1
    assert len(play.jobs(name)) == 1
    assert "taints" not in play.raw(name)["spec"]


def test_lingering_evidence_does_not_climb_the_ladder(playing: Playing) -> None:
    """An alert that another sender keeps alive through reboot, proof and after: proven, restored, not opened again."""
    play = playing()
    name = play.node()
    before = play.settled(name)
    play.break_gpu()
    play.wait_step(name, "reboot")
    gpu = play.fleet.simulation.specs[name].gpus[3].uuid
    stale = {"alertname": "GPUFellOffBus", "fault": FAULT, "severity": "critical", "node": name, "gpu_uuid": gpu}
    _say(play, stale | {"cluster": CLUSTER, "namespace": "gpuheal", "prometheus": "lagging"})

    play.wait_step(name, "verify", "succeeded")
    assert any(a["labels"].get("prometheus") == "lagging" for a in _alerts(play, name))
    closed = play.wait_closed(name)
    assert steps_of(closed)[-4:] == ["reboot succeeded", "verify succeeded", "probation succeeded", "restore succeeded"]
    assert_as_before(play, name, before)
    pause(QUIET_S)
    assert any(a["labels"].get("prometheus") == "lagging" for a in _alerts(play, name)), "it lingers still"
    assert len(play.remediations()) == len(play.jobs(name)) == 1


def test_a_second_real_fault_after_the_reboot_goes_to_people(playing: Playing) -> None:
    """The GPU falls off the bus again in the new boot: verify fails, people are called, the node stays contained."""
    play = playing()
    name = play.node()
    play.break_gpu(fault=fell_off_bus(relapse_after=timedelta(seconds=1)))
    ended = play.wait_case(name, lambda s: s.get("escalated"), "the case to be escalated")
    assert ended["status"]["escalated"] == "fault-again"
    assert "verify failed" in steps_of(ended) or "probation failed" in steps_of(ended)
    pause(QUIET_S)
    node = play.raw(name)
    assert node["spec"]["unschedulable"] is True
    assert "gpu.health/unhealthy" in {t["key"] for t in node["spec"]["taints"]}
    assert len(play.jobs(name)) == 1


def test_a_second_real_fault_climbs_to_the_next_cure_and_its_cooldown(playing: Playing) -> None:
    """With a second reboot on the ladder the case climbs to it, and the guard of history holds it back by name."""
    steps = [*LADDER[:5], {"reboot": {"provider": "job", "deadline": "2m"}}, *LADDER[5:]]
    play = playing(steps=steps)
    name = play.node()
    play.break_gpu(fault=fell_off_bus(relapse_after=timedelta(seconds=1)))
    play.wait_blocked(name, "held", "reboot-2", "cooldown")
    pause(QUIET_S)
    assert len(play.jobs(name)) == 1
    assert len(play.remediations()) == 1


def _inhibit(play: Play) -> None:
    """Alertmanager mutes everything about a node that is not Ready, as stock kube-prometheus configurations do."""
    path = play.path.alertmanager.folder / "alertmanager.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    rule = {"source_matchers": [f"alertname={NODE_DOWN}"], "target_matchers": ['fault=~".+"'], "equal": ["node"]}
    play.path.alertmanager.reload(config=yaml.safe_dump(config | {"inhibit_rules": [rule]}))


def _say(play: Play, labels: Mapping[str, str]) -> None:
    """Alertmanager has the alert for the next ten minutes."""
    now = datetime.now(UTC)
    alert = {"labels": dict(labels), "annotations": {"summary": "played"}}
    times = {"startsAt": now.isoformat(), "endsAt": (now + timedelta(minutes=10)).isoformat()}
    play.path.alertmanager.post_alerts([alert | times])


def _alerts(play: Play, name: str) -> list[dict[str, Any]]:
    """What Alertmanager has about faults of the node."""
    try:
        found = play.path.alertmanager.alerts()
    except LabError:
        return []
    return [a for a in found if a["labels"].get("node") == name and a["labels"].get("fault") == FAULT]
