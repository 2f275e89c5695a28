"""Cases for alerts about the alert path itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gpuheal_rules.cases.world import (
    NODE,
    STALE,
    STEP_SECONDS,
    TOPOLOGY,
    Case,
    Expectation,
    Series,
    Timeline,
    World,
    always,
    lean,
)
from gpuheal_rules.cases.xid import EVENT
from gpuheal_rules.catalogue.model import Alert, Fault
from gpuheal_rules.groups.alerts import static_labels
from gpuheal_rules.options import Options


def wait_steps(alert: Alert) -> int:
    return -(-round(alert.wait.total_seconds()) // STEP_SECONDS)


def alert_labels(fault: Fault, alert: Alert, **more: str) -> dict[str, str]:
    return {**static_labels(fault, alert, Options()), **more}


def expect(alert: Alert, step: int, *fires: tuple[Mapping[str, str], float]) -> Expectation:
    return Expectation(step=step, alertname=alert.name, fires=fires, counted=False)


def of_prometheus(metric: str, at: Timeline, **labels: str) -> Series:
    """Return a metric of Prometheus itself, or of the responder."""
    job = "gpuheal-responder" if metric.startswith("gpuheal_") else "prometheus"
    return Series(metric=metric, labels={"job": job, "instance": "p:9090", **labels}, at=at)


def rounds_fail(fault: Fault, alert: Alert) -> list[Case]:
    leads = of_prometheus("gpuheal_leader", lambda _step: 1.0)
    stamp = "gpuheal_last_good_round_timestamp_seconds"
    wait = wait_steps(alert)
    fires = alert_labels(fault, alert)
    late = 12
    """Steps of the three minutes without a good round."""
    stops = of_prometheus(stamp, lambda step: float(min(step, EVENT) * STEP_SECONDS))
    since = EVENT + late + 1 + wait
    return [
        Case(
            name=f"{alert.name} fires when the leader's last good round is more than three minutes ago",
            series=[leads, stops],
            alerts=[expect(alert, since - 1), expect(alert, since, (fires, float((since - EVENT) * STEP_SECONDS)))],
            steps=since,
            alone=True,
        ),
        Case(
            name=f"{alert.name} fires for a leader that never ended a round well",
            series=[leads, of_prometheus(stamp, lambda _step: 0.0)],
            alerts=[expect(alert, wait - 1), expect(alert, wait, (fires, 1.0))],
            steps=wait,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet while another replica leads and does well",
            series=[
                leads,
                of_prometheus(stamp, lambda step: float(step * STEP_SECONDS + 1)),
                of_prometheus(stamp, lambda _step: 0.0, instance="q:9090"),
            ],
            alerts=[expect(alert, 40)],
            steps=40,
            alone=True,
        ),
    ]


def upgrade_unseen(fault: Fault, alert: Alert) -> list[Case]:
    away = EVENT + 22
    """A target that went away without a word is remembered for the five minutes of the lookback."""
    world = World(exporter=None)
    gone = [
        Series(metric=s.metric, labels=s.labels, at=_until(EVENT, s)) if s.labels["job"] == "dcgm-exporter" else s
        for s in world.series()
    ]
    labelled = World().of_ksm("kube_node_labels", lambda _step: 1.0, label_nvidia_com_gpu_deploy_driver="true")
    fires = (alert_labels(fault, alert), 1.0)
    since = EVENT + wait_steps(alert)
    return [
        Case(
            name=f"{alert.name} fires while a node's dcgm-exporter is taken away and no labels say why",
            series=gone,
            alerts=[expect(alert, since - 1), expect(alert, since, fires)],
            steps=away,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet where kube-state-metrics exports the operator's node labels",
            series=[*gone, *labelled],
            alerts=[expect(alert, away)],
            steps=away,
            alone=True,
        ),
    ]


def _until(step: int, series: Series) -> Timeline:
    return lambda now: series.at(now) if now < step else STALE if now == step else None


def no_node(fault: Fault, alert: Alert) -> list[Case]:
    lost = Series(
        metric="gpuheal_exporter_heartbeat_timestamp_seconds",
        labels={"job": "gpuheal-exporter", "instance": "10.0.0.5:9500"},
        at=lambda step: float(step * STEP_SECONDS),
    )
    wait = wait_steps(alert)
    return [
        Case(
            name=f"{alert.name} fires when an exporter's series carry no label node",
            series=[lost],
            alerts=[expect(alert, wait - 1), expect(alert, wait, (alert_labels(fault, alert), 1.0))],
            steps=wait,
            alone=True,
        )
    ]


def kmsg_lost(fault: Fault, alert: Alert) -> list[Case]:
    world = World()
    lost = world.of_exporter("gpuheal_kmsg_lost_records_total", {}, lambda step: 0.0 if step < EVENT else 7.0)
    return [
        Case(
            name=f"{alert.name} counts the nodes that lost records of the kernel log",
            series=[*world.series(), *lost],
            alerts=[
                expect(alert, EVENT - 1),
                expect(alert, EVENT, (alert_labels(fault, alert), 1.0)),
                expect(alert, EVENT + 62),
            ],
            steps=EVENT + 62,
            alone=True,
        )
    ]


def responder_silent(fault: Fault, alert: Alert) -> list[Case]:
    labels = {"job": "gpuheal-responder", "instance": "10.0.0.7:8080"}
    since = 40 + wait_steps(alert)
    silent = Series(metric="up", labels=labels, at=lambda step: 1.0 if step < 40 or step >= 400 else 0.0)
    fires = (alert_labels(fault, alert), 1.0)
    return [
        Case(
            name=f"{alert.name} fires while the responder does not answer, for hours, and only then",
            series=[silent],
            alerts=[
                expect(alert, since - 1),
                expect(alert, since, fires),
                expect(alert, 399, fires),
                expect(alert, 400),
            ],
            steps=400,
            alone=True,
        ),
        Case(
            name=f"{alert.name} is quiet where no responder was ever scraped",
            series=[Series(metric="up", labels=labels, at=lambda _step: 0.0)],
            alerts=[expect(alert, 60)],
            steps=60,
            alone=True,
        ),
    ]


def watchdog(fault: Fault, alert: Alert) -> list[Case]:
    fires = (alert_labels(fault, alert), 1.0)
    return [
        Case(
            name=f"{alert.name} always fires, with no data at all",
            series=[],
            alerts=[expect(alert, step, fires) for step in (0, 1, 20)],
            steps=20,
            alone=True,
        )
    ]


def failures(fault: Fault, alert: Alert) -> list[Case]:
    grows: Timeline = lambda step: 0.0 if step < EVENT else 4.0  # noqa: E731
    found = []
    for metric in ("prometheus_rule_evaluation_failures_total", "prometheus_rule_group_iterations_missed_total"):
        for group, fires in (("/etc/rules/gpuheal.rules.yaml;gpuheal", True), ("/etc/rules/other.yaml;other", False)):
            expected = [expect(alert, EVENT - 1), _failing(fault, alert, fires), expect(alert, EVENT + 25)]
            name = f"{alert.name} {'fires' if fires else 'is quiet'} when {metric} of {group.partition(';')[2]} grows"
            series = [of_prometheus(metric, grows, rule_group=group)]
            found.append(Case(name=name, series=series, alerts=expected, steps=EVENT + 25, alone=True))
    return found


def _failing(fault: Fault, alert: Alert, fires: bool) -> Expectation:
    step = EVENT + 5
    # increase() extrapolates from the samples to the window's edges: 4 becomes 4 x 300 s / 285 s or 4, by version.
    return Expectation(step=step, alertname=alert.name, fires=[(alert_labels(fault, alert), 4.0)] if fires else [])


def for_days(fault: Fault, alert: Alert) -> list[Case]:
    case = {"target_node": NODE, "job": "gpuheal-responder", "node": "cpu-node-1"}
    opened = Series(
        metric="gpuheal_case_opened_timestamp_seconds",
        labels={**case, "case": "c"},
        at=always(EVENT * STEP_SECONDS - 2 * 86400.0),
    )
    state = Series(metric="gpuheal_case_state", labels={**case, "state": "escalated"}, at=always(1))
    fires = (alert_labels(fault, alert, node=NODE, **TOPOLOGY), 1.0)
    return [
        Case(
            name=f"{alert.name} fires when the case has been open for two days, not earlier",
            series=[*lean().series(), opened, state],
            alerts=[expect(alert, EVENT), expect(alert, EVENT + 1, fires)],
            steps=EVENT + 1,
        ),
        Case(
            name=f"{alert.name} is quiet for an old case that gpuheal still works on",
            series=[*lean().series(), opened, replace(state, labels={**case, "state": "acting"})],
            alerts=[expect(alert, EVENT + 1)],
            steps=EVENT + 1,
        ),
    ]
