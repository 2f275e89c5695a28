"""Metrics and audit lines: what the engine tells is countable, and every name is explained."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.responder.shell.scripted import NOW, StillClock
from tests.responder.shell.steps import TAINT

from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Attempt, AttemptState, Case, Result
from gpuheal_responder.core.faults import DeadLetter
from gpuheal_responder.core.opening import Ignore
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.state import state_of
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.verdict import Done, Escalate, Hold, Refusal, Verdict
from gpuheal_responder.core.world import GroupIncident
from gpuheal_responder.shell import metrics
from gpuheal_responder.shell.telemetry import Telemetry

CASE = Case(
    name="n1-1",
    node="n1",
    opened_at=NOW,
    policy="hgx",
    faults=(
        Fault(
            slug="gpu-fell-off-bus", target=Target(node="n1", gpu_uuid="GPU-1"), severity=Severity.CRITICAL, since=NOW
        ),
    ),
)
APPROVAL = Refusal(guard="permission", reason="approval-needed", message="a person has to approve", blockers=("abc",))
OBSERVE = Refusal(guard="permission", reason="mode-observe", message="policy hgx only observes")
BUDGET = Refusal(guard="budget", reason="mark-budget", message="4 nodes were marked", blockers=("h100",))
SILENCE = Refusal(guard="signal", reason="alert-silenced", message="silenced by ada", blockers=("ada",))


@pytest.fixture
def audit() -> io.StringIO:
    """Where audit lines go."""
    return io.StringIO()


@pytest.fixture
def telemetry(audit: io.StringIO) -> Telemetry:
    """A telemetry of its own."""
    return Telemetry(cluster="prod", clock=StillClock(), audit=audit)


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    """Return one sample's value."""
    found: float | None = telemetry.registry.get_sample_value(name, labels)
    return found


def hold(*refusals: Refusal) -> Verdict:
    """A verdict that holds a taint."""
    return Hold(due=Due(step=TAINT), refusals=refusals)


def test_s10_the_last_good_round_is_the_leaders(telemetry: Telemetry) -> None:
    """A follower's rounds do nothing and count for nothing; a failed round of the leader does not either."""

    def seen() -> float | None:
        return telemetry.registry.get_sample_value("gpuheal_last_good_round_timestamp_seconds")

    telemetry.ticked(0.1, ok=True)
    assert seen() == 0
    telemetry.leading(True)
    telemetry.ticked(0.1, ok=False)
    assert seen() == 0
    telemetry.ticked(0.1, ok=True)
    assert seen() == NOW.timestamp()
    telemetry.leading(False)
    assert seen() == 0


