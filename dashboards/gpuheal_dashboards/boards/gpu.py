"""GPU: the evidence against one GPU, its Xids, memory, links, heat and power, each beside its limits."""

from __future__ import annotations

from collections.abc import Sequence

from gpuheal_dashboards.boards.gpulimits import HEAT, LIMIT, LINKS
from gpuheal_dashboards.boards.parts import (
    CLUSTER,
    ONE_GPU,
    ONE_NODE,
    THIS_GPU,
    THIS_NODE,
    alert_marks,
    bars,
    graph,
    stat,
    states,
    table,
)
from gpuheal_dashboards.model import Board, Column, Panel, Query, Row, Shade
from gpuheal_dashboards.style import (
    GPU,
    ORANGE,
    PLAIN,
    RED,
    SCORE_STEPS,
    STATES,
    YES,
    to_node,
)

THIS_OR_NODE = 'node="$node", gpu_uuid=~"$gpu|"'
"""The GPU, and what concerns the whole node."""
WHEN = "dateTimeAsIso"


NOW: Sequence[Panel] = (
    stat(
        id=301,
        title="State",
        description="The GPU's state as the rules see it.",
        queries=[Query(expr=f"max(gpuheal:gpu_state{{{THIS_GPU}}})")],
        texts=STATES,
        nothing="not known",
    ),
    stat(
        id=302,
        title="Score",
        description="The GPU's score, 0 to 1; none while the GPU is unknown.",
        queries=[Query(expr=f"min(gpuheal:gpu_score{{{THIS_GPU}}})")],
        decimals=2,
        steps=SCORE_STEPS,
        nothing="unknown",
    ),
    bars(
        id=303,
        title="What lowers the score",
        description="The score is the product of these terms; a term that is 1 is left out.",
        queries=[Query(expr=f"min by (term) (gpuheal:gpu_score:term{{{THIS_GPU}}})", legend="{{term}}")],
        unit="none",
        decimals=2,
        lowest=0,
        highest=1,
        steps=SCORE_STEPS,
        width=6,
        height=4,
        nothing="nothing",
    ),
    table(
        id=304,
        title="Identity",
        description="What the exporter knows of the GPU, lost or not.",
        queries=[Query(expr=f"group by (node, product, serial, slot, pci_bus_id) (gpuheal_gpu_info{{{THIS_GPU}}})")],
        columns=(
            Column(title="Node", label="node", link=to_node()),
            Column(title="Model", label="product"),
            Column(title="Serial", label="serial", width=130),
            Column(title="Slot", label="slot", width=60),
            Column(title="PCI address", label="pci_bus_id", width=120),
        ),
        width=10,
        height=4,
    ),
    table(
        id=305,
        title="Faults",
        description=(
            "Faults of this GPU and of its node that are active. Confidence: 0.99 confirmed (the driver's own "
            "verdict, or two classes of sources), 0.9 probable (one strong source), 0.6 suspect (a weak one)."
        ),
        queries=[
            Query(expr=f"max by (fault) (gpuheal:fault_confidence:ratio{{{THIS_OR_NODE}}})"),
            Query(expr=f"max by (fault) (gpuheal:gpu_witnesses:count{{{THIS_OR_NODE}}})"),
        ],
        columns=(
            Column(title="Fault", label="fault", words="fault"),
            Column(title="Confidence", value="A", decimals=2, width=110),
            Column(title="Classes of sources", value="B", width=140),
        ),
        sort="Confidence",
        nothing="no fault is active",
    ),
    table(
        id=306,
        title="Evidence",
        description="Every signal that speaks of a fault which is not settled, and when it was last seen.",
        queries=[
            Query(
                expr=(
                    "max by (fault, class, signal, strength) "
                    f"(gpuheal:fault_evidence:open_seconds{{{THIS_OR_NODE}}}) * 1000"
                )
            )
        ],
        columns=(
            Column(title="Fault", label="fault"),
            Column(title="Class", label="class", width=90),
            Column(title="Signal", label="signal", width=150),
            Column(title="Strength", label="strength", width=90),
            Column(title="Last seen", value="A", unit=WHEN, width=170),
        ),
        sort="Last seen",
        nothing="no evidence",
    ),
)

KEY = "node, gpu_uuid, xid"
ASKED = f"topk by ({KEY}) (1, group by ({KEY}, action, severity, blames) (gpuheal_xid_resolution_info{{{THIS_GPU}}}))"


def _told(metric: str) -> str:
    """Return the metric of each Xid, with what the strongest line of the log asks for."""
    one = f"max by ({KEY}) ({metric}{{{THIS_GPU}}})"
    joined = f"{one} * on ({KEY}) group_left (action, severity, blames) ({ASKED}) or on ({KEY}) {one}"
    return f"max by (xid, action, severity, blames) ({joined})"


