"""Fleet: how many GPUs are healthy, what is lost, where, and which are worst."""

from __future__ import annotations

from collections.abc import Sequence

from gpuheal_dashboards.boards.parts import CLUSTER, alert_marks, alerts_of, bars, graph, stat, table
from gpuheal_dashboards.model import Board, Column, Link, Panel, Query, Row, Shade
from gpuheal_dashboards.style import (
    BAD_FROM_ONE,
    BLUE,
    FLEET,
    GREEN,
    PLAIN,
    RED,
    REMEDIATION,
    SCORE_STEPS,
    SEVERITIES,
    STATES,
    TIERS,
    WARN_FROM_ONE,
    YELLOW,
    gpu_column,
    node_column,
    runbook_column,
)

STATE, SCORE = "gpuheal:gpu_state", "gpuheal:gpu_score"
OUT = "kube_node_spec_unschedulable == 1"
TOPOLOGY = "gpuheal:node_topology:info"
LOST = (
    f"(sum(gpuheal:node_gpus:count and on (node) {OUT}) or vector(0)) "
    f"+ (count({STATE} >= 3 unless on (node) {OUT}) or vector(0))"
)
CAPACITY = f"({LOST}) / sum(gpuheal:node_gpus:count)"
"""GPUs on cordoned nodes, and faulty, lost and unknown ones elsewhere, of all."""

SHADE_LOST = Shade(color=RED)
SHARE_STEPS = ((None, GREEN), (0.02, YELLOW), (0.05, RED))
DRIVER = "topk by (node) (1, group by (node, driver_version) (gpuheal_nvml_driver_info))"
ROWS = 20


NOW: Sequence[Panel] = (
    stat(
        id=101,
        title="GPUs by state",
        description="How many GPUs are in each state. Unknown: no source that answers now reports the GPU.",
        queries=[Query(expr=f"sum({STATE} == bool {value})", legend=shade.text) for value, shade in STATES.items()],
        colors={shade.text: shade for shade in STATES.values()},
        width=12,
    ),
    stat(
        id=102,
        title="Capacity lost",
        description="Share of GPUs that no job can use: all on cordoned nodes, and faulty, lost or unknown ones.",
        queries=[Query(expr=CAPACITY)],
        unit="percentunit",
        decimals=1,
        steps=SHARE_STEPS,
    ),
    stat(
        id=103,
        title="Good GPUs out of service",
        description="GPUs that are not faulty, lost or unknown, on nodes that are cordoned: what neighbours cost.",
        queries=[Query(expr=f"count({STATE} < 3 and on (node) {OUT}) or vector(0)")],
        steps=WARN_FROM_ONE,
    ),
    stat(
        id=104,
        title="Nodes with an open case",
        description="Nodes for which gpuheal has an open Remediation.",
        queries=[Query(expr="count(group by (target_node) (gpuheal_case_state == 1)) or vector(0)")],
        steps=PLAIN,
        link=Link(title="Open remediation", uid=REMEDIATION),
    ),
    stat(
        id=105,
        title="Nodes by tier",
        description="What a node is good for, by the score of its worst GPU over 15m; none while a GPU is unknown.",
        queries=[Query(expr="count by (tier) (gpuheal:node_tier)", legend="{{tier}}")],
        colors=TIERS,
        width=12,
    ),
    stat(
        id=106,
        title="GPUs",
        description="All GPUs that are known, lost ones included.",
        queries=[Query(expr="sum(gpuheal:node_gpus:count)")],
        steps=PLAIN,
    ),
    stat(
        id=107,
        title="Firing alerts",
        description="gpuheal's alerts that fire, by severity; the watchdog, which always fires, is left out.",
        queries=[Query(expr=f"count by (severity) ({alerts_of()})", legend="{{severity}}")],
        colors=SEVERITIES,
        width=8,
    ),
)