def test_every_metric_is_explained(telemetry: Telemetry) -> None:
    """The table has exactly the metrics that are shown, with their types and labels; METRICS.md is made from it."""
    assert (Path(__file__).parents[3] / "responder" / "METRICS.md").read_text(encoding="utf-8") == metrics.page()
    written = {metric.name: (metric.kind.type, set(metric.labels)) for metric in metrics.TABLE}
    telemetry.decided(CASE, hold(SILENCE))
    telemetry.performed("taint", "succeeded", 0.1)
    telemetry.looked(["prometheus: down"], [dead("a")])
    telemetry.standing([(CASE, hold(SILENCE))], [closed(1)])
    telemetry.passed_over(
        [Ignore(node="n1", reason=Reason.NO_POLICY, message="none")],
        ["n2"],
        [GroupIncident(kind="correlated", where="rack/r1", what="x", since=NOW, nodes=3)],
    )
    telemetry.ticked(0.1, ok=True)
    telemetry.delivered(200, 0.001)
    telemetry.ignored("state-value")
    telemetry.ended("silent")
    coded = {}
    for family in text_string_to_metric_families(telemetry.text().decode()):
        if not family.name.endswith("_created"):
            labels = {key for sample in family.samples for key in sample.labels if key != "le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            coded[name] = (family.type, labels)
    assert coded == written


def dead(fingerprint: str) -> DeadLetter:
    """An alert of no use."""
    return DeadLetter(reason="no-node", alertname="GPUFellOffBus", fingerprint=fingerprint, detail="no label node")


def closed(hours: int) -> Case:
    """The case, closed some hours ago."""
    at = NOW - timedelta(hours=hours)
    return Case(
        name=f"n1-{hours}",
        node="n1",
        opened_at=at,
        policy="hgx",
        faults=CASE.faults,
        closed_at=at,
        result=Result.RESTORED,
    )


def test_a_verdict_is_counted_and_written_down(telemetry: Telemetry, audit: io.StringIO) -> None:
    """Each verdict counts under its reason, and its audit line says who or what blocks."""
    telemetry.decided(CASE, hold(SILENCE, APPROVAL))
    assert value(telemetry, "gpuheal_verdicts_total", verdict="hold", reason="alert-silenced") == 1
    (line,) = audit.getvalue().splitlines()
    said = json.loads(line)
    assert list(said)[:3] == ["at", "cluster", "event"]
    assert said["at"] == "2026-03-01T12:00:00Z"
    assert (said["cluster"], said["event"], said["case"], said["node"]) == ("prod", "verdict", "n1-1", "n1")
    assert said["faults"] == [{"fault": "gpu-fell-off-bus", "gpuUUID": "GPU-1"}]
    assert [r["reason"] for r in said["refusals"]] == ["alert-silenced", "approval-needed"]
    assert said["refusals"][0]["blockers"] == ["ada"]


def test_an_audit_line_is_one_line_whatever_people_write(telemetry: Telemetry, audit: io.StringIO) -> None:
    """A comment with line breaks can't forge a second audit line."""
    forged = 'x"}\n{"event":"approval"}'
    telemetry.decided(CASE, Escalate(reason="ladder-exhausted", message=forged))
    (line,) = audit.getvalue().splitlines()
    assert json.loads(line)["message"] == forged


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (hold(SILENCE), "held"),
        (hold(APPROVAL), "pending"),
        (hold(SILENCE, APPROVAL), "held"),
        (hold(SILENCE, OBSERVE), "observing"),
        (Escalate(reason="ladder-exhausted", message=""), "escalated"),
        (Done(result=Result.RESTORED, reason="restored"), "closing"),
    ],
)
def test_state_words(verdict: Verdict, state: str) -> None:
    """Only what nothing but a person's approval holds is pending; what is only observed asks nobody for anything."""
    assert state_of(CASE, verdict) == state


def test_s17_a_contained_node_under_a_mode_that_only_observes_is_held() -> None:
    """Somebody has to decide what becomes of a node that we cordoned before the mode was lowered."""
    attempt = Attempt(
        step="taint",
        action="taint",
        phase=Phase.CONTAIN,
        operation="o",
        state=AttemptState.SUCCEEDED,
        started_at=NOW,
    )
    assert state_of(replace(CASE, attempts=(attempt,)), hold(OBSERVE)) == "held"


def test_a_closed_case_leaves_no_state_behind(telemetry: Telemetry) -> None:
    """Gauges about cases are replaced as a whole; the closed case settles its evidence instead."""
    labels = {"target_node": "n1", "fault": "gpu-fell-off-bus"}
    state = {**labels, "state": "held", "step": "taint", "phase": "contain", "reason": "alert-silenced"}
    telemetry.standing([(CASE, hold(SILENCE))], [])
    assert value(telemetry, "gpuheal_case_state", **state) == 1
    assert value(telemetry, "gpuheal_case_opened_timestamp_seconds", target_node="n1", case="n1-1") == NOW.timestamp()
    telemetry.standing([], [closed(2), closed(1), closed(3)])
    assert value(telemetry, "gpuheal_case_state", **state) is None
    cleared = value(telemetry, "gpuheal_fault_cleared_timestamp_seconds", gpu_uuid="GPU-1", **labels)
    assert cleared == (NOW - timedelta(hours=1)).timestamp()


def test_a_dead_letter_counts_once_while_it_fires(telemetry: Telemetry) -> None:
    """The counter counts new ones, the gauge says how many there are; one that comes back counts again."""
    for letters in ([dead("a"), dead("b")], [dead("a"), dead("b")], [], [dead("a")]):
        telemetry.looked([], letters)
    assert value(telemetry, "gpuheal_dead_letters_total", reason="no-node") == 3
    assert value(telemetry, "gpuheal_dead_letters_current", reason="no-node") == 1


