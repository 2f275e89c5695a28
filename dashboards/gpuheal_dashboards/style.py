"""Colours, states and links that all boards share. No meaning is in a colour alone: each has a text."""

from __future__ import annotations

from gpuheal_dashboards.model import Column, Link, Shade

GREEN, YELLOW, ORANGE, RED, DARK, PURPLE, BLUE, GREY = (
    "#56a64b", "#e0b400", "#ff780a", "#e02f44", "#8f0f24", "#8f5fd7", "#3274d9", "#8e8e8e",
)  # fmt: skip

STATES = {
    "0": Shade(text="ok", color=GREEN),
    "1": Shade(text="degraded", color=YELLOW),
    "2": Shade(text="suspect", color=ORANGE),
    "3": Shade(text="faulty", color=RED),
    "4": Shade(text="lost", color=DARK),
    "5": Shade(text="unknown", color=PURPLE),
}
"""Values of `gpuheal:gpu_state`."""

CASE_STATES = {
    "acting": Shade(text="acting", color=BLUE),
    "waiting": Shade(text="waiting", color=YELLOW),
    "held": Shade(text="held", color=ORANGE),
    "incident": Shade(text="incident", color=ORANGE),
    "pending": Shade(text="waits for approval", color=PURPLE),
    "observing": Shade(text="observing", color=GREY),
    "escalated": Shade(text="escalated", color=RED),
    "closing": Shade(text="closing", color=GREEN),
    "stale": Shade(text="stale (48h)", color=RED),
}
"""Values of the label `state` of `gpuheal_case_state`."""

TIERS = {
    "critical-training": Shade(text="critical-training", color=GREEN),
    "inference": Shade(text="inference", color=YELLOW),
    "preemptible": Shade(text="preemptible", color=ORANGE),
}
YES = {"0": Shade(text="no", color=GREEN), "1": Shade(text="yes", color=RED)}
UP = {"0": Shade(text="down", color=RED), "1": Shade(text="up", color=GREEN)}
SEEN = {"1": Shade(text="active", color=RED)}
SEVERITIES = {
    "critical": Shade(text="critical", color=RED),
    "warning": Shade(text="warning", color=ORANGE),
    "info": Shade(text="info", color=BLUE),
}
SCORE_STEPS = ((None, RED), (0.7, YELLOW), (0.9, GREEN))
"""The limits of the tiers."""
BAD_FROM_ONE = ((None, GREEN), (1, RED))
WARN_FROM_ONE = ((None, GREEN), (1, ORANGE))
PLAIN = ((None, BLUE),)

FLEET, NODE, GPU, REMEDIATION, PIPELINE = (
    f"gpuheal-{name}" for name in ("fleet", "node", "gpu", "remediation", "pipeline")
)


def to_node(field: str = "Node") -> Link:
    """Return the link to the node that a field of the row, or a label of the series, names."""
    return Link(title="Open node", uid=NODE, passes={"node": field})


def to_gpu(node: str = "Node", gpu: str = "GPU") -> Link:
    """Return the link to the GPU that two fields of the row, or labels of the series, name."""
    return Link(title="Open GPU", uid=GPU, passes={"node": node, "gpu": gpu})


def node_column(label: str = "node") -> Column:
    """Return the column of nodes, each a link."""
    return Column(title="Node", label=label, link=to_node(), width=180)


def gpu_column() -> Column:
    """Return the column of GPUs, each a link; the node must be in the row too."""
    return Column(title="GPU", label="gpu_uuid", link=to_gpu(), width=330)


def runbook_column() -> Column:
    """Return the column of alerts, each a link to its runbook."""
    link = Link(title="Open runbook", runbook="{Alert}")
    return Column(title="Alert", label="alertname", link=link, width=220)