TIME: Sequence[Panel] = (
    graph(
        id=111,
        nothing="none",
        title="GPUs that are not ok",
        description="GPUs by state, without those that are ok.",
        queries=[Query(expr=f'count_values("state", {STATE} > 0)', legend="{{state}}")],
        colors=STATES,
        stacked=True,
        lowest=0,
        min_step="1m",
    ),
    graph(
        id=112,
        title="Capacity lost",
        description="Share of GPUs that no job can use: all on cordoned nodes, and faulty, lost or unknown ones.",
        queries=[Query(expr=CAPACITY, legend="capacity lost")],
        colors={"capacity lost": SHADE_LOST},
        unit="percentunit",
        lowest=0,
        min_step="1m",
    ),
    graph(
        id=113,
        nothing="none",
        title="Active faults",
        description="GPUs (nodes, for a fault of a whole node) on which each kind of fault is active.",
        queries=[Query(expr="count by (fault) (gpuheal:fault_active:count)", legend="{{fault}}")],
        lowest=0,
    ),
    graph(
        id=114,
        title="Nodes by tier",
        description="What nodes are good for, by the score of their worst GPU over 15m.",
        queries=[Query(expr="count by (tier) (gpuheal:node_tier)", legend="{{tier}}")],
        colors=TIERS,
        stacked=True,
        lowest=0,
        min_step="1m",
    ),
    graph(
        id=115,
        nothing="none",
        title="Nodes that went bad within 30m, most in one place",
        description=(
            "The largest number of nodes of one rack, NVLink domain or driver version that went bad within 30m. "
            "One that rises above the others has a common cause: power, cooling, a switch, a rollout."
        ),
        queries=[
            Query(expr="max(gpuheal:rack:new_bad_nodes)", legend="rack"),
            Query(expr="max(gpuheal:fabric_domain:new_bad_nodes)", legend="NVLink domain"),
            Query(expr="max(gpuheal:driver_version:new_bad_nodes)", legend="driver version"),
        ],
        lowest=0,
    ),
    bars(
        id=116,
        title="GPUs by score",
        description="GPUs by band of the score. The limits are those of the tiers; unknown GPUs have none.",
        queries=[
            Query(expr=f"count({SCORE} > 0.9995) or vector(0)", legend="1"),
            Query(expr=f"count({SCORE} > 0.9 <= 0.9995) or vector(0)", legend="above 0.9"),
            Query(expr=f"count({SCORE} >= 0.7 <= 0.9) or vector(0)", legend="0.7 to 0.9"),
            Query(expr=f"count({SCORE} < 0.7) or vector(0)", legend="below 0.7"),
        ],
        colors={
            name: Shade(color=color)
            for name, color in {"1": BLUE, "above 0.9": GREEN, "0.7 to 0.9": YELLOW, "below 0.7": RED}.items()
        },
        lowest=0,
    ),
)

WORST_20 = f"bottomk({ROWS}, {SCORE} < 0.9995)"
WORST: Sequence[Panel] = (
    table(
        id=121,
        title="GPUs with the lowest scores",
        description=f"The {ROWS} GPUs with the lowest scores below 1, their states and numbers of faults.",
        queries=[
            Query(expr=f"max by (node, gpu_uuid) ({WORST_20})"),
            Query(expr=f"max by (node, gpu_uuid) ({STATE} and on (node, gpu_uuid) {WORST_20})"),
            Query(
                expr=f"count by (node, gpu_uuid) (gpuheal:fault_active:count) and on (node, gpu_uuid) {WORST_20}",
            ),
        ],
        columns=(
            node_column(),
            gpu_column(),
            Column(title="Score", value="A", decimals=2, steps=SCORE_STEPS, width=90),
            Column(title="State", value="B", texts=STATES, width=110),
            Column(title="Faults", value="C", width=80),
        ),
        sort="-Score",
        nothing="Every GPU has the score 1",
    ),
    table(
        id=122,
        nothing="none",
        title="Firing alerts by name",
        description="gpuheal's alerts that fire, each with a link to its runbook.",
        queries=[Query(expr=f"count by (alertname, severity) ({alerts_of()})")],
        columns=(
            runbook_column(),
            Column(title="Severity", label="severity", texts=SEVERITIES, width=110),
            Column(title="Firing", value="A", width=90),
        ),
        sort="Firing",
        width=7,
    ),
    table(
        id=123,
        nothing="none",
        title="Nodes with unknown GPUs",
        description=f"The {ROWS} nodes with the most GPUs that no source reports now.",
        queries=[Query(expr=f"topk({ROWS}, count by (node) (gpuheal:gpu_unknown:info))")],
        columns=(node_column(), Column(title="Unknown GPUs", value="A", width=120, steps=BAD_FROM_ONE)),
        sort="Unknown GPUs",
        width=5,
    ),
)

