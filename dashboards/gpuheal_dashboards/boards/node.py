"""Node: the state of each GPU over time, what was seen of them, and how the node's sources are."""

from __future__ import annotations

from collections.abc import Sequence

from gpuheal_dashboards.boards.parts import (
    CLUSTER,
    ONE_NODE,
    THIS_CASE,
    THIS_NODE,
    alert_marks,
    alerts_of,
    case_marks,
    graph,
    of_dcgm,
    stat,
    states,
    table,
)
from gpuheal_dashboards.model import Board, Column, Panel, Query, Row, Shade
from gpuheal_dashboards.style import (
    CASE_STATES,
    GREEN,
    NODE,
    ORANGE,
    PLAIN,
    RED,
    SCORE_STEPS,
    SEEN,
    SEVERITIES,
    STATES,
    TIERS,
    UP,
    YELLOW,
    runbook_column,
    to_gpu,
)

STATE = f"gpuheal:gpu_state{{{THIS_NODE}}}"
SLOT = f"topk by (node, gpu_uuid) (1, group by (node, gpu_uuid, slot) (gpuheal_gpu_info{{{THIS_NODE}}}))"
PORTS = {
    "1": Shade(text="down", color=RED),
    "2": Shade(text="init", color=YELLOW),
    "3": Shade(text="armed", color=YELLOW),
    "4": Shade(text="active", color=GREEN),
}
ALARM = ((None, ORANGE),)


NOW: Sequence[Panel] = (
    stat(
        id=201,
        title="Score",
        description="Score of the node's worst GPU, 0 to 1. None while one of its GPUs is unknown.",
        queries=[Query(expr=f"min(gpuheal:node_score{{{THIS_NODE}}})")],
        decimals=2,
        steps=SCORE_STEPS,
        nothing="unknown",
    ),
    stat(
        id=202,
        title="Tier",
        description="What the node is good for, by the score of its worst GPU over 15m.",
        queries=[Query(expr=f"group by (tier) (gpuheal:node_tier{{{THIS_NODE}}})", legend="{{tier}}")],
        colors=TIERS,
        named=True,
    ),
    stat(
        id=203,
        title="GPUs by state",
        description="How many of the node's GPUs are in each state; states without a GPU are left out.",
        queries=[Query(expr=f'count_values("state", {STATE})', legend="{{state}}")],
        colors=STATES,
        width=8,
    ),
    stat(
        id=204,
        title="Uptime",
        description="Time since the node's last boot.",
        queries=[Query(expr=f"time() - max(gpuheal_node_boot_timestamp_seconds{{{THIS_NODE}}})")],
        unit="s",
        decimals=1,
        steps=PLAIN,
    ),
    stat(
        id=205,
        title="Driver",
        description="Version of the NVIDIA driver, as NVML reports it.",
        queries=[
            Query(
                expr=f"group by (driver_version) (gpuheal_nvml_driver_info{{{THIS_NODE}}})",
                legend="{{driver_version}}",
            )
        ],
        named=True,
        steps=PLAIN,
    ),
    stat(
        id=206,
        nothing="none",
        title="Guards",
        description="Why absences on this node are taken for no fault now: a boot, an upgrade, a step of gpuheal.",
        queries=[Query(expr=f"group by (reason) (gpuheal:node_guard:info{{{THIS_NODE}}})", legend="{{reason}}")],
        named=True,
        steps=PLAIN,
        width=6,
    ),
    stat(
        id=207,
        nothing="none",
        title="Problems of telemetry and cases",
        description="What keeps gpuheal from seeing or healing this node.",
        queries=[Query(expr=f"group by (problem) (gpuheal:node_problem:info{{{THIS_NODE}}})", legend="{{problem}}")],
        named=True,
        steps=ALARM,
        width=18,
    ),
    table(
        id=208,
        title="Case",
        description="The node's open case, one row for each fault: what is done, and what it waits for.",
        queries=[
            Query(expr=f"max by (fault, state, step, phase, reason) (gpuheal_case_state{{{THIS_CASE}}} == 1)"),
        ],
        columns=(
            Column(title="Fault", label="fault"),
            Column(title="State", label="state", texts=CASE_STATES, width=150),
            Column(title="Step", label="step", width=110),
            Column(title="Phase", label="phase", width=110),
            Column(title="Reason", label="reason"),
        ),
        height=6,
        nothing="no open case",
    ),
    table(
        id=209,
        title="Firing alerts",
        description="gpuheal's alerts about this node, each with a link to its runbook.",
        queries=[
            Query(expr=f"count by (alertname, severity, gpu_uuid) ({alerts_of(THIS_NODE)})"),
        ],
        columns=(
            runbook_column(),
            Column(title="Severity", label="severity", texts=SEVERITIES, width=110),
            Column(title="GPU", label="gpu_uuid"),
        ),
        height=6,
        nothing="no alert fires",
    ),
)

