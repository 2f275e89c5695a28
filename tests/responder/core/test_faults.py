"""Alerts of several peers folded into faults and dead letters."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuheal_responder.core.alert import Alert, Peer, Scope, Severity, Silence, SuppressionKind
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.faults import (
    LONGEST_NAME,
    LONGEST_SAID,
    MOST_DEAD,
    MOST_FAULTS,
    MOST_INCIDENTS,
    MOST_SUPPRESSIONS,
    fold,
)
from gpuheal_responder.shell.record import dump_case, load_case

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {
    "alertname": "GPUFellOffBus",
    "fault": "gpu-fell-off-bus",
    "severity": "critical",
    "node": "n1",
    "gpu_uuid": "GPU-1",
    "cluster": "c",
}
ALERT = Alert(fingerprint="f1", labels=LABELS, starts_at=NOW, updated_at=NOW)


def folded(*peers: Peer, cluster: str = "c"):  # type: ignore[no-untyped-def]
    """Return the intake of these peers."""
    return fold(peers, cluster=cluster, known_faults={"gpu-fell-off-bus"}, known_nodes={"n1"})


def peer(name: str, *alerts: Alert, **more: object) -> Peer:
    """Return a peer that answers with these alerts."""
    return Peer(name=name, answered=True, alerts=alerts, **more)  # type: ignore[arg-type]


def test_s05_alerts_of_several_clusters_are_trusted_of_none_where_ours_is_not_named() -> None:
    """Nodes of two clusters can have one name: without the setting, alerts of two clusters are all dead letters."""
    other = replace(ALERT, fingerprint="f2", labels=LABELS | {"cluster": "d", "node": "n9"})
    nameless = replace(ALERT, fingerprint="f3", labels={k: v for k, v in LABELS.items() if k != "cluster"})
    assert folded(peer("a", ALERT), peer("b", ALERT), cluster="").faults.keys() == {"n1"}
    intake = folded(peer("a", ALERT, nameless), peer("b", other), cluster="")
    assert intake.faults == {}
    assert [d.reason for d in intake.dead] == ["cluster-mismatch"] * 3
    assert all("setting `cluster` is missing" in d.detail for d in intake.dead)
    assert folded(peer("a", ALERT), peer("b", other), cluster="c").faults.keys() == {"n1"}
    beats = [replace(BEAT, fingerprint=c, labels=BEAT.labels | {"cluster": c}) for c in ("c", "d")]
    intake = folded(peer("a", *beats), cluster="")
    assert intake.watchdog_at is None
    assert {d.alertname for d in intake.dead} == {"GPUHealWatchdog"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cluster": "other"}, "cluster-mismatch"),
        ({"fault": "gpu-on-fire"}, "unknown-fault"),
        ({"severity": "page"}, "unknown-severity"),
        ({"node": ""}, "no-node"),
        ({"node": "n9"}, "unknown-node"),
        ({"gpu_uuid": "GPU-1\n"}, "unusable-label"),
        ({"gpu_uuid": "GPU-" + "1" * 200}, "unusable-label"),
        ({"xid": "79; reboot"}, "unusable-label"),
        ({"xid": "7" * 20}, "unusable-label"),
        ({"alertname": "A" * 4096}, "unusable-label"),
        ({"alertname": "A\x00"}, "unusable-label"),
    ],
)
def test_a_useless_alert_is_a_dead_letter(change: dict[str, str], reason: str) -> None:
    """Each way an alert can be useless has its own reason."""
    intake = folded(peer("a", replace(ALERT, labels=LABELS | change)))
    assert [d.reason for d in intake.dead] == [reason]
    assert intake.faults == {}


def test_a_missing_cluster_label_is_refused_when_we_have_a_cluster() -> None:
    """An alert without the label could be anybody's."""
    labels = {k: v for k, v in LABELS.items() if k != "cluster"}
    assert [d.reason for d in folded(peer("a", replace(ALERT, labels=labels))).dead] == ["cluster-mismatch"]
    assert folded(peer("a", replace(ALERT, labels=labels)), cluster="").faults


def test_peers_are_merged_and_every_suppression_counts() -> None:
    """The earliest start wins; one peer's silence is enough to be silenced, and tells who."""
    later = replace(ALERT, starts_at=NOW + timedelta(minutes=1), suppressed=True, silenced_by=("s1",))
    silence = Silence(id="s1", created_by="ann", comment="moving racks")
    intake = folded(peer("a", ALERT), peer("b", later, silences=(silence,)))
    (fault,) = intake.faults["n1"]
    assert fault.since == NOW
    assert [(s.kind, s.by, s.peer) for s in fault.suppressions] == [(SuppressionKind.SILENCE, "ann: moving racks", "b")]