LOG: Sequence[Panel] = (
    table(
        id=311,
        title="Xids",
        description=(
            "Latched Xids of the kernel log: how often, first and last time, what the strongest line asks for."
        ),
        queries=[
            Query(expr=_told("gpuheal_xid_last_timestamp_seconds") + " * 1000"),
            Query(expr=_told("gpuheal_xid_first_timestamp_seconds") + " * 1000"),
            Query(expr=_told("gpuheal_xid_total")),
        ],
        columns=(
            Column(title="Xid", label="xid", words="xid"),
            Column(title="Times", value="C", width=70),
            Column(title="First", value="B", unit=WHEN, width=170),
            Column(title="Last", value="A", unit=WHEN, width=170),
            Column(title="Asks for", label="action", width=130),
            Column(title="Severity", label="severity", width=100),
            Column(title="Blames", label="blames", width=100),
        ),
        sort="Last",
        width=16,
        nothing="no Xid is latched",
    ),
    table(
        id=312,
        title="Xids that only dcgm-exporter shows",
        description="Codes in dcgm-exporter's field; it has the last code only, and no line of the log.",
        queries=[
            Query(
                expr=(
                    f"max by (xid) (gpuheal:dcgm_xid_latch:first_seconds{{{THIS_GPU}}}) * 1000 "
                    f"unless on (xid) gpuheal_xid_latched{{{THIS_GPU}}} == 1"
                )
            )
        ],
        columns=(
            Column(title="Xid", label="xid", words="xid"),
            Column(title="Since", value="A", unit=WHEN, width=170),
        ),
        width=8,
        nothing="none",
    ),
    states(
        id=313,
        nothing="no Xid is latched",
        title="Latched Xids over time",
        description="An Xid is latched from its first event to a reboot, a reset or an acknowledgement.",
        queries=[Query(expr=f"max by (xid) (gpuheal_xid_latched{{{THIS_GPU}}} == 1)", legend="Xid {{xid}}")],
        texts={"1": Shade(text="latched", color=RED)},
        height=6,
        width=16,
    ),
    table(
        id=314,
        title="Other faults in the log",
        description="Lines of the kernel log that report a fault without an Xid.",
        queries=[
            Query(expr=f"max by (kind, severity) (gpuheal_kernel_fault_last_timestamp_seconds{{{THIS_GPU}}}) * 1000")
        ],
        columns=(
            Column(title="Kind", label="kind"),
            Column(title="Severity", label="severity", width=100),
            Column(title="Last", value="A", unit=WHEN, width=170),
        ),
        height=6,
        width=8,
        nothing="none",
    ),
)

FLAGS = {
    "row remap pending": "gpuheal_gpu_row_remap_pending",
    "row remap failed": "gpuheal_gpu_row_remap_failed",
    "not repairable": "gpuheal_gpu_memory_unrepairable",
    "SRAM threshold": "gpuheal_gpu_sram_threshold_exceeded",
}
MEMORY: Sequence[Panel] = (
    stat(
        id=321,
        title="Memory flags",
        description="What the GPU says of its memory. A pending remap is done by the next reset.",
        queries=[Query(expr=f"max({metric}{{{THIS_GPU}}})", legend=name) for name, metric in FLAGS.items()],
        texts=YES,
        width=16,
    ),
    stat(
        id=322,
        title="Remapped rows",
        description="Rows of the memory that were remapped since the GPU was made, by cause.",
        queries=[Query(expr=f"max by (cause) (gpuheal_gpu_remapped_rows_total{{{THIS_GPU}}})", legend="{{cause}}")],
        steps=PLAIN,
        width=8,
    ),
    graph(
        id=323,
        title="ECC errors per hour",
        description="Growth of the volatile ECC counters within an hour, by severity and place.",
        queries=[
            Query(
                expr=(
                    "sum by (severity, location) "
                    f'(increase(gpuheal_gpu_ecc_errors_total{{{THIS_GPU}, counter="volatile"}}[1h]))'
                ),
                legend="{{severity}} {{location}}",
            )
        ],
        lowest=0,
        width=8,
    ),
    graph(
        id=324,
        title="Corrected ECC errors of a day",
        description="Growth within 24h, and the threshold from which it counts as a trend.",
        queries=[
            Query(
                expr=(
                    f'max(gpuheal:gpu_counter:growth24h{{{THIS_GPU}, signal=~"ecc_corrected|dcgm_ecc_sbe_volatile"}})'
                ),
                legend="corrected errors",
            ),
            Query(expr='max(gpuheal:threshold{name="ecc_corrected_per_day"})', legend="threshold"),
        ],
        colors={"threshold": LIMIT},
        dashed="threshold",
        lowest=0,
        width=8,
    ),
    bars(
        id=325,
        title="Banks by spare rows",
        description="Banks of the memory by the spare rows that they have left.",
        queries=[
            Query(expr=f'max by (spare) (gpuheal_gpu_row_remap_banks{{{THIS_GPU}, spare="{spare}"}})', legend=spare)
            for spare in ("max", "high", "partial", "low", "none")
        ],
        colors={"low": Shade(color=ORANGE), "none": Shade(color=RED)},
        lowest=0,
        width=8,
    ),
)

BOARD = Board(
    uid=GPU,
    title="gpuheal / GPU",
    description="One GPU: what speaks against it, its Xids, memory, links, heat and power beside their limits.",
    variables=(CLUSTER, ONE_NODE, ONE_GPU),
    rows=(
        Row(id=300, title="Now", panels=NOW),
        Row(id=310, title="Kernel log", panels=LOG),
        Row(id=320, title="Memory", panels=MEMORY),
        Row(id=330, title="Links", panels=LINKS),
        Row(id=340, title="Heat and power", panels=HEAT),
    ),
    marks=(alert_marks(THIS_NODE, 'gpu_uuid=~"$gpu|"'),),
)