SHORT = '"gpu", "$1$2", "gpu_uuid", "(.{12}).*|(.+)"'
JOINED = f"{STATE} * on (node, gpu_uuid) group_left (slot) {SLOT} or on (node, gpu_uuid) {STATE}"
TIMELINES: Sequence[Panel] = (
    states(
        id=211,
        title="State of each GPU",
        description="One line per GPU, by slot and beginning of its UUID. A click leads to the GPU.",
        queries=[
            Query(
                expr=f"max by (node, gpu_uuid, slot, gpu) (label_replace({JOINED}, {SHORT}))",
                legend="{{slot}} {{gpu}}",
            )
        ],
        texts=STATES,
        link=to_gpu("node", "gpu_uuid"),
        width=24,
        height=9,
    ),
    states(
        id=212,
        title="Evidence",
        description=(
            "What speaks of a fault that is not settled: kind of fault, class of the source, and the GPU (none for "
            "a fault of the whole node)."
        ),
        queries=[
            Query(
                expr=(
                    "group by (fault, class, gpu) (label_replace("
                    f"gpuheal:fault_evidence:open_seconds{{{THIS_NODE}}}, {SHORT}))"
                ),
                legend="{{fault}} · {{class}} · {{gpu}}",
            )
        ],
        texts=SEEN,
        width=16,
    ),
    states(
        id=213,
        title="Sources",
        description="Whether the exporters of this node report its GPUs.",
        queries=[
            Query(
                expr=(
                    f"max by (source) (gpuheal:source_up:info{{{THIS_NODE}}} "
                    f"or gpuheal:source_silent:info{{{THIS_NODE}}} * 0)"
                ),
                legend="{{source}}",
            )
        ],
        texts={"0": Shade(text="silent", color=RED), "1": Shade(text="reports", color=GREEN)},
        width=8,
    ),
)


def _named(expr: str) -> str:
    """Return the expression with the beginning of the UUID as `gpu`."""
    return f"label_replace({expr}, {SHORT})"


def _both(metric: str, dcgm: str) -> str:
    """Return a reading of each GPU from NVML, or else from dcgm-exporter."""
    own = f"{metric}{{{THIS_NODE}}}"
    return _named(f"max by (gpu_uuid) ({own} or on (gpu_uuid) {of_dcgm(dcgm, THIS_NODE)})")