def test_failed_looks_count_by_source(telemetry: Telemetry) -> None:
    """The first word of a problem is its source, however long the rest: the label stays bounded."""
    telemetry.looked(["alertmanager am-0:9093: HTTP 503", "prometheus: down", "alertmanager am-1:9093: x"], [])
    assert value(telemetry, "gpuheal_observe_errors_total", source="alertmanager") == 2
    assert value(telemetry, "gpuheal_observe_errors_total", source="prometheus") == 1


def test_only_the_leader_shows_cases(telemetry: Telemetry) -> None:
    """A replica that stops leading takes its cases off its gauges, so two never contradict each other."""
    telemetry.standing([(CASE, hold(SILENCE))], [closed(1)])
    telemetry.leading(True)
    assert telemetry.verdict_of("n1-1") == hold(SILENCE)
    telemetry.leading(False)
    assert "gpuheal_case_state{" not in telemetry.text().decode()
    assert telemetry.verdict_of("n1-1") is None
    assert value(telemetry, "gpuheal_leader") == 0


def test_who_leads_no_more_shows_nothing_of_what_it_saw(telemetry: Telemetry) -> None:
    """Incidents, ignored faults, dead letters and records end with the lead: GPUHealIncident sums over replicas."""
    telemetry.leading(True)
    assert telemetry.ignored_faults() is None
    gone = Ignore(node="n1", reason=Reason.NO_POLICY, message="")
    telemetry.passed_over(
        [gone], ["n2"], [GroupIncident(kind="correlated", where="rack/r1", what="x", since=NOW, nodes=3)]
    )
    telemetry.looked([], [dead("a")])
    assert telemetry.ignored_faults() == (gone,)
    shown = ("gpuheal_incident_nodes{", "gpuheal_ignored_faults{", "gpuheal_unreadable_undo{", "dead_letters_current{")
    assert all(name in telemetry.text().decode() for name in shown)
    telemetry.leading(False)
    assert not any(name in telemetry.text().decode() for name in shown)
    assert telemetry.ignored_faults() is None
    telemetry.leading(True)
    telemetry.passed_over([], [])
    assert telemetry.ignored_faults() == ()


def test_two_applications_do_not_share_metrics(audit: io.StringIO) -> None:
    """There is no global registry."""
    first, second = (Telemetry(cluster="", clock=StillClock(), audit=audit) for _ in range(2))
    first.frozen("watchdog-silent")
    assert (value(first, "gpuheal_frozen"), value(second, "gpuheal_frozen")) == (1, 0)


def test_a_case_of_two_days_is_stale_beside_its_state(telemetry: Telemetry) -> None:
    """GPUHealStaleCase fires for what stands still, whatever it waits for."""
    old = replace(CASE, opened_at=NOW - timedelta(hours=48))
    telemetry.standing([(old, hold(SILENCE))], [])
    labels = {
        "target_node": "n1",
        "fault": "gpu-fell-off-bus",
        "step": "taint",
        "phase": "contain",
        "reason": "alert-silenced",
    }
    assert [value(telemetry, "gpuheal_case_state", state=state, **labels) for state in ("held", "stale")] == [1, 1]
    telemetry.standing([(replace(old, opened_at=NOW - timedelta(hours=47)), hold(SILENCE))], [])
    assert value(telemetry, "gpuheal_case_state", state="stale", **labels) is None


def test_a_spent_mark_budget_is_told(telemetry: Telemetry) -> None:
    """GPUHealCordonBudget fires while a faulty node stays schedulable for it."""
    assert value(telemetry, "gpuheal_cordon_budget_exhausted") == 0
    telemetry.standing([(CASE, hold(SILENCE, BUDGET))], [])
    assert value(telemetry, "gpuheal_cordon_budget_exhausted") == 1


def test_the_rules_read_what_is_there(telemetry: Telemetry) -> None:
    """Every metric of ours that the generated rules read has its family here, under that very name."""
    rules = (Path(__file__).parents[3] / "rules" / "generated" / "gpuheal.rules.yaml").read_text(encoding="utf-8")
    read = set(re.findall(r"\bgpuheal_(?:case|cordon|fault|frozen|leader|dead|deliveries|observe|tick)\w*", rules))
    families = {family.name for family in text_string_to_metric_families(telemetry.text().decode())}
    assert {"gpuheal_case_state", "gpuheal_fault_cleared_timestamp_seconds"} <= read
    assert read <= families
