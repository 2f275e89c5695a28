"""Alerts of several peers folded into faults and dead letters."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gpuheal_responder.core.alert import Alert, Peer, Silence, SuppressionKind
from gpuheal_responder.core.faults import fold

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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cluster": "other"}, "cluster-mismatch"),
        ({"fault": "gpu-on-fire"}, "unknown-fault"),
        ({"severity": "page"}, "unknown-severity"),
        ({"node": ""}, "no-node"),
        ({"node": "n9"}, "unknown-node"),
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
def test_an_alert_about_no_node_is_for_people(scope: str) -> None:
    """A fleet-wide alert is neither a fault of a node nor a mistake."""
    labels = {k: v for k, v in LABELS.items() if k != "node"} | {"scope": scope}
    intake = folded(peer("a", replace(ALERT, labels=labels)))
    assert intake.faults == {}
    assert intake.dead == ()


def test_the_watchdog_is_no_fault_but_a_heartbeat() -> None:
    """Its newest update over all answering peers is kept."""
    beat = Alert(
        fingerprint="w",
        labels={"alertname": "GPUHealWatchdog", "fault": "watchdog"},
        starts_at=NOW,
        updated_at=NOW + timedelta(seconds=5),
    )
    intake = folded(peer("a", replace(beat, updated_at=NOW)), peer("b", beat))
    assert intake.watchdog_at == NOW + timedelta(seconds=5)
    assert intake.faults == {}
    assert intake.dead == ()


def test_a_peer_that_did_not_answer_says_nothing() -> None:
    """Whatever stands in its record is not used."""
    assert folded(Peer(name="a", answered=False, alerts=(ALERT,))).faults == {}