SIGNALS: Sequence[Panel] = (
    graph(
        id=221,
        title="Score of each GPU",
        description="Score of each GPU, 0 to 1; none while the GPU is unknown.",
        queries=[Query(expr=_named(f"max by (node, gpu_uuid) (gpuheal:gpu_score{{{THIS_NODE}}})"), legend="{{gpu}}")],
        unit="none",
        lowest=0,
        highest=1,
        link=to_gpu("node", "gpu_uuid"),
        width=8,
    ),
    graph(
        id=222,
        title="Temperature",
        description="Temperature of each GPU, from NVML, or else from dcgm-exporter.",
        queries=[Query(expr=_both("gpuheal_gpu_temperature_celsius", "DCGM_FI_DEV_GPU_TEMP"), legend="{{gpu}}")],
        unit="celsius",
        width=8,
    ),
    graph(
        id=223,
        title="Power",
        description="Power drawn by each GPU, from NVML, or else from dcgm-exporter.",
        queries=[Query(expr=_both("gpuheal_gpu_power_watts", "DCGM_FI_DEV_POWER_USAGE"), legend="{{gpu}}")],
        unit="watt",
        lowest=0,
        width=8,
    ),
    graph(
        id=224,
        title="Utilisation",
        description="Share of time in which a kernel ran on the GPU, from dcgm-exporter.",
        queries=[
            Query(
                expr=_named(f"max by (gpu_uuid) ({of_dcgm('DCGM_FI_DEV_GPU_UTIL', THIS_NODE)})"),
                legend="{{gpu}}",
            )
        ],
        unit="percent",
        lowest=0,
        highest=100,
        width=8,
    ),
    graph(
        id=225,
        title="NVLinks that are up",
        description="Share of the expected NVLinks of each GPU that are active.",
        queries=[
            Query(
                expr=_named(
                    f"max by (gpu_uuid) (gpuheal_gpu_nvlinks_active{{{THIS_NODE}}}) / on (gpu_uuid) "
                    f"(max by (gpu_uuid) (gpuheal_gpu_nvlinks_expected{{{THIS_NODE}}}) > 0)"
                ),
                legend="{{gpu}}",
            )
        ],
        unit="percentunit",
        lowest=0,
        highest=1,
        width=8,
    ),
    graph(
        id=226,
        title="Corrected ECC errors of a day",
        description="Growth of the corrected ECC errors of each GPU within 24h; none where there was no growth.",
        queries=[
            Query(
                expr=_named(
                    "max by (gpu_uuid) (gpuheal:gpu_counter:growth24h"
                    f'{{{THIS_NODE}, signal=~"ecc_corrected|dcgm_ecc_sbe_volatile"}})'
                ),
                legend="{{gpu}}",
            )
        ],
        lowest=0,
        width=8,
    ),
)

AROUND: Sequence[Panel] = (
    states(
        id=231,
        nothing="none",
        title="Clocks held back",
        description="GPUs whose clocks are throttled, and why. Idle GPUs and power caps are normal.",
        queries=[
            Query(
                expr=_named(f"max by (gpu_uuid, reason) (gpuheal_gpu_clocks_event{{{THIS_NODE}}} == 1)"),
                legend="{{reason}} · {{gpu}}",
            )
        ],
        texts={"1": Shade(text="throttled", color=ORANGE)},
    ),
    states(
        id=232,
        title="Network ports",
        description="Logical state of each RDMA port.",
        queries=[
            Query(
                expr=f"max by (device, port) (gpuheal_rdma_port_state{{{THIS_NODE}}})",
                legend="{{device}}/{{port}}",
            )
        ],
        texts=PORTS,
    ),
    table(
        id=233,
        title="Pods",
        description="Containers that hold a GPU of this node.",
        queries=[Query(expr=f"group by (gpu_uuid, namespace, pod, container) (gpuheal_gpu_pod_info{{{THIS_NODE}}})")],
        columns=(
            Column(title="Namespace", label="namespace", width=150),
            Column(title="Pod", label="pod"),
            Column(title="Container", label="container", width=150),
            Column(title="GPU", label="gpu_uuid", width=330),
        ),
        nothing="no pod holds a GPU",
    ),
    states(
        id=234,
        title="Software",
        description="Whether the software that this node needs is running: driver, fabric manager, device plugin.",
        queries=[
            Query(
                expr=(
                    f"max by (component) (gpuheal_software_up{{{THIS_NODE}}}) "
                    f"and on (component) gpuheal_software_expected{{{THIS_NODE}}} == 1"
                ),
                legend="{{component}}",
            ),
            Query(expr=f"max(gpuheal_nvml_up{{{THIS_NODE}}})", legend="NVML"),
            Query(expr=f"max(gpuheal_kmsg_up{{{THIS_NODE}}})", legend="kernel log"),
        ],
        texts=UP,
    ),
)

BOARD = Board(
    uid=NODE,
    title="gpuheal / Node",
    description="One node: the state of its GPUs over time, the evidence, its signals, and what gpuheal does.",
    variables=(CLUSTER, ONE_NODE),
    rows=(
        Row(id=200, title="Now", panels=NOW),
        Row(id=210, title="State", panels=TIMELINES),
        Row(id=220, title="Signals", panels=SIGNALS),
        Row(id=230, title="Work, network and sources", panels=AROUND),
    ),
    marks=(alert_marks(THIS_NODE), case_marks(f"{{{THIS_CASE}}}")),
)
