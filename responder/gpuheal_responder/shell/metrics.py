"""Every metric of the responder as data, and the page that explains them: `python -m gpuheal_responder.shell.metrics`.

The text of a metric is its HELP line and its row of METRICS.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.reason import Reason

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
        help="Always 1; the label says which version runs.",
        labels=("version",),
    ),
    MetricDef(
        name="gpuheal_leader",
        kind=Kind.GAUGE,
        help="1 while this replica is the one that acts.",
    ),
    MetricDef(
        name="gpuheal_last_good_round_timestamp_seconds",
        kind=Kind.GAUGE,
        help="When this replica, leading, last ended a round well; 0 while it does not lead.",
    ),
    MetricDef(
        name="gpuheal_frozen",
        kind=Kind.GAUGE,
        help="1 while nothing disruptive starts because the alert pipeline is not well.",
    ),
    MetricDef(
        name="gpuheal_case_state",
        kind=Kind.STANDING,
        help=(
            "1 for each fault of an open case. `state` is acting, waiting, held, incident (its node is part of one), "
            "pending (only a person's approval is missing), observing (the policy only looks, and nothing was "
            "touched), escalated or closing; beside it stale when the case is 48 hours old. GPUHealHeld, "
            "GPUHealActionPending, GPUHealEscalated and GPUHealStaleCase read it."
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
        help=("1 while a faulty node waits because the budget for taints and cordons is spent (GPUHealCordonBudget)."),
    ),
    MetricDef(
        name="gpuheal_fault_cleared_timestamp_seconds",
        kind=Kind.STANDING,
        help=(
            "Until when evidence of this fault is settled, by proof or by a person: a latch whose last event is"
            " not after this is acknowledged. `gpu_uuid` is empty for faults of a whole node."
        ),
        labels=("target_node", "gpu_uuid", "fault"),
    ),
    MetricDef(
        name="gpuheal_ignored_faults",
        kind=Kind.STANDING,
        help="Faults that open no case at this moment; `gpuheal cases --ignored` lists them.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_unreadable_cases",
        kind=Kind.GAUGE,
        help=(
            "Remediations that this version cannot read in full: objects that are no cases to it, and cases "
            "with parts that it does not understand, such as an attempt in an unknown state. Nothing is done "
            "about their nodes."
        ),
    ),
    MetricDef(
        name="gpuheal_unreadable_undo",
        kind=Kind.STANDING,
        help="1 for each node whose undo record this version cannot read: nothing is done there.",
        labels=("target_node",),
    ),
    MetricDef(
        name="gpuheal_incident_nodes",
        kind=Kind.STANDING,
        help=(
            "How many nodes an incident befell: one fault on too much of a pool (`kind` telemetry-anomaly) or on "
            "nodes of one rack, leaf, NVLink domain or driver version (correlated). Their ladders stop until it ends "
            "or a person releases `where` in the controls."
        ),
        labels=("kind", "where", "fault"),
    ),
    MetricDef(
        name="gpuheal_verdicts_total",
        kind=Kind.COUNTER,
        help="Verdicts that differed from the case's last one.",
        labels=("verdict", "reason"),
    ),
    MetricDef(
        name="gpuheal_step_duration_seconds",
        kind=Kind.HISTOGRAM,
        help="Time one performance of a step took; `outcome` is the attempt's state or the reason of its error.",
        labels=("action", "outcome"),
        buckets=STEP_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_tick_duration_seconds",
        kind=Kind.HISTOGRAM,
        help="Time one round of looking, deciding and performing took.",
        labels=("ok",),
        buckets=ROUND_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_observe_errors_total",
        kind=Kind.COUNTER,
        help="Looks at a source (alertmanager, prometheus, kubernetes) that failed.",
        labels=("source",),
    ),
    MetricDef(
        name="gpuheal_evidence_ignored_total",
        kind=Kind.COUNTER,
        help="Series that broke the evidence contract and were left out.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_dead_letters_total",
        kind=Kind.COUNTER,
        help="Alerts and deliveries that name us but cannot be used; each alert counts once while it fires.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_dead_letters_current",
        kind=Kind.STANDING,
        help="Alerts now firing that cannot be used.",
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_deliveries_total",
        kind=Kind.COUNTER,
        help="Webhook deliveries by the HTTP status they were answered with.",
        labels=("answer",),
    ),
    MetricDef(
        name="gpuheal_delivery_duration_seconds",
        kind=Kind.HISTOGRAM,
        help="Time from a delivery's head to its answer.",
        buckets=REQUEST_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_connections_ended_total",
        kind=Kind.COUNTER,
        help=(
            "Connections that were ended before they had asked anything; `reason` is crowd (too many, most of "
            "them from there), silent (no request in time) or handshake (TLS failed)."
        ),
        labels=("reason",),
    ),
    MetricDef(
        name="gpuheal_event_loop_stall_seconds",
        kind=Kind.HISTOGRAM,
        help=(
            "How late the event loop woke a timer of 10 ms, a hundred times a second. While it stands still "
            "webhooks and lease renewals wait."
        ),
        buckets=STALL_BUCKETS,
    ),
    MetricDef(
        name="gpuheal_event_loop_longest_stall_seconds",
        kind=Kind.GAUGE,
        help=(
            "Longest of these stalls within the last minute or two; `time` is wall, or cpu: only what this "
            "process has computed meanwhile. A long wall with a short cpu means that it gets too little CPU."
        ),
        labels=("time",),
    ),
    MetricDef(
        name="gpuheal_config_errors_total",
        kind=Kind.COUNTER,
        help="Changed files (policies, tokens, certificates) that could not be used; the old ones stay in force.",
    ),
)
METRICS = {metric.name: metric for metric in TABLE}

HEAD = """\
# Metrics of the responder

Served at `/metrics`. The node of a case is in the label `target_node`, because Prometheus gives `node` to the
responder's own pod. `reason`, `verdict`, `step` and `fault` are the slugs that also stand in the Remediation, the Event
and `gpuheal explain`.

Made from `gpuheal_responder/shell/metrics.py` by `python -m gpuheal_responder.shell.metrics`; edit the texts there.

"""
FOOT = """\
## Audit lines

Standard output carries one JSON object per line: `at`, `cluster`, `event`, then by event

| event | fields |
|---|---|
| `verdict` | `case`, `node`, `policy`, `faults`, `verdict`, `reason`, `step`, `message`, `until`, `refusals`, … |
| `approval`, `hold` | `case`, `node`, `by`, and what was asked (through the responder's own routes) |
| `refused` | `case`, `message`: somebody whom the API server knows asked for what they may not |
| `dead-letter` | `reason`, `message`, and of an alert `alertname`, `fingerprint` |
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
    yield "## Reasons"
    yield ""
    yield "What `reason` can say of a case, a step or an error:"
    yield ""
    yield "| reason | meaning |"
    yield "|---|---|"
    told = {str(reason): reason.sentence for reason in Reason}
    for action in SPECS.values():
        told |= action.reasons
    for slug, sentence in sorted(told.items()):
        yield f"| `{slug}` | {sentence} |"


if __name__ == "__main__":
    sys.stdout.write(page())
