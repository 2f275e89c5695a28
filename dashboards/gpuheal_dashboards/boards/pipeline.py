"""Pipeline: whether a fault would be seen, evaluated, delivered and decided on."""

from __future__ import annotations

from collections.abc import Sequence

from gpuheal_dashboards.boards.parts import CLUSTER, alert_marks, graph, stat, table
from gpuheal_dashboards.model import Board, Column, Panel, Query, Row, Shade
from gpuheal_dashboards.selectors import OURS
from gpuheal_dashboards.style import (
    GREEN,
    GREY,
    ORANGE,
    PIPELINE,
    PLAIN,
    RED,
    WARN_FROM_ONE,
    YELLOW,
    YES,
    node_column,
)

NODES = "gpuheal:gpu_node:info"
GROUPS = '{rule_group=~".*;gpuheal.*"}'
COVERED = ((None, RED), (0.95, YELLOW), (0.995, GREEN))
ROUND_STEPS = ((None, GREEN), (60, YELLOW), (180, RED))
ROWS = 50


NOTIFIED = "alertmanager_notification_latency_seconds_bucket"


def _quantile(share: float, buckets: str, where: str = "", by: str = "le") -> str:
    return f"histogram_quantile({share}, sum by ({by}) (rate({buckets}{where}[$__rate_interval])))"


def _covered(source: str) -> str:
    up = f'gpuheal:source_up:info{{source="{source}"}}'
    return f"(count({NODES} and on (node) {up}) or vector(0)) / count({NODES})"


BEAT = f'ALERTS{{alertname="GPUHealWatchdog", alertstate="firing", {OURS}}}'
NOW: Sequence[Panel] = (
    stat(
        id=501,
        title="Watchdog",
        description="The alert that always fires. Where it does not, rules are not evaluated, and nothing is seen.",
        queries=[Query(expr=f"(count({BEAT}) or vector(0)) > bool 0")],
        texts={"0": Shade(text="does not fire", color=RED), "1": Shade(text="fires", color=GREEN)},
    ),
    stat(
        id=502,
        title="Frozen",
        description="Whether no disruptive step may start because the alert pipeline is not healthy.",
        queries=[Query(expr="max(gpuheal_frozen)")],
        texts=YES,
    ),
    stat(
        id=503,
        title="Leaders",
        description="Replicas of the responder that lead; there must be exactly one per cluster.",
        queries=[Query(expr="sum(gpuheal_leader)")],
        steps=((None, RED), (1, GREEN), (2, ORANGE)),
    ),
    stat(
        id=504,
        title="Last good round",
        description="Time since the leader last completed a round of reading, deciding and acting.",
        queries=[Query(expr="time() - max(gpuheal_last_good_round_timestamp_seconds > 0)")],
        unit="s",
        decimals=0,
        steps=ROUND_STEPS,
    ),
    stat(
        id=505,
        title="Nodes with gpuheal's exporter",
        description="Share of GPU nodes whose gpuheal exporter reports.",
        queries=[Query(expr=_covered("exporter"))],
        unit="percentunit",
        decimals=1,
        steps=COVERED,
    ),
    stat(
        id=506,
        title="Nodes with dcgm-exporter",
        description="Share of GPU nodes whose dcgm-exporter reports GPUs.",
        queries=[Query(expr=_covered("dcgm"))],
        unit="percentunit",
        decimals=1,
        steps=COVERED,
    ),
)

