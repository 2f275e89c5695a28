"""Every metric of the responder as data, and the page that explains them: `python -m gpuheal_responder.shell.metrics`.

The text of a metric is its HELP line and its row of METRICS.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.reason import DeadLetterReason, Reason, SeriesReason

STEP_BUCKETS = (0.1, 1, 10, 60, 300, 900, 1800, 3600, 7200)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 10)
ROUND_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Kind(StrEnum):
    """How a metric comes about."""

    INFO = "info"
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    STANDING = "standing"
    """A gauge that is made anew at each scrape, from the last round."""

    @property
    def type(self) -> str:
        """The type that Prometheus is told."""
        return "gauge" if self in (Kind.INFO, Kind.STANDING) else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDef:
    """One metric; `name` is the one that is scraped, with `_total` and `_info`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


TABLE = (
    MetricDef(
        name="gpuheal_responder_info",
        kind=Kind.INFO,
        help="Always 1; the running version is in the label.",
        labels=("version",),
    ),
    MetricDef(
        name="gpuheal_leader",
        kind=Kind.GAUGE,
        help="1 while this replica is the leader.",
    ),
    MetricDef(
        name="gpuheal_last_good_round_timestamp_seconds",
        kind=Kind.GAUGE,
        help="When this replica last completed a round successfully as the leader; 0 while it is not the leader.",
    ),
    MetricDef(
        name="gpuheal_frozen",
        kind=Kind.GAUGE,
        help="1 while no disruptive step may start because the alert pipeline is unhealthy.",
    ),
    MetricDef(
        name="gpuheal_case_state",
        kind=Kind.STANDING,
        help=(
            "1 for each fault of an open case. `state` is acting, waiting, held, incident (its node is part of one), "
            "pending (waits only for manual approval), observing (mode observe, and nothing was "
            "touched), escalated or closing; in addition stale once the case is 48h old. Used by GPUHealHeld, "
            "GPUHealActionPending, GPUHealEscalated and GPUHealStaleCase."
        ),
        labels=("target_node", "fault", "state", "step", "phase", "reason"),
    ),
    MetricDef(
        name="gpuheal_case_opened_timestamp_seconds",
        kind=Kind.STANDING,
        help="When the open case of a node was opened.",
        labels=("target_node", "case"),
    ),
    MetricDef(
        name="gpuheal_cordon_budget_exhausted",
        kind=Kind.STANDING,
        help=(
            "1 while a faulty node is not contained because the budget for new taints is spent (GPUHealCordonBudget)."
        ),
    ),
    MetricDef(
        name="gpuheal_fault_cleared_timestamp_seconds",
        kind=Kind.STANDING,
        help=(
            "Evidence of this fault up to this time is settled, by verification or manually: a latch whose last "
            "event is not newer is acknowledged. `gpu_uuid` is empty for node-wide faults."
        ),
        labels=("target_node", "gpu_uuid", "fault"),
    ),
    MetricDef(
        name="gpuheal_ignored_faults",
        kind=Kind.STANDING,
        help="Active faults that open no case, by reason; listed by `gpuheal cases --ignored`.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_unreadable_cases",
        kind=Kind.GAUGE,
        help=(
            "Remediations that this version cannot read in full: objects it cannot parse as a case, and cases "
            "with fields it does not understand, such as an attempt in an unknown state. No action is taken "
            "on their nodes."
        ),
    ),
    MetricDef(
        name="gpuheal_unreadable_undo",
        kind=Kind.STANDING,
        help="1 for each node whose undo record this version cannot read; no action is taken on it.",
        labels=("target_node",),
    ),
    MetricDef(
        name="gpuheal_incident_nodes",
        kind=Kind.STANDING,
        help=(
            "Nodes affected by an incident: one fault on too large a share of a pool (`kind` telemetry-anomaly) or on "
            "nodes of one rack, leaf, NVLink domain or driver version (correlated). Disruptive steps are held until it "
            "ends or someone releases `where` in the controls ConfigMap."
        ),
        labels=("kind", "where", "fault"),
    ),
    MetricDef(
        name="gpuheal_verdicts_total",
        kind=Kind.COUNTER,
        help="Verdicts that differed from the case's previous one.",
        labels=("verdict", "reason"),
    ),
    MetricDef(
        name="gpuheal_step_duration_seconds",
        kind=Kind.HISTOGRAM,
        help="Duration of one run of a step; `outcome` is the attempt's state or the reason of its error.",
        labels=("action", "outcome"),
        buckets=STEP_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_tick_duration_seconds",
        kind=Kind.HISTOGRAM,
        help="Duration of one reconcile round: read, decide, act.",
        labels=("ok",),
        buckets=ROUND_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_observe_errors_total",
        kind=Kind.COUNTER,
        help="Failed reads of a source (alertmanager, prometheus, kubernetes).",
        labels=("source",),
    ),
    MetricDef(
        name="gpuheal_evidence_ignored_total",
        kind=Kind.COUNTER,
        help="Evidence series that violated the contract and were ignored.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_dead_letters_total",
        kind=Kind.COUNTER,
        help="Alerts and deliveries addressed to gpuheal that cannot be used; an alert counts once while it fires.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_dead_letters_current",
        kind=Kind.STANDING,
        help="Firing alerts addressed to gpuheal that cannot be used.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_deliveries_total",
        kind=Kind.COUNTER,
        help="Webhook deliveries by HTTP response status.",
        labels=("answer",),
    ),
    MetricDef(
        name="gpuheal_delivery_duration_seconds",
        kind=Kind.HISTOGRAM,
        help="Time from the request headers of a webhook delivery to the response.",
        buckets=REQUEST_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_connections_ended_total",
        kind=Kind.COUNTER,
        help=(
            "Connections closed before a request was served; `reason` is crowd (connection limit reached, and this "
            "address had the most), silent (no request in time) or handshake (TLS failed)."
        ),
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_event_loop_stall_seconds",
        kind=Kind.HISTOGRAM,
        help=(
            "Delay of a 10 ms timer of the event loop, sampled 100 times a second. While the loop stalls, "
            "webhooks and Lease renewals wait."
        ),
        buckets=STALL_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_event_loop_longest_stall_seconds",
        kind=Kind.GAUGE,
        help=(
            "Longest stall within the last minute or two; `time` is wall, or cpu for the CPU time that this "
            "process used during it. A long wall time with little CPU time means CPU starvation."
        ),
        labels=("time",),
    ),
    MetricDef(
        name="gpuheal_config_errors_total",
        kind=Kind.COUNTER,
        help="Failed reloads of changed files (policies, tokens, certificates); the previous content stays in force.",
    ),
)
METRICS = {metric.name: metric for metric in TABLE}

