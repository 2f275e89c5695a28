"""What a real Alertmanager of each generation does with our configuration: grouping, speed, failure, authentication."""

from __future__ import annotations

import urllib.request
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.rules.routes.conftest import HEARTBEAT, TOKEN, Start, alert
from tests.rules.routes.forms import FORMS
from tests.rules.routes.webhook import Webhook

from gpuheal_lab.servers.stack import wait_for

pytestmark = pytest.mark.servers


def names(webhook: Webhook, path: str) -> set[str]:
    """Every alertname that was accepted under a path."""
    return {name for delivery in webhook.accepted(path) for name in delivery.names}


@pytest.mark.parametrize("form", FORMS)
def test_a_message_holds_the_alerts_of_one_node(form: str, start: Start, webhook: Webhook) -> None:
    """Every message is one node's; the alerts of a node come together, nobody else's with them.

    A critical alert leaves without waiting for others: a node's first message may hold only one of the two.
    """
    manager = start(form)
    manager.post_alerts(
        [
            *(alert("GPUFellOffBus", node, gpu_uuid=f"GPU-{gpu}") for node in ("n1", "n2", "n3") for gpu in (0, 1)),
        ]
    )

    def whole() -> set[frozenset[str]]:
        return {frozenset(d.nodes) for d in webhook.accepted("/responder") if len(d.body["alerts"]) == 2}

    wait_for(lambda: len(whole()) >= 3, "a message with both alerts for each of three nodes")
    sent = webhook.accepted("/responder")
    assert {frozenset(delivery.nodes) for delivery in sent} == {frozenset({node}) for node in ("n1", "n2", "n3")}
    assert whole() == {frozenset({node}) for node in ("n1", "n2", "n3")}
    assert {tuple(sorted(delivery.body["groupLabels"])) for delivery in sent} == {("cluster", "node")}
    assert all(delivery.body["truncatedAlerts"] == 0 for delivery in sent)


@pytest.mark.parametrize("form", FORMS)
def test_a_critical_alert_leaves_at_once(form: str, start: Start, webhook: Webhook) -> None:
    """Of two alerts posted together the critical one is there first; the warning waits out its group_wait of 3 s."""
    manager = start(form)
    manager.post_alerts([alert("GPURowRemapPending", severity="warning"), alert("GPUFellOffBus")])
    wait_for(lambda: names(webhook, "/responder") == {"GPUFellOffBus", "GPURowRemapPending"}, "both alerts")
    critical, warning = webhook.accepted("/responder")[:2]
    assert (critical.names, warning.names) == (["GPUFellOffBus"], ["GPURowRemapPending"])
    assert warning.at - critical.at > 1.5


def test_a_second_critical_alert_of_a_node_follows_soon(start: Start, webhook: Webhook) -> None:
    """A further GPU of the same node is told at the next group interval, together with the first."""
    manager = start()
    manager.post_alerts([alert("GPUFellOffBus", gpu_uuid="GPU-0")])
    wait_for(lambda: webhook.accepted("/responder"), "the first")
    manager.post_alerts([alert("GPUFellOffBus", gpu_uuid="GPU-1")])
    wait_for(lambda: any(len(d.body["alerts"]) == 2 for d in webhook.accepted("/responder")), "both")


def test_resolved_is_told_to_the_responder(start: Start, webhook: Webhook) -> None:
    """An alert that ended arrives once more, marked resolved."""
    manager = start()
    began = datetime.now(UTC) - timedelta(minutes=1)
    manager.post_alerts([{**alert("GPUFellOffBus"), "startsAt": began.isoformat()}])
    wait_for(lambda: webhook.accepted("/responder"), "the alert")
    ended = {"startsAt": began.isoformat(), "endsAt": datetime.now(UTC).isoformat()}
    manager.post_alerts([{**alert("GPUFellOffBus"), **ended}])
    wait_for(lambda: webhook.accepted("/responder")[-1].body["status"] == "resolved", "its end")


@pytest.mark.parametrize("form", FORMS)
def test_the_token_goes_to_the_responder_and_to_nobody_else(form: str, start: Start, webhook: Webhook) -> None:
    """The file's content is sent as a bearer token with alerts and heartbeats, not to people nor to the dead man."""
    manager = start(form)
    manager.post_alerts([alert("GPUFellOffBus"), HEARTBEAT])
    wait_for(lambda: len(webhook.accepted("/responder")) >= 2, "alert and heartbeat")
    wait_for(lambda: webhook.accepted("/people") and webhook.accepted("/deadman"), "people and dead man")
    assert {delivery.token for delivery in webhook.deliveries("/responder")} == {f"Bearer {TOKEN}"}
    assert {delivery.token for delivery in webhook.deliveries("/people") + webhook.deliveries("/deadman")} == {""}


def test_a_redirect_is_not_followed(start: Start, webhook: Webhook) -> None:
    """An answer that points elsewhere gets neither the alert nor the token there."""
    webhook.status, webhook.location = 307, f"{webhook.url}/elsewhere"
    start(people_config={}).post_alerts([alert("GPUFellOffBus")])
    wait_for(lambda: len(webhook.deliveries("/responder")) >= 2, "a second try")
    assert webhook.deliveries("/elsewhere") == []