def test_an_unexplained_suppression_counts_as_a_silence() -> None:
    """State suppressed without a reason still holds."""
    (fault,) = folded(peer("a", replace(ALERT, suppressed=True))).faults["n1"]
    assert [s.by for s in fault.suppressions] == ["unknown"]


def test_inhibition_and_mutes_are_kept_apart() -> None:
    """In flight only a person's silence counts, so the kinds must not blur."""
    alert = replace(ALERT, suppressed=True, inhibited_by=("f9",), muted_by=("night",))
    (fault,) = folded(peer("a", alert)).faults["n1"]
    assert {s.kind for s in fault.suppressions} == {SuppressionKind.INHIBITION, SuppressionKind.MUTE}


@pytest.mark.parametrize("scope", ["fleet", "domain"])
def test_an_alert_about_no_node_is_an_incident(scope: str) -> None:
    """It is no fault of a node and no mistake: it says how far it reaches, where, since when, and who silenced it."""
    labels = {k: v for k, v in LABELS.items() if k != "node"} | {"scope": scope, "rack": "r1", "junk": "x"}
    later = replace(ALERT, labels=labels, starts_at=NOW + timedelta(minutes=1), silenced_by=("s1",))
    silence = Silence(id="s1", created_by="ann", comment="")
    intake = folded(peer("a", replace(ALERT, labels=labels)), peer("b", later, silences=(silence,)))
    assert intake.faults == {}
    assert intake.dead == ()
    (incident,) = intake.wide
    assert (incident.slug, incident.scope, incident.labels) == ("gpu-fell-off-bus", Scope(scope), {"rack": "r1"})
    assert (incident.since, incident.severity) == (NOW, Severity.CRITICAL)
    assert [(s.by, s.peer) for s in incident.suppressions] == [("ann", "b")]


def test_two_racks_are_two_incidents() -> None:
    """What an incident is about tells it from others of its kind; odd or foreign ones are dead letters."""
    wide = {k: v for k, v in LABELS.items() if k != "node"} | {"scope": "domain"}
    racks = [replace(ALERT, fingerprint=rack, labels=wide | {"rack": rack}) for rack in ("r2", "r1", "r\n3", "r" * 300)]
    foreign = replace(ALERT, fingerprint="o", labels=wide | {"cluster": "other"})
    unknown = replace(ALERT, fingerprint="u", labels=wide | {"fault": "rack-on-fire"})
    intake = folded(peer("a", *racks, foreign, unknown))
    assert [i.labels["rack"] for i in intake.wide] == ["r1", "r2"]
    assert [d.reason for d in intake.dead] == ["unusable-label"] * 2 + ["cluster-mismatch", "unknown-fault"]


BEAT = Alert(
    fingerprint="w",
    labels={"alertname": "GPUHealWatchdog", "fault": "watchdog", "cluster": "c"},
    starts_at=NOW,
    updated_at=NOW,
)


def test_the_watchdog_is_no_fault_but_a_heartbeat() -> None:
    """Its newest update over all answering peers is kept."""
    newer = replace(BEAT, updated_at=NOW + timedelta(seconds=5))
    intake = folded(peer("a", BEAT), peer("b", newer))
    assert intake.watchdog_at == NOW + timedelta(seconds=5)
    assert intake.faults == {}
    assert intake.dead == ()


def test_s10_the_watchdog_of_another_cluster_is_not_ours() -> None:
    """On a shared Alertmanager others beat on when ours is dead; one without a cluster is told, for it may be ours."""
    other = replace(BEAT, labels=BEAT.labels | {"cluster": "staging"})
    nobody = replace(BEAT, labels={k: v for k, v in BEAT.labels.items() if k != "cluster"})
    assert folded(peer("a", other)).watchdog_at is None
    assert folded(peer("a", other)).dead == ()
    assert folded(peer("a", nobody)).watchdog_at is None
    assert [d.reason for d in folded(peer("a", nobody)).dead] == ["cluster-mismatch"]
    assert folded(peer("a", nobody), cluster="").watchdog_at == NOW


def test_s10_a_peer_of_another_time_proves_no_heartbeat() -> None:
    """When it got the alert is a time of its own clock: with a wrong one that says nothing."""
    assert folded(peer("a", BEAT, problem="its clock differs by +60 s from ours")).watchdog_at is None


