"""Layer 4: alerts. A fault with evidence fires while its fault is active; the others name their expression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault
from gpuheal_rules.groups.fleet import ACTIVE_PROBLEM
from gpuheal_rules.groups.guard import READY
from gpuheal_rules.groups.identity import SILENT, UP
from gpuheal_rules.groups.telling import tail
from gpuheal_rules.groups.witness import ACTIVE
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import GUARD, TARGET_NODE, AlertRule, promql, threshold

REFUSED = "forbidden|rejected|crd-outdated|conflict"
"""Outcomes of steps that the API server did not take."""
Expression = Callable[[Catalogue, Options], str]


def _watchdog(_catalogue: Catalogue, _options: Options) -> str:
    return "vector(1)"


def _problem(name: str) -> Expression:
    # The label `problem` must not reach the alert.
    expr = f'max by (node, rack, zone, fabric_domain) ({ACTIVE_PROBLEM}{{problem="{name}"}}) > 0'
    return lambda _catalogue, _options: expr


def _plain(expr: str) -> Expression:
    text = promql(expr)
    return lambda _catalogue, _options: text


def _correlated(domain: str) -> Expression:
    count = f"gpuheal:{domain}:new_bad_nodes"
    all_nodes = f'count by ({domain}, zone) (gpuheal:node_topology:info{{{domain}!=""}})'
    many = f"{count} >= {threshold('correlation_nodes')} and {count} / {all_nodes}"
    return lambda catalogue, _options: f"{many} > {catalogue.number('correlation_share')}"


def _own_increase(metric: str, options: Options, match: str = "") -> str:
    return f"sum(increase({metric}{match}[{options.window(timedelta(minutes=5))}])) > 0"


def _rule_failures(_catalogue: Catalogue, options: Options) -> str:
    group = '{rule_group=~".*;gpuheal.*"}'
    failed = _own_increase("prometheus_rule_evaluation_failures_total", options, group)
    missed = _own_increase("prometheus_rule_group_iterations_missed_total", options, group)
    return f"{failed}\n  or {missed}"


def _notifications_dropped(_catalogue: Catalogue, options: Options) -> str:
    return _own_increase("prometheus_notifications_dropped_total", options)


def _writes_refused(catalogue: Catalogue, options: Options) -> str:
    window = options.window(timedelta(minutes=15))
    refused = f'gpuheal_step_duration_seconds_count{{outcome=~"{REFUSED}"}}'
    return f"sum(increase({refused}[{window}])) > {catalogue.number('writes_refused')}"


def _rounds_fail(catalogue: Catalogue, _options: Options) -> str:
    return promql(f"""
        time() - max(gpuheal_last_good_round_timestamp_seconds > 0) > {catalogue.number("round_lateness")}
          or max(gpuheal_leader == 1 unless on (job, instance) gpuheal_last_good_round_timestamp_seconds > 0)
        """)


def _node_label_missing(_catalogue: Catalogue, options: Options) -> str:
    names = ["gpuheal_exporter_heartbeat_timestamp_seconds"]
    if options.labels.node == "node":
        names.append("DCGM_FI_DEV_GPU_TEMP")
    nameless = [name + '{node=""}' for name in names]
    if options.labels.node != "node":
        # An exporter that was not told its node's name says its pod's.
        nameless.append(f'({TARGET_NODE} unless on (node) {READY} and on () {UP}{{source="ksm"}})')
    return f"count({' or '.join(nameless)}) > 0"


EXPRESSIONS: Mapping[str, Expression] = {
    "watchdog": _watchdog,
    "exporter_down": _problem("exporter-down"),
    "dcgm_down": _problem("dcgm-down"),
    "exporter_frozen": _problem("exporter-frozen"),
    "exporter_missing": _problem("exporter-missing"),
    "kmsg_down": _problem("kmsg-down"),
    "gpus_unseen": _problem("gpus-unseen"),
    "policy_missing": _problem("policy-missing"),
    "case_escalated_for_days": _problem("case-escalated-for-days"),
    "case_pending": _problem("case-pending"),
    "case_held": _problem("case-held"),
    "case_escalated": _problem("case-escalated"),
    "case_stale": _problem("case-stale"),
    "cordon_budget": _plain("max(gpuheal_cordon_budget_exhausted) == 1"),
    "rack_correlated": _correlated("rack"),
    "fabric_correlated": _correlated("fabric_domain"),
    "rollout_correlated": _plain(
        f"""
        max(
          gpuheal:driver_version:new_bad_nodes >= {threshold("correlation_nodes")}
            and gpuheal:driver_version:new_bad_nodes == on () group_left () count(gpuheal:node_bad:new30m)
        ) and on () count(count by (driver_version) (gpuheal_nvml_driver_info)) > 1
        """
    ),
    "telemetry_anomaly": _plain(
        f"""
        max(max_over_time(gpuheal:fault_nodes:growth10m[30m]))
          >= {threshold("correlation_nodes")}
          > on () gpuheal:gpu_nodes:count * {threshold("fleet_anomaly_ratio")}
        """
    ),
    "no_leader": _plain("max(gpuheal_leader) == 0"),
    "rounds_fail": _rounds_fail,
    "incident": _plain("sum(gpuheal_incident_nodes) > 0"),
    "unreadable_case": _plain("max(gpuheal_unreadable_cases) > 0"),
    "unreadable_undo": _plain("count(gpuheal_unreadable_undo == 1) > 0"),
    "writes_refused": _writes_refused,
    "upgrade_unseen": _plain(
        f"""
        count({GUARD}{{reason="operands-away"}} and on () {UP}{{source="ksm"}}) > 0
          unless on () count(kube_node_labels{{label_nvidia_com_gpu_deploy_driver!=""}})
          unless on () count(kube_node_labels{{label_nvidia_com_gpu_driver_upgrade_state!=""}})
        """
    ),
    "rule_failures": _rule_failures,
    "notifications_dropped": _notifications_dropped,
    "node_label_missing": _node_label_missing,
    "responder_silent": _plain(f'max({SILENT}{{source="responder"}}) > 0'),
    "kmsg_lost": _plain("count(sum by (node) (increase(gpuheal_kmsg_lost_records_total[15m])) > 0) > 0"),
}

LASTS: Mapping[str, timedelta] = {
    "rule_failures": timedelta(minutes=5),
    "notifications_dropped": timedelta(minutes=5),
    "kmsg_lost": timedelta(minutes=15),
    "writes_refused": timedelta(minutes=15),
    "rack_correlated": timedelta(minutes=30),
    "fabric_correlated": timedelta(minutes=30),
    "rollout_correlated": timedelta(minutes=30),
    "telemetry_anomaly": timedelta(minutes=30),
}
"""How far some expressions look back: what happened once holds them no longer than that."""


BOARD_OF_FAMILY = {"own": "gpuheal-remediation", "pipeline": "gpuheal-pipeline"}
"""Dashboards of what is no fault of a node (their uids: a test of the dashboards compares)."""


def rules(catalogue: Catalogue, options: Options) -> Iterator[AlertRule]:
    """Yield every alert in the catalogue's order."""
    for fault, alert in catalogue.alerts():
        evident = f'{ACTIVE}{{fault="{fault.slug}"}} > 0'
        yield AlertRule(
            name=alert.name,
            expr=EXPRESSIONS[alert.expr](catalogue, options) if alert.expr else evident,
            wait=alert.wait,
            keep=alert.keep,
            labels=static_labels(fault, alert, options),
            annotations=annotation_templates(catalogue, options, fault, alert),
        )


