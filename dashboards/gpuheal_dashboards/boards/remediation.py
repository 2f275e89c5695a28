"""Remediation: the cases, what they wait for, what was done, how long it took, and what came back."""

from __future__ import annotations

from collections.abc import Sequence

from gpuheal_dashboards.boards.parts import CLUSTER, alert_marks, case_marks, graph, stat, table
from gpuheal_dashboards.model import Board, Column, Panel, Query, Row, Shade
from gpuheal_dashboards.style import (
    BAD_FROM_ONE,
    BLUE,
    CASE_STATES,
    GREEN,
    GREY,
    ORANGE,
    PLAIN,
    PURPLE,
    REMEDIATION,
    WARN_FROM_ONE,
    YES,
    node_column,
)
from gpuheal_responder.core.undo import TAINT_KEY

STATE = "gpuheal_case_state == 1"
OPENED = "max by (target_node, case) (gpuheal_case_opened_timestamp_seconds)"
AGE = f"time() - {OPENED}"
TAINTED = (
    f'label_replace(group by (node) (kube_node_spec_taint{{key="{TAINT_KEY}"}}), "target_node", "$1", "node", "(.+)")'
)
BEFORE = "max by (target_node, case) (gpuheal_case_opened_timestamp_seconds offset $__range)"
"""Cases that were open when the range begins: what they waited for first is not in it."""
TO_TAINT = (
    f"min_over_time(({AGE} and on (target_node) {TAINTED})[$__range:15s]) unless on (target_node, case) ({BEFORE})"
)
SEEN = f"last_over_time(({OPENED})[$__range:1m])"
TO_REPAIR = f"max_over_time(({AGE})[$__range:1m]) unless on (target_node, case) ({OPENED})"
ROWS = 100


NOW: Sequence[Panel] = (
    stat(
        id=401,
        title="Open cases by state",
        description="Nodes with an open case, by what their case does.",
        queries=[Query(expr=f"count by (state) (group by (target_node, state) ({STATE}))", legend="{{state}}")],
        colors=CASE_STATES,
        width=12,
        nothing="no open case",
    ),
    stat(
        id=402,
        title="Approvals waiting",
        description="Cases that wait for nothing but an approval: `gpuheal cases`, then `gpuheal approve`.",
        queries=[
            Query(
                expr='count(group by (target_node) (gpuheal_case_state{state="pending"} == 1)) or vector(0)',
            )
        ],
        steps=((None, GREEN), (1, PURPLE)),
    ),
    stat(
        id=403,
        title="Budget for taints spent",
        description="Whether a faulty node is not contained because the budget for new taints is spent.",
        queries=[Query(expr="max(gpuheal_cordon_budget_exhausted)")],
        texts=YES,
    ),
    stat(
        id=404,
        title="Frozen",
        description="Whether no disruptive step may start because the alert pipeline is not healthy.",
        queries=[Query(expr="max(gpuheal_frozen)")],
        texts=YES,
    ),
    stat(
        id=405,
        nothing="none",
        title="Held by a budget",
        description="Cases whose next step would exceed a limit, by limit.",
        queries=[
            Query(
                expr=(
                    'count by (reason) (group by (target_node, reason) (gpuheal_case_state{reason=~".+-budget"} == 1))'
                ),
                legend="{{reason}}",
            )
        ],
        steps=WARN_FROM_ONE,
        width=8,
    ),
    stat(
        id=406,
        nothing="none",
        title="Faults that open no case",
        description="Active faults that gpuheal leaves alone, by reason: `gpuheal cases --ignored`.",
        queries=[Query(expr="max by (reason) (gpuheal_ignored_faults) > 0", legend="{{reason}}")],
        steps=PLAIN,
        width=8,
    ),
    stat(
        id=407,
        title="Cases that cannot be read",
        description="Remediations and undo records that this version cannot read; nothing is done on their nodes.",
        queries=[
            Query(expr="max(gpuheal_unreadable_cases)", legend="cases"),
            Query(expr="count(gpuheal_unreadable_undo == 1) or vector(0)", legend="undo records"),
        ],
        steps=BAD_FROM_ONE,
        width=8,
    ),
)

BY = "target_node, fault, state, step, phase, reason"
CASES: Sequence[Panel] = (
    table(
        id=411,
        title="Open cases",
        description=f"Each fault of each open case: what is done and what it waits for. The {ROWS} oldest.",
        queries=[
            Query(
                expr=(
                    f"topk({ROWS}, max by ({BY}) ({STATE}) * 0 + on (target_node) group_left (case) "
                    f"topk by (target_node) (1, {AGE}))"
                )
            )
        ],
        columns=(
            node_column("target_node"),
            Column(title="Fault", label="fault", width=190),
            Column(title="State", label="state", texts=CASE_STATES, width=150),
            Column(title="Step", label="step", width=90),
            Column(title="Phase", label="phase", width=100),
            Column(title="Reason", label="reason", words="reason"),
            Column(title="Case", label="case", width=200),
            Column(title="Age", value="A", unit="s", decimals=1, width=90),
        ),
        sort="Age",
        width=24,
        height=10,
        nothing="no open case",
    ),
    table(
        id=412,
        title="What blocks",
        description="What the open cases that do not act wait for, by number of nodes.",
        queries=[
            Query(
                expr=(
                    "count by (reason) (group by (target_node, reason) "
                    '(gpuheal_case_state{state=~"waiting|held|incident|pending|escalated"} == 1))'
                )
            )
        ],
        columns=(
            Column(title="Reason", label="reason", words="reason"),
            Column(title="Nodes", value="A", width=80),
        ),
        sort="Nodes",
        nothing="nothing",
    ),
    graph(
        id=413,
        title="Open cases by state",
        description="Nodes with an open case, by what their case does.",
        queries=[Query(expr=f"count by (state) (group by (target_node, state) ({STATE}))", legend="{{state}}")],
        colors=CASE_STATES,
        stacked=True,
        lowest=0,
    ),
    graph(
        id=414,
        title="Nodes out of service",
        description="Nodes with gpuheal's taint, and all nodes that are cordoned, whoever did it.",
        queries=[
            Query(
                expr=f'count(group by (node) (kube_node_spec_taint{{key="{TAINT_KEY}"}})) or vector(0)',
                legend="tainted by gpuheal",
            ),
            Query(expr="count(kube_node_spec_unschedulable == 1) or vector(0)", legend="cordoned"),
        ],
        colors={"tainted by gpuheal": Shade(color=ORANGE), "cordoned": Shade(color=GREY)},
        lowest=0,
    ),
    table(
        id=415,
        nothing="none",
        title="Incidents",
        description="What affects many nodes at once; disruptive steps are held until it ends or is released.",
        queries=[Query(expr="max by (kind, where, fault) (gpuheal_incident_nodes)")],
        columns=(
            Column(title="Where", label="where"),
            Column(title="Kind", label="kind", width=150),
            Column(title="Fault", label="fault"),
            Column(title="Nodes", value="A", width=80),
        ),
        sort="Nodes",
    ),
)