COVERAGE: Sequence[Panel] = (
    graph(
        id=511,
        nothing="none",
        title="Problems by kind",
        description="Nodes on which something keeps gpuheal from seeing or healing, by kind.",
        queries=[Query(expr="count by (problem) (gpuheal:node_problem:info)", legend="{{problem}}")],
        lowest=0,
        width=8,
    ),
    table(
        id=512,
        nothing="none",
        title="Nodes with problems",
        description=f"What keeps gpuheal from seeing or healing, by node; the first {ROWS}.",
        queries=[Query(expr=f"topk({ROWS}, group by (node, problem) (gpuheal:node_problem:info))")],
        columns=(node_column(), Column(title="Problem", label="problem")),
        width=8,
    ),
    graph(
        id=513,
        nothing="none",
        title="Silent sources",
        description="Nodes whose source reported within the last hour (the responder: the last week) and does not.",
        queries=[Query(expr="count by (source) (gpuheal:source_silent:info)", legend="{{source}}")],
        lowest=0,
        width=8,
    ),
    graph(
        id=514,
        title="Unknown GPUs",
        description="Share of GPUs that no source reports now: nobody can tell how they are.",
        queries=[
            Query(
                expr="(count(gpuheal:gpu_unknown:info) or vector(0)) / sum(gpuheal:node_gpus:count)",
                legend="unknown",
            )
        ],
        unit="percentunit",
        lowest=0,
        width=8,
    ),
    table(
        id=515,
        title="Kernel log records lost within 15m",
        description="Records that the kernel overwrote before they were read: an Xid may have been among them.",
        queries=[
            Query(expr=f"topk({ROWS}, sum by (node) (increase(gpuheal_kmsg_lost_records_total[15m])) > 0)"),
        ],
        columns=(node_column(), Column(title="Records", value="A", decimals=0, width=100)),
        sort="Records",
        width=8,
        nothing="none",
    ),
    graph(
        id=516,
        nothing="none",
        title="Evidence that was ignored",
        description="Series that violate the contract and were ignored within an hour, by reason.",
        queries=[Query(expr="sum by (reason) (increase(gpuheal_evidence_ignored_total[1h]))", legend="{{reason}}")],
        lowest=0,
        width=8,
    ),
)

SERVERS: Sequence[Panel] = (
    graph(
        id=521,
        title="Evaluation of the rules",
        description="How long the last evaluation of each group took, and how often it is due.",
        queries=[
            Query(
                expr=f"max by (rule_group) (prometheus_rule_group_last_duration_seconds{GROUPS})",
                legend="{{rule_group}}",
            ),
            Query(expr=f"min(prometheus_rule_group_interval_seconds{GROUPS})", legend="shortest interval"),
        ],
        colors={"shortest interval": Shade(color=GREY)},
        dashed="shortest interval",
        unit="s",
        lowest=0,
        width=8,
    ),
    graph(
        id=522,
        title="Evaluations that failed or were missed within 5m",
        description="A failed rule loses its results; a missed evaluation delays them.",
        queries=[
            Query(expr=f"sum(increase(prometheus_rule_evaluation_failures_total{GROUPS}[5m]))", legend="failed"),
            Query(expr=f"sum(increase(prometheus_rule_group_iterations_missed_total{GROUPS}[5m]))", legend="missed"),
        ],
        colors={"failed": Shade(color=RED), "missed": Shade(color=ORANGE)},
        lowest=0,
        width=8,
    ),
    graph(
        id=523,
        title="Prometheus to Alertmanager within 5m",
        description="Alerts that Prometheus failed to send or dropped.",
        queries=[
            Query(expr="sum(increase(prometheus_notifications_errors_total[5m]))", legend="errors"),
            Query(expr="sum(increase(prometheus_notifications_dropped_total[5m]))", legend="dropped"),
        ],
        colors={"errors": Shade(color=RED), "dropped": Shade(color=ORANGE)},
        lowest=0,
        width=8,
    ),
    graph(
        id=524,
        nothing="none",
        title="Failed notifications of Alertmanager within 5m",
        description="Notifications that Alertmanager failed to deliver, by integration.",
        queries=[
            Query(
                expr="sum by (integration) (increase(alertmanager_notifications_failed_total[5m])) > 0",
                legend="{{integration}}",
            )
        ],
        lowest=0,
        width=8,
    ),
    graph(
        id=525,
        title="Webhook: time to deliver",
        description="Alertmanager's own measure of its webhooks: median and 99th percentile.",
        queries=[
            Query(expr=_quantile(share, NOTIFIED, '{integration="webhook"}'), legend=name)
            for name, share in (("median", 0.5), ("99th percentile", 0.99))
        ],
        unit="s",
        lowest=0,
        width=8,
    ),
    graph(
        id=526,
        title="Webhook: time to answer",
        description="The responder's measure, from the request's headers to the response.",
        queries=[
            Query(expr=_quantile(share, "gpuheal_delivery_duration_seconds_bucket"), legend=name)
            for name, share in (("median", 0.5), ("99th percentile", 0.99))
        ],
        unit="s",
        lowest=0,
        width=8,
    ),
)


