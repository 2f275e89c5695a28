"""Asking Alertmanager peers: what counts as an answer, and what a peer's trouble looks like."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.responder.shell.scripted import NOW, MakeScript, Script, StillClock, no_problem

from gpuheal_responder.config.settings import AlertmanagerPeer, BasicAuth
from gpuheal_responder.core.alert import Matcher, Peer, Silence
from gpuheal_responder.core.faults import fold
from gpuheal_responder.shell.sources.alertmanager import AlertmanagerAlerts

STATUS = {"uptime": "2026-03-01T11:00:00.123456789Z", "cluster": {"status": "ready"}, "versionInfo": {}}
ALERT = {
    "fingerprint": "0123456789abcdef",
    "labels": {"alertname": "GPUFellOffBus", "fault": "gpu-fell-off-bus", "node": "n1"},
    "annotations": {},
    "startsAt": "2026-03-01T11:50:00.123456789Z",
    "updatedAt": "2026-03-01T11:59:00Z",
    "endsAt": "2026-03-01T12:04:00Z",
    "status": {"state": "active", "silencedBy": [], "inhibitedBy": []},
}
SILENCED = {
    **ALERT,
    "status": {"state": "suppressed", "silencedBy": ["s1"], "inhibitedBy": ["f2"], "mutedBy": ["night"]},
}


def peer_at(url: str) -> AlertmanagerPeer:
    """Settings of a peer that is asked with a short deadline."""
    return AlertmanagerPeer(url=url, timeout=timedelta(seconds=0.5), settle=timedelta(minutes=2))


async def ask(*peers: AlertmanagerPeer) -> tuple[Peer, ...]:
    """Ask the peers once."""
    alerts = AlertmanagerAlerts(peers, clock=StillClock(), on_problem=no_problem)
    try:
        return await alerts.peers()
    finally:
        await alerts.close()


async def answering(make_script: MakeScript, alerts: object = (ALERT,), status: object = STATUS) -> Script:
    """Return a peer that answers with these alerts."""
    script = await make_script()
    script.answers = {"/api/v2/alerts": alerts, "/api/v2/status": status, "/api/v2/silences": []}
    return script


async def test_an_active_alert_is_read_whole(make_script: MakeScript) -> None:
    """Labels, times (nanoseconds cut) and state arrive; mutedBy may be missing, as in 0.25."""
    script = await answering(make_script)
    (peer,) = await ask(peer_at(script.url))
    (alert,) = peer.alerts
    assert peer.answered
    assert not peer.settling
    assert alert.labels["node"] == "n1"
    assert alert.starts_at == NOW.replace(hour=11, minute=50, microsecond=123456)
    assert not alert.suppressed
    assert alert.muted_by == ()


async def test_only_our_alerts_are_asked_for(make_script: MakeScript) -> None:
    """Alertmanager filters by the label fault; suppressed alerts are wanted too."""
    script = await answering(make_script)
    await ask(peer_at(script.url))
    asked = {path: fields for path, fields, _ in script.asked}
    assert asked["/api/v2/alerts"] == {
        "filter": ['fault=~".+"'],
        "active": ["true"],
        "silenced": ["true"],
        "inhibited": ["true"],
    }


ACTIVE = {
    "id": "s1",
    "createdBy": "ada",
    "comment": "rack move",
    "status": {"state": "active"},
    "matchers": [
        {"name": "fault", "value": ".+", "isRegex": True, "isEqual": True},
        {"name": "node", "value": "n1", "isRegex": False},
    ],
}


async def test_who_silenced_is_read(make_script: MakeScript) -> None:
    """Every silence in force comes with author, comment and matchers; those that ended or are to come are left out.

    `isEqual` is true where an old Alertmanager leaves it out.
    """
    script = await answering(make_script, (SILENCED,))
    others = [{**ACTIVE, "id": "s2", "status": {"state": state}} for state in ("expired", "pending")]
    script.answers["/api/v2/silences"] = [ACTIVE, *others]
    (peer,) = await ask(peer_at(script.url))
    matchers = (Matcher(name="fault", value=".+", is_regex=True), Matcher(name="node", value="n1"))
    assert peer.silences == (Silence(id="s1", created_by="ada", comment="rack move", matchers=matchers),)
    (alert,) = peer.alerts
    assert alert.suppressed
    assert (alert.silenced_by, alert.inhibited_by, alert.muted_by) == (("s1",), ("f2",), ("night",))


async def test_s06_a_silence_is_read_without_an_alert(make_script: MakeScript) -> None:
    """It stands there although nothing fires, its texts on one line and cut: they go into our records."""
    script = await answering(make_script, ())
    script.answers["/api/v2/silences"] = [{**ACTIVE, "comment": "a\x1b[31m\n" + "x" * 10_000}]
    (peer,) = await ask(peer_at(script.url))
    (silence,) = peer.silences
    assert silence.comment.isprintable()
    assert len(silence.comment) <= 200


@pytest.mark.parametrize(("seconds", "heard"), [(-7, False), (-5, True), (0, True), (5, True), (6, False)])
async def test_s10_a_peer_whose_clock_is_off_is_not_relied_on(
    make_script: MakeScript, seconds: int, heard: bool
) -> None:
    """Beyond 5 s (and the second that the header Date cuts off) it counts as settling, and says why."""
    script = await answering(make_script)
    script.date = NOW + timedelta(seconds=seconds)
    (peer,) = await ask(peer_at(script.url))
    assert peer.answered
    assert peer.settling is not heard
    assert peer.problem == ("" if heard else f"its clock is off by {seconds:+}s")


@pytest.mark.parametrize(
    ("path", "body", "status", "problem"),
    [
        ("/api/v2/alerts", b"busy", 503, "HTTP 503: busy"),
        ("/api/v2/status", b"{}", 200, "invalid response to /api/v2/status: KeyError"),
        ("/api/v2/alerts", b"[{", 200, "invalid response to /api/v2/alerts: JSONDecodeError"),
        ("/api/v2/alerts", b'{"status": "success"}', 200, "expected a list, got dict"),
        ("/api/v2/alerts", b'[{"fingerprint": "x"}]', 200, "KeyError"),
        ("/api/v2/alerts", b'["x"]', 200, "TypeError"),
        ("/api/v2/status", b'{"uptime": "0001-01-01T00:00:00+14:00", "cluster": {"status": "ready"}}', 200, "Overflow"),
        ("/api/v2/silences", b'[{"status": {"state": "active"}, "matchers": [{}]}]', 200, "KeyError"),
        ("/api/v2/alerts", b"", 302, "HTTP 302"),
    ],
)
async def test_a_bad_answer_is_the_peers_problem(
    make_script: MakeScript, path: str, body: bytes, status: int, problem: str
) -> None:
    """503 (too many GETs), a wrong shape, no JSON: that peer did not answer, and says why."""
    script = await answering(make_script)
    script.answers[path] = body
    script.statuses[path] = status
    (peer,) = await ask(peer_at(script.url))
    assert not peer.answered
    assert problem in peer.problem
    assert peer.alerts == ()


async def test_a_hanging_peer_does_not_hide_the_other(make_script: MakeScript) -> None:
    """Peers are asked in parallel with a deadline each: one that hangs is silent, one that answers is heard."""
    hanging, well = await answering(make_script), await answering(make_script)
    hanging.stuck.add("/api/v2/alerts")
    first, second = await ask(peer_at(hanging.url), peer_at(well.url))
    assert (first.answered, first.problem) == (False, "no response within 0.5s")
    assert second.answered


async def test_nobody_listening_is_the_peers_problem() -> None:
    """A refused connection never raises."""
    (peer,) = await ask(peer_at("http://127.0.0.1:1"))
    assert not peer.answered
    assert "ClientConnectorError" in peer.problem


@pytest.mark.parametrize(
    ("started", "cluster", "settling"),
    [
        ("11:59:00", "ready", True),
        ("11:57:00", "ready", False),
        ("11:00:00", "settling", True),
        ("11:00:00", "disabled", False),
    ],
)
async def test_a_fresh_or_gossiping_peer_is_settling(
    make_script: MakeScript, started: str, cluster: str, settling: bool
) -> None:
    """Until Prometheus has sent everything again, inhibition of a fresh peer is empty: it counts as settling."""
    status = {"uptime": f"2026-03-01T{started}Z", "cluster": {"status": cluster}}
    script = await answering(make_script, status=status)
    (peer,) = await ask(peer_at(script.url))
    assert (peer.answered, peer.settling) == (True, settling)


async def test_a_name_stands_for_all_its_addresses(make_script: MakeScript) -> None:
    """With `resolve` every address of the name is a peer of its own, asked under the name."""
    script = await answering(make_script)
    port = script.url.rsplit(":", 1)[1]
    peers = await ask(replace(peer_at(f"http://localhost:{port}"), resolve=True))
    answered = [p for p in peers if p.answered]
    assert [p.name for p in answered] == [f"127.0.0.1:{port}"]
    assert script.asked[0][2]["Host"] == f"localhost:{port}"


async def test_a_name_without_addresses_is_a_silent_peer() -> None:
    """A name that can't be resolved is one peer that does not answer: nobody is assumed to be fine."""
    (peer,) = await ask(replace(peer_at("http://peer.invalid:9093"), resolve=True))
    assert not peer.answered
    assert "cannot be resolved" in peer.problem


