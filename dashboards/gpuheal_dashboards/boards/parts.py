"""What several boards have: variables, alerts as marks, and the forms of panels."""

from __future__ import annotations

from functools import partial

from gpuheal_dashboards.model import Kind, Mark, Panel, Variable
from gpuheal_dashboards.selectors import OURS
from gpuheal_dashboards.style import PURPLE, RED
from gpuheal_rules.promql.rule import BLANK

stat = partial(Panel, kind=Kind.STAT, width=4, height=4)
graph = partial(Panel, kind=Kind.GRAPH)
states = partial(Panel, kind=Kind.STATES)
table = partial(Panel, kind=Kind.TABLE)
bars = partial(Panel, kind=Kind.BARS)

THIS_NODE = 'node="$node"'
THIS_CASE = 'target_node="$node"'
THIS_GPU = 'node="$node", gpu_uuid="$gpu"'

CLUSTER = Variable(
    name="cluster",
    title="Cluster",
    description="Clusters whose series are read. All of them, where series have no label for it.",
    metric="gpuheal:node_gpus:count",
    label="cluster",
    many=True,
)
ONE_NODE = Variable(
    name="node",
    title="Node",
    description="The node, as Kubernetes names it.",
    metric="gpuheal:node_gpus:count",
    label="node",
)
ONE_GPU = Variable(
    name="gpu",
    title="GPU",
    description="The UUID of the GPU, of those that are known on the node.",
    metric=f"gpuheal:gpu_state{{{THIS_NODE}}}",
    label="gpu_uuid",
)


def alerts_of(*matchers: str) -> str:
    """Return the selector of gpuheal's firing alerts, without the one that always fires."""
    more = "".join(f", {matcher}" for matcher in matchers)
    fixed = f'alertstate="firing", {OURS}, alertname!="GPUHealWatchdog"'
    return f"ALERTS{{{fixed}{more}}}"


def alert_marks(*matchers: str) -> Mark:
    """Return the beginnings of critical alerts as marks."""
    critical = alerts_of('severity="critical"', *matchers)
    return Mark(
        name="Critical alerts",
        expr=f"group by (alertname, node, gpu_uuid) ({critical})",
        title="{{alertname}}",
        text="{{node}} {{gpu_uuid}}",
        color=RED,
    )


def case_marks(where: str = "") -> Mark:
    """Return the openings of cases as marks."""
    return Mark(
        name="Open cases",
        expr=f"group by (target_node, case) (gpuheal_case_opened_timestamp_seconds{where})",
        title="case open: {{case}}",
        text="{{target_node}}",
        color=PURPLE,
    )


def of_dcgm(metric: str, where: str) -> str:
    """Return a field of dcgm-exporter by `gpu_uuid`; `where` is THIS_NODE or THIS_GPU."""
    spelt = where.replace("gpu_uuid=", "UUID=")
    return f'label_replace({metric}{{{spelt}}} < {BLANK}, "gpu_uuid", "$1", "UUID", "(.+)")'