def test_a_peer_that_did_not_answer_says_nothing() -> None:
    """Whatever stands in its record is not used."""
    assert folded(Peer(name="a", answered=False, alerts=(ALERT,))).faults == {}


def test_one_node_has_a_bounded_number_of_faults() -> None:
    """A label that anybody can vary makes no endless case: the worst and oldest stay, the rest is told."""
    many = [
        replace(
            ALERT,
            fingerprint=str(n),
            labels=LABELS | {"gpu_uuid": f"GPU-{n:05}", "severity": "critical" if n == 900 else "warning"},
        )
        for n in range(1000)
    ]
    intake = folded(peer("a", *many))
    assert len(intake.faults["n1"]) == MOST_FAULTS
    assert intake.faults["n1"][0].target.gpu_uuid == "GPU-00900"
    assert {d.reason for d in intake.dead} == {"too-many-faults"}


def test_incidents_and_dead_letters_are_bounded() -> None:
    """Thousands of odd alerts make neither an endless world nor an endless log."""
    wide = {k: v for k, v in LABELS.items() if k != "node"} | {"scope": "domain"}
    racks = [replace(ALERT, fingerprint=f"r{n}", labels=wide | {"rack": f"r{n}"}) for n in range(MOST_INCIDENTS + 9)]
    lost = [replace(ALERT, fingerprint=f"l{n}", labels=LABELS | {"node": f"x{n}"}) for n in range(MOST_DEAD + 9)]
    intake = folded(peer("a", *racks, *lost))
    assert len(intake.wide) == MOST_INCIDENTS
    assert len(intake.dead) == MOST_DEAD


def test_a_silence_is_not_crowded_out() -> None:
    """Thousands of inhibiting alerts leave the person's silence in its place, at the head; texts are cut."""
    inhibited = tuple(f"f{n}" for n in range(5000))
    first = replace(ALERT, suppressed=True, inhibited_by=inhibited)
    second = replace(ALERT, suppressed=True, silenced_by=("s1",), inhibited_by=inhibited)
    silence = Silence(id="s1", created_by="ann\x1b[2J", comment="x" * 9999)
    (fault,) = folded(peer("a", first), peer("b", second, silences=(silence,))).faults["n1"]
    assert len(fault.suppressions) == MOST_SUPPRESSIONS
    assert fault.suppressions[0].kind is SuppressionKind.SILENCE
    assert fault.suppressions[0].by.isprintable()
    assert len(fault.suppressions[0].by) <= LONGEST_SAID


TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", "n1", "c", "gpu-fell-off-bus", "critical", "fleet", "domain", "GPU-1", "79", "x" * 5000, "\ud800", "a\nb"]
)
NAMES = st.sampled_from([*LABELS, "scope", "rack", "xid", "fabric_domain"]) | st.text(max_size=9)
ALERTS = st.builds(
    Alert,
    fingerprint=TEXTS,
    labels=st.dictionaries(NAMES, TEXTS, max_size=9).map(lambda more: LABELS | more),
    starts_at=st.datetimes(timezones=st.just(UTC)),
    updated_at=st.datetimes(timezones=st.just(UTC)),
    suppressed=st.booleans(),
    silenced_by=st.lists(TEXTS, max_size=3).map(tuple),
    inhibited_by=st.lists(TEXTS, max_size=3).map(tuple),
    muted_by=st.lists(TEXTS, max_size=3).map(tuple),
)


@given(st.lists(ALERTS, max_size=6))
@settings(max_examples=300)
def test_whatever_becomes_a_fault_can_be_stored(alerts: list[Alert]) -> None:
    """Lengths are those of the Remediation's schema, texts can be printed, and the case reads back the same."""
    intake = folded(peer("a", *alerts), peer("b", *reversed(alerts)))
    for fault in intake.faults.get("n1", ()):
        texts = [fault.alertname, fault.xid or "", fault.target.gpu_uuid or "", *(s.by for s in fault.suppressions)]
        assert all(text.isprintable() for text in texts)
        assert max(map(len, texts)) <= max(LONGEST_NAME, LONGEST_SAID)
        assert len(fault.xid or "") <= 16
    case = Case(name="x", node="n1", policy="p", opened_at=NOW, faults=intake.faults.get("n1", ()))
    assert load_case(dump_case(case)) == case
    for letter in intake.dead:
        assert all(text.isprintable() for text in (letter.alertname, letter.detail, letter.fingerprint))