BAD = f"({STATE} >= 3)"
INFO = 'gpuheal_gpu_info{gpu_uuid!=""}'
MODEL_OF_BAD = f"group by (node, gpu_uuid, product) ({INFO} and on (node, gpu_uuid) {BAD})"
"""Grouped are the few that are asked about: grouping 16,384 GPUs takes seconds."""
RACKS = f'{TOPOLOGY}{{rack!=""}}'
OF_RACK = f"count by (rack) ({BAD} * on (node) group_left (rack) {RACKS})"
ALL_RACK = f"sum by (rack) (gpuheal:node_gpus:count * on (node) group_left (rack) {RACKS})"


def _by_fact(*, id: int, title: str, of: str, label: str, every: str, bad: str) -> Panel:  # noqa: A002
    """Return the table of a fact that only gpuheal's exporter knows; where it is silent it is not reported."""
    return table(
        id=id,
        title=title,
        description=f"GPUs by {of.lower()}, as NVML reports it: all, and those that are faulty, lost or unknown.",
        queries=[Query(expr=every), Query(expr=bad)],
        columns=(
            Column(title=of, label=label),
            Column(title="GPUs", value="A", width=70),
            Column(title="Bad", value="B", width=60, steps=BAD_FROM_ONE),
        ),
        sort="GPUs",
        width=6,
    )


def _or_none(expr: str, rest: str, label: str) -> str:
    return f'{expr} or label_replace({rest}, "{label}", "not reported", "", "")'


WHERE: Sequence[Panel] = (
    table(
        id=131,
        nothing="none",
        title="By rack",
        description="Racks with faulty, lost or unknown GPUs: how many, and the share of the rack's GPUs.",
        queries=[
            Query(expr=f"topk(50, {OF_RACK})"),
            Query(expr=f"{OF_RACK} / on (rack) ({ALL_RACK}) and on (rack) topk(50, {OF_RACK})"),
        ],
        columns=(
            Column(title="Rack", label="rack"),
            Column(title="Bad GPUs", value="A", width=90),
            Column(title="Share", value="B", unit="percentunit", decimals=1, width=130, gauge=True),
        ),
        sort="Bad GPUs",
        width=6,
    ),
    _by_fact(
        id=132,
        title="By model",
        of="Model",
        label="product",
        every=_or_none(f"count by (product) ({INFO})", f"sum(gpuheal:node_gpus:count) - count({INFO}) > 0", "product"),
        bad=_or_none(
            f"count by (product) ({BAD} * on (node, gpu_uuid) group_left (product) {MODEL_OF_BAD})",
            f"count({BAD} unless on (node) gpuheal_nvml_driver_info)",
            "product",
        ),
    ),
    _by_fact(
        id=133,
        title="By driver",
        of="Driver",
        label="driver_version",
        every=_or_none(
            f"sum by (driver_version) (gpuheal:node_gpus:count * on (node) group_left (driver_version) {DRIVER})",
            "sum(gpuheal:node_gpus:count unless on (node) gpuheal_nvml_driver_info)",
            "driver_version",
        ),
        bad=_or_none(
            f"count by (driver_version) ({BAD} * on (node) group_left (driver_version) {DRIVER})",
            f"count({BAD} unless on (node) gpuheal_nvml_driver_info)",
            "driver_version",
        ),
    ),
    table(
        id=134,
        nothing="none",
        title="Incidents",
        description=(
            "What affects many nodes at once. Disruptive steps are held until it ends or somebody releases it."
        ),
        queries=[Query(expr="max by (kind, where, fault) (gpuheal_incident_nodes)")],
        columns=(
            Column(title="Where", label="where"),
            Column(title="Kind", label="kind", width=110),
            Column(title="Fault", label="fault"),
            Column(title="Nodes", value="A", width=70),
        ),
        sort="Nodes",
        width=6,
    ),
)


BOARD = Board(
    uid=FLEET,
    title="gpuheal / Fleet",
    description="State of every GPU as gpuheal sees it: how many are healthy or lost, where, and which are worst.",
    variables=(CLUSTER,),
    rows=(
        Row(id=100, title="Now", panels=NOW),
        Row(id=110, title="Over time", panels=TIME),
        Row(id=120, title="Worst first", panels=WORST),
        Row(id=130, title="Where", panels=WHERE),
    ),
    marks=(alert_marks('scope="fleet"'),),
)