def _ran(part: str) -> str:
    return f"increase(gpuheal_step_duration_seconds_{part}[$__range])"


RAN = f"sum by (action, outcome) ({_ran('count')}) > 0.5"
STEPS: Sequence[Panel] = (
    table(
        id=421,
        title="Steps",
        description="Runs of each action within the range, by outcome, and how long they took.",
        queries=[
            Query(expr=RAN),
            Query(expr=f"sum by (action, outcome) ({_ran('sum')}) / ({RAN})"),
            Query(
                expr=(
                    f"histogram_quantile(0.95, sum by (le, action, outcome) ({_ran('bucket')})) "
                    f"and on (action, outcome) ({RAN})"
                )
            ),
        ],
        columns=(
            Column(title="Action", label="action"),
            Column(title="Outcome", label="outcome"),
            Column(title="Runs", value="A", decimals=0, width=80),
            Column(title="Mean", value="B", unit="s", decimals=1, width=90),
            Column(title="95th percentile", value="C", unit="s", decimals=1, width=120),
        ),
        sort="Runs",
        nothing="no step ran",
    ),
    graph(
        id=422,
        title="Decisions per hour",
        description="Verdicts that differ from the case's previous one.",
        queries=[
            Query(expr="sum by (verdict) (increase(gpuheal_verdicts_total[1h]))", legend="{{verdict}}"),
        ],
        lowest=0,
    ),
)

TIMES: Sequence[Panel] = (
    stat(
        id=431,
        title="Time to taint",
        description=(
            "From the opening of a case to the taint on its node, as kube-state-metrics shows it: median and "
            "longest of the cases that were opened within the range."
        ),
        queries=[
            Query(expr=f"quantile(0.5, {TO_TAINT})", legend="median"),
            Query(expr=f"max({TO_TAINT})", legend="longest"),
        ],
        unit="s",
        decimals=1,
        steps=PLAIN,
        width=8,
    ),
    stat(
        id=432,
        title="Time to repair",
        description="From the opening of a case to its end: median and longest of those that ended in the range.",
        queries=[
            Query(expr=f"quantile(0.5, {TO_REPAIR})", legend="median"),
            Query(expr=f"max({TO_REPAIR})", legend="longest"),
        ],
        unit="s",
        decimals=1,
        steps=PLAIN,
        width=8,
    ),
    stat(
        id=433,
        title="Cases opened and ended",
        description="Cases that were opened, and that ended, within the range.",
        queries=[
            Query(
                expr=f"count({SEEN} unless on (target_node, case) ({BEFORE})) or vector(0)",
                legend="opened",
            ),
            Query(expr=f"count({TO_REPAIR}) or vector(0)", legend="ended"),
        ],
        colors={"opened": Shade(color=BLUE), "ended": Shade(color=GREEN)},
        width=8,
    ),
    table(
        id=434,
        nothing="none",
        title="Cases that ended",
        description=f"How long each case took that ended within the range; the {ROWS} longest.",
        queries=[Query(expr=f"topk({ROWS}, {TO_REPAIR})")],
        columns=(
            node_column("target_node"),
            Column(title="Case", label="case"),
            Column(title="Took", value="A", unit="s", decimals=1, width=100),
        ),
        sort="Took",
    ),
    table(
        id=435,
        nothing="none",
        title="Relapses",
        description="Nodes that had more than one case within the range: what was done did not help for long.",
        queries=[
            Query(
                expr=(
                    "count by (target_node) (count by (target_node, case) "
                    "(count_over_time(gpuheal_case_opened_timestamp_seconds[$__range]))) > 1"
                )
            )
        ],
        columns=(node_column("target_node"), Column(title="Cases", value="A", width=100, steps=WARN_FROM_ONE)),
        sort="Cases",
    ),
)

BOARD = Board(
    uid=REMEDIATION,
    title="gpuheal / Remediation",
    description="Cases: what gpuheal does, what it waits for, how long it takes, and what comes back.",
    variables=(CLUSTER,),
    rows=(
        Row(id=400, title="Now", panels=NOW),
        Row(id=410, title="Cases", panels=CASES),
        Row(id=420, title="Steps", panels=STEPS),
        Row(id=430, title="How long, and what comes back", panels=TIMES),
    ),
    marks=(alert_marks('scope="fleet"'), case_marks()),
    since="now-24h",
)