def static_labels(fault: Fault, alert: Alert, options: Options) -> dict[str, str]:
    """Return the static labels of an alert."""
    return {
        "fault": fault.slug,
        "scope": fault.scope,
        "severity": alert.severity,
        "namespace": options.namespace,
    }


def annotation_templates(catalogue: Catalogue, options: Options, fault: Fault, alert: Alert) -> dict[str, str]:
    """Return the annotations of an alert, with their templates; that of a fault ends with its evidence."""
    found = {
        "summary": alert.summary,
        "description": alert.description + ("" if alert.expr else tail(catalogue, options, fault)),
        "runbook_url": f"{options.runbook_base}/{alert.name}",
    }
    if options.dashboard_base:
        found["dashboard_url"] = f"{options.dashboard_base}/d/{_board(fault, options)}"
    return found


def _board(fault: Fault, options: Options) -> str:
    """Return the dashboard that shows what an alert tells of, with its variables set from the alert's labels."""
    shown = {"gpu": ["node", "gpu"], "node": ["node"]}.get(fault.scope, [])
    uid = {"gpu": "gpuheal-gpu", "node": "gpuheal-node"}.get(fault.scope, "gpuheal-fleet")
    if fault.family in BOARD_OF_FAMILY:
        uid, shown = BOARD_OF_FAMILY[fault.family], []
    labels = {"node": "node", "gpu": "gpu_uuid"}
    chosen = {name: labels[name] for name in shown}
    if options.cluster_label:
        chosen = {"cluster": options.cluster_label, **chosen}
    passed = "&".join(f"var-{name}={{{{ $labels.{label} }}}}" for name, label in chosen.items())
    return f"{uid}?{passed}" if passed else uid