RESPONDER: Sequence[Panel] = (
    graph(
        id=531,
        title="Deliveries within 5m",
        description="Deliveries of Alertmanager by the status of the response; all but 200 are problems.",
        queries=[Query(expr="sum by (answer) (increase(gpuheal_deliveries_total[5m]))", legend="{{answer}}")],
        colors={"200": Shade(color=GREEN)},
        lowest=0,
        width=8,
    ),
    graph(
        id=532,
        title="Duration of a round",
        description="Reading, deciding and acting: median and 99th percentile.",
        queries=[
            Query(expr=_quantile(share, "gpuheal_tick_duration_seconds_bucket"), legend=name)
            for name, share in (("median", 0.5), ("99th percentile", 0.99))
        ],
        unit="s",
        lowest=0,
        width=8,
    ),
    graph(
        id=533,
        nothing="none",
        title="Failed reads within 5m",
        description="Reads of Alertmanager, Prometheus and Kubernetes that failed.",
        queries=[Query(expr="sum by (source) (increase(gpuheal_observe_errors_total[5m]))", legend="{{source}}")],
        lowest=0,
        width=8,
    ),
    graph(
        id=534,
        title="Longest stall of the event loop",
        description="While it stalls, webhooks and renewals of the Lease wait.",
        queries=[
            Query(expr="max by (time) (gpuheal_event_loop_longest_stall_seconds)", legend="{{time}}"),
        ],
        unit="s",
        lowest=0,
        width=8,
    ),
    table(
        id=535,
        nothing="none",
        title="Alerts that cannot be used",
        description="Firing alerts that are addressed to gpuheal and cannot be used, by reason.",
        queries=[Query(expr="max by (reason) (gpuheal_dead_letters_current) > 0")],
        columns=(Column(title="Reason", label="reason"), Column(title="Alerts", value="A", width=80)),
        sort="Alerts",
        width=8,
    ),
    stat(
        id=536,
        title="Failed reloads within a day",
        description="Changed files (policies, tokens, certificates) that could not be loaded; the old ones hold.",
        queries=[Query(expr="sum(increase(gpuheal_config_errors_total[24h]))")],
        decimals=0,
        steps=WARN_FROM_ONE,
        height=8,
    ),
    stat(
        id=537,
        title="Versions",
        description="Versions that run: of the responder, and of the exporters.",
        queries=[
            Query(expr="group by (version) (gpuheal_responder_info)", legend="responder {{version}}"),
            Query(expr="group by (version) (gpuheal_exporter_build_info)", legend="exporter {{version}}"),
        ],
        named=True,
        steps=PLAIN,
        height=8,
    ),
)

BOARD = Board(
    uid=PIPELINE,
    title="gpuheal / Pipeline",
    description="Whether a fault would be seen, evaluated, delivered and decided on: gpuheal's own health.",
    variables=(CLUSTER,),
    rows=(
        Row(id=500, title="Now", panels=NOW),
        Row(id=510, title="Coverage", panels=COVERAGE),
        Row(id=520, title="Prometheus and Alertmanager", panels=SERVERS),
        Row(id=530, title="Responder", panels=RESPONDER),
    ),
    marks=(alert_marks('scope="fleet"'),),
)
