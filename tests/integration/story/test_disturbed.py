"""Deliveries go astray, servers restart, the API server refuses: the same end."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Sequence

import pytest
from tests.integration.cluster.proxy import is_list
from tests.integration.story import relay, work
from tests.integration.story.conftest import Playing
from tests.integration.story.door import Refuse
from tests.integration.story.play import FAULT, Play, assert_as_before, steps_of
from tests.integration.story.test_whole import STEPS

from gpuheal_lab.demo.pipeline import alert_of
from gpuheal_lab.servers.stack import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CARRIERS: dict[str, Callable[[], relay.Carrier]] = {
    "lost": lambda: relay.lost,
    "doubled": lambda: relay.doubled,
    "late": lambda: relay.late,
    "reordered": relay.reordered,
}


def test_deliveries_lost_doubled_late_or_reordered_end_the_same(playing: Playing) -> None:
    """Whatever becomes of the webhook's messages, each of four faults ends in a restored node and one reboot."""
    play = playing(nodes=2 * len(CARRIERS))
    for index in range(
        2 * len(CARRIERS)
    ):  # a pool of two for each fault: one pool may have one node tainted in a while
        pool = {"metadata": {"labels": {"gpu.health/pool": f"pool-{index // 2}"}}}
        play.plane.admin.patch(f"/api/v1/nodes/{play.node(index)}", pool)
    for index, (kind, make) in zip(range(0, 2 * len(CARRIERS), 2), CARRIERS.items(), strict=True):
        play.relay.carry = make()
        carried = len(play.relay.deliveries)
        name = play.node(index)
        before = play.settled(name)
        play.break_gpu(index)
        _ended_well(play, name, before, [step for step in STEPS if step != "drain"])  # nobody is there to leave
        assert len(play.relay.deliveries) > carried, f"{kind}: nothing was delivered at all"
    assert len(play.remediations()) == len(CARRIERS)


def test_alertmanager_killed_in_the_middle_ends_the_same(playing: Playing) -> None:
    """kill -9 of Alertmanager in the drain and in verify; dropped notifications freeze, by name; then the same end.

    A Prometheus with an empty volume stands for the minutes until the drop is forgotten.
    """
    play = playing(settle="8s", blind=True)
    name = play.node()
    before = _in_a_long_drain(play, name)
    _kill(play.path.alertmanager)
    if _dropped(play, name):
        _forget(play)
    _let_go(play, name)
    play.wait_case(name, lambda s: any(a["step"] == "verify" for a in s.get("attempts", ())), "verify to begin")
    _kill(play.path.alertmanager)
    wait_for(lambda: _frozen_or_closed(play, name), "the pipeline to be told frozen, or nothing to be dropped")
    _forget(play)
    _ended_well(play, name, before)
    assert len(play.remediations()) == 1


def test_prometheus_killed_in_the_middle_ends_the_same(playing: Playing) -> None:
    """kill -9 of Prometheus while the node drains and again while it reboots: one case, one reboot, restored.

    A killed Prometheus leaves no end of series behind: those of the old boot are seen until its look-back is over, five
    minutes by default, for which verify waits. Here it looks back 15 s.
    """
    play = playing(settle="8s", blind=True)
    play.path.prometheus.child.argv.append("--query.lookback-delta=15s")
    name = play.node()
    before = _in_a_long_drain(play, name)
    _kill(play.path.prometheus)
    _let_go(play, name)
    play.wait_step(name, "reboot")
    _kill(play.path.prometheus)
    _ended_well(play, name, before)
    assert len(play.remediations()) == 1


def test_an_api_server_that_refuses_everything_once_ends_the_same(playing: Playing) -> None:
    """Every kind of changing request is refused once (409, 429, 500) or its answer is lost; lists fail too."""
    play = playing(door=True)
    assert play.door is not None
    name = play.node()
    namespace = work.put(play)
    before = play.settled(name)
    victims = {f"evict {namespace}/{p['metadata']['name']}" for p in work.pods(play, namespace, name)}
    refusals = itertools.cycle([Refuse(500), Refuse(429), Refuse(409), Refuse(500, after=True), Refuse(0, after=True)])
    given: dict[str, Refuse] = {}

    def judge(label: str) -> Refuse | None:
        if label in given:
            return None
        refusal = next(refusals)
        if refusal.status == 409 and label == "job":
            refusal = Refuse(503)  # to a create, 409 would say that the Job is there
        given[label] = refusal
        return refusal

    play.door.judge = judge
    play.door.fail(is_list, 500, 2)
    play.door.fail(lambda request: request.method == "GET" and request.path.endswith(name), 429, 2, Retry_After="1")
    play.break_gpu()
    _ended_well(play, name, before)
    assert {r.status for r in given.values()} >= {0, 409, 429, 500}
    assert {label: n for label, n in play.door.done.items() if label.startswith("evict")} == dict.fromkeys(victims, 1)
    assert len(play.remediations()) == play.door.done["job"] == 1


def _in_a_long_drain(play: Play, name: str) -> dict[str, object]:
    """The node drains and cannot go on, since a budget lets nobody leave; returns what it was before."""
    namespace = work.put(play)
    before = play.settled(name)
    guard = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{work.APP}"
    play.plane.admin.patch(guard, {"spec": {"minAvailable": 2}})
    play.break_gpu()
    play.wait_case(name, lambda s: "eviction-blocked" in str(s.get("attempts", "")), "the drain to be blocked")
    return before


def _let_go(play: Play, name: str) -> None:
    guard = f"/apis/policy/v1/namespaces/work-{name}/poddisruptionbudgets/{work.APP}"
    play.plane.admin.patch(guard, {"spec": {"minAvailable": 1}})


def _dropped(play: Play, name: str) -> bool:
    """Whether a notification was lost, known once Alertmanager has the alert again and Prometheus has counted."""
    wait_for(lambda: alert_of(play.path.alertmanager, node=name, fault=FAULT), "the alert to be sent again")
    counter = "prometheus_notifications_dropped_total"
    asked = time.time()
    wait_for(lambda: play.path.prometheus.query(f"timestamp({counter}) > {asked}"), "the count of lost notifications")
    return bool(play.path.prometheus.query(f"{counter} > 0"))


def _forget(play: Play) -> None:
    """Prometheus begins anew with an empty volume: no notification was ever lost."""
    play.path.prometheus.kill()
    shutil.rmtree(play.path.prometheus.folder / "data")
    play.path.prometheus.start()


def _frozen_or_closed(play: Play, name: str) -> bool:
    status = (play.case(name) or {}).get("status", {})
    return bool(status.get("closedAt")) or "notifications-dropped" in str(status.get("blockedBy"))


def _kill(server: object) -> None:
    server.kill()  # type: ignore[attr-defined]
    server.start()  # type: ignore[attr-defined]


def _ended_well(play: Play, name: str, before: dict[str, object], steps: Sequence[str] = STEPS) -> None:
    closed = play.wait_closed(name, deadline_s=90)
    assert steps_of(closed) == [f"{step} succeeded" for step in steps]
    assert_as_before(play, name, before)
    assert len(play.jobs(name)) == 1
    locks = "/apis/coordination.k8s.io/v1/namespaces/medik8s-leases/leases"
    wait_for(lambda: not play.plane.admin.list(locks), "the node's lock to be given back")