HEAD = """\
# Metrics of the responder

Served at `/metrics`. The node of a case is in the label `target_node`, because Prometheus gives `node` to the
responder's own pod. `reason`, `verdict`, `step` and `fault` hold the same slugs as the Remediation, the Event
and `gpuheal explain`.

Generated from `gpuheal_responder/shell/metrics.py` by `python -m gpuheal_responder.shell.metrics`; edit it there.

"""
FOOT = """\
## Audit log

Standard output carries one JSON object per line: `at`, `cluster`, `event`, then by event

| event | fields |
|---|---|
| `verdict` | `case`, `node`, `policy`, `faults`, `verdict`, `reason`, `step`, `message`, `until`, `refusals`, … |
| `approval`, `hold` | `case`, `node`, `by`, and the request's fields (requests to the responder's own API) |
| `refused` | `case`, `message`: an authenticated user asked for something they are not allowed to do |
| `dead-letter` | `reason`, `message`; for an alert also `alertname`, `fingerprint` |
| `config-error` | `message` |
"""


def page() -> str:
    """Return the page METRICS.md."""
    return HEAD + "".join(f"{row}\n" for row in _rows()) + f"\n{FOOT}\n" + "".join(f"{row}\n" for row in _reasons())


def _rows() -> Iterator[str]:
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in TABLE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind.type} | {labels}{' ' if labels else ''}| {metric.help} |"


def _reasons() -> Iterator[str]:
    told = {str(reason): reason.sentence for reason in Reason}
    for action in SPECS.values():
        told |= action.reasons
    yield "## Reasons"
    yield ""
    yield from _told("Values of `reason` for a case, a step or an error:", told)
    yield ""
    yield from _told("Of a dead letter:", {str(reason): reason.sentence for reason in DeadLetterReason})
    yield ""
    yield from _told("Of a series that is ignored as evidence:", {str(r): r.sentence for r in SeriesReason})


def _told(of: str, told: Mapping[str, str]) -> Iterator[str]:
    yield of
    yield ""
    yield "| reason | meaning |"
    yield "|---|---|"
    for slug, sentence in sorted(told.items()):
        yield f"| `{slug}` | {sentence} |"


if __name__ == "__main__":
    sys.stdout.write(page())