def test_a_responder_that_is_not_ready_gets_the_alert_later(start: Start, webhook: Webhook) -> None:
    """503 is tried again until it is accepted, with the alert still in it."""
    webhook.status = 503
    start().post_alerts([alert("GPUFellOffBus")])
    wait_for(lambda: len(webhook.deliveries("/responder")) >= 2, "a second try")
    webhook.status = 200
    wait_for(lambda: names(webhook, "/responder") == {"GPUFellOffBus"}, "the alert")


@pytest.mark.parametrize("form", FORMS)
def test_a_silent_responder_does_not_keep_anything_from_people(form: str, start: Start, webhook: Webhook) -> None:
    """With nothing listening for the responder, people get the fault and the alert about the broken path."""
    manager = start(form, webhook_url="http://127.0.0.1:9/responder")
    manager.post_alerts(
        [alert("GPUFellOffBus"), alert("GPUHealPipelineBroken", node="", fault="pipeline-broken", scope="fleet")]
    )
    wait_for(lambda: names(webhook, "/people") == {"GPUFellOffBus", "GPUHealPipelineBroken"}, "people to know")


def test_a_silent_responder_shows_in_alertmanager_s_own_numbers(start: Start, webhook: Webhook) -> None:
    """Failed webhook notifications are counted while the responder is away, under the label a rule can select."""
    manager = start(webhook_url="http://127.0.0.1:9/responder")

    def failed() -> float:
        with urllib.request.urlopen(f"{manager.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        ours = [line for line in lines if line.startswith("alertmanager_notifications_failed_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in ours if 'integration="webhook"' in line)

    before = failed()
    manager.post_alerts([alert("GPUFellOffBus")])
    # A flush gives up after the group interval or 10 s, whichever is longer; only then it counts as failed.
    wait_for(lambda: failed() > before, "the failure to be counted")


def test_alerts_about_the_responder_reach_people_only(start: Start, webhook: Webhook) -> None:
    """What the responder tells of itself does not come back to it."""
    start().post_alerts([alert("GPUHealEscalated", fault="escalated"), alert("GPUFellOffBus")])
    wait_for(lambda: names(webhook, "/people") == {"GPUHealEscalated", "GPUFellOffBus"}, "people to know")
    wait_for(lambda: webhook.accepted("/responder"), "the responder to be woken")
    assert names(webhook, "/responder") == {"GPUFellOffBus"}


def beats(webhook: Webhook, path: str) -> list[float]:
    """When heartbeats were accepted under a path."""
    return [delivery.at for delivery in webhook.accepted(path) if delivery.names == ["GPUHealWatchdog"]]


@pytest.mark.parametrize("form", FORMS)
def test_the_heartbeat_arrives_within_its_interval(form: str, start: Start, webhook: Webhook) -> None:
    """Four beats come, each within its interval of 2 s after the one before; none falls out."""
    start(form).post_alerts([HEARTBEAT])
    for path in ("/responder", "/deadman"):
        wait_for(lambda path=path: len(beats(webhook, path)) >= 4, "four beats")  # type: ignore[misc]
        times = beats(webhook, path)
        gaps = [after - before for before, after in pairwise(times)]
        assert max(gaps) < 3.5, gaps  # a beat that fell out would make a gap of 4 s
    assert all(name != "GPUHealWatchdog" for name in names(webhook, "/people"))


def test_every_prometheus_beats_on_its_own(start: Start, webhook: Webhook) -> None:
    """Two Prometheus servers give two messages, so that the silence of one is not covered by the other."""
    other = {"labels": {**HEARTBEAT["labels"], "cluster": "c2"}}
    start().post_alerts([HEARTBEAT, other])
    wait_for(lambda: len(beats(webhook, "/responder")) >= 2, "two beats")
    assert all(len(delivery.body["alerts"]) == 1 for delivery in webhook.accepted("/responder"))


def test_the_heartbeat_stops_when_prometheus_does(start: Start, webhook: Webhook) -> None:
    """Once nobody sends the watchdog any more, responder and dead man hear nothing, not even a resolved."""
    manager = start()
    soon = datetime.now(UTC) + timedelta(seconds=3)
    manager.post_alerts([{**HEARTBEAT, "startsAt": datetime.now(UTC).isoformat(), "endsAt": soon.isoformat()}])
    wait_for(lambda: beats(webhook, "/deadman"), "a beat")
    wait_for(lambda: not _firing(manager.get("/api/v2/alerts")), "the end of the heartbeat")
    # The next flush of the group would be within 2 s; an alert that comes later shows that Alertmanager still works.
    manager.post_alerts([alert("GPUFellOffBus"), alert("GPURowRemapPending", severity="warning")])
    wait_for(lambda: "GPURowRemapPending" in names(webhook, "/responder"), "a later alert, 3 s on")
    late = [
        at for at in beats(webhook, "/deadman") + beats(webhook, "/responder") if at > _at(webhook, "GPUFellOffBus")
    ]
    assert late == []
    heard = [delivery for delivery in webhook.deliveries("/") if delivery.names == ["GPUHealWatchdog"]]
    assert {delivery.body["status"] for delivery in heard} == {"firing"}


def _firing(alerts: list[dict[str, Any]]) -> bool:
    return any(found["labels"]["alertname"] == "GPUHealWatchdog" for found in alerts)


def _at(webhook: Webhook, name: str) -> float:
    return min(delivery.at for delivery in webhook.accepted("/responder") if name in delivery.names) + 2.0