async def test_secrets_come_from_files_and_may_change(make_script: MakeScript, tmp_path: Path) -> None:
    """A bearer token is read again after its file changed; a basic password comes from its file."""
    secret = tmp_path / "token"
    secret.write_text("first\n")
    script = await answering(make_script)
    alerts = AlertmanagerAlerts(
        [replace(peer_at(script.url), bearer_token_file=secret)], clock=StillClock(), on_problem=no_problem
    )
    await alerts.peers()
    secret.write_text("second, longer\n")
    await alerts.peers()
    await alerts.close()
    shown = [headers["Authorization"] for path, _, headers in script.asked if path == "/api/v2/alerts"]
    assert shown == ["Bearer first", "Bearer second, longer"]
    script.asked.clear()
    await ask(replace(peer_at(script.url), basic_auth=BasicAuth(username="ann", password_file=secret)))
    assert script.asked[0][2]["Authorization"] == "Basic YW5uOnNlY29uZCwgbG9uZ2Vy"


async def test_a_path_prefix_is_kept(make_script: MakeScript) -> None:
    """An Alertmanager under --web.route-prefix is asked under it."""
    script = await make_script()
    script.answers = {"/am/api/v2/alerts": [], "/am/api/v2/status": STATUS, "/am/api/v2/silences": []}
    (peer,) = await ask(peer_at(script.url + "/am/"))
    assert peer.answered


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "0000-01-01T00:00:00Z"])
async def test_s05_an_alert_of_an_impossible_time_makes_no_peer_unreadable(make_script: MakeScript, at: str) -> None:
    """Anybody may post one: it is told as a dead letter by itself, and all other alerts count."""
    labels = {"alertname": "A", "fault": "gpu-fell-off-bus", "node": "n1", "severity": "critical"}
    odd = {**ALERT, "fingerprint": "f1", "startsAt": at, "labels": labels}
    script = await answering(make_script, [odd, ALERT])
    (peer,) = await ask(peer_at(script.url))
    assert peer.answered
    assert [a.fingerprint for a in peer.alerts] == ["f1", ALERT["fingerprint"]]
    intake = fold((peer,), cluster="", known_faults={"gpu-fell-off-bus"}, known_nodes={"n1"})
    assert [d.fingerprint for d in intake.dead if d.reason == "unusable-time"] == ["f1"]
