"""What each panel costs a Prometheus that holds 16,384 GPUs, by a reckoning of the series that its expressions read.

`python -m tests.bench.bench_dashboards` measures the same on a real server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser as pp
import pytest

from gpuheal_dashboards.boards.all import boards
from gpuheal_dashboards.model import Board, Panel
from gpuheal_dashboards.preview.data import Scope
from gpuheal_responder.shell.metrics import METRICS, Kind
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.lint.flow import children, matchers, metric_names
from gpuheal_rules.options import Options

GPUS, GPUS_PER_NODE = 16_384, 8
NODES = GPUS // GPUS_PER_NODE
DAY_S, SCRAPE_S = 86_400, 15
INSTANT, OVER_TIME = 200_000, 8_000_000
"""Samples that a query may read for one moment, and for a graph of a day; Prometheus refuses 50 million at once."""
OF_GPUS = {
    "gpuheal:gpu_state": 1, "gpuheal:gpu_score": 1, "gpuheal_gpu_info": 1, "gpuheal_gpu_pod_info": 1,
    "gpuheal_gpu_ecc_errors_total": 24, "gpuheal_gpu_nvlink_errors_total": 8, "gpuheal_gpu_clocks_event": 9,
    "gpuheal_gpu_row_remap_banks": 5, "gpuheal_gpu_temperature_limit_celsius": 4, "gpuheal_gpu_remapped_rows_total": 2,
}  # fmt: skip
"""Series per GPU; what is not named and is about GPUs has one."""
OF_NODES = {
    "gpuheal:source_up:info": 2, "gpuheal_rdma_port_state": 9, "gpuheal_software_up": 4, "gpuheal_software_expected": 4,
}  # fmt: skip
ABOUT_NODES = re.compile(
    r"gpuheal:(node_(gpus|topology|score|tier)\S*|gpu_node:info|source_up:info)|kube_node_spec_unschedulable|"
    r"gpuheal_(nvml|kmsg|node|rdma|software|exporter)_\w+"
)
ABOUT_GPUS = re.compile(r"gpuheal:gpu_(state|score)|gpuheal_gpu_\w+|DCGM_\w+")
SOME = 400
"""Series of what only faults and cases have: two GPUs of a hundred, and a few nodes."""
OF_SERVERS = {"gpuheal_config_errors_total": 2}
A_SERVER = 60
"""Series of a metric of two responders, Prometheus or Alertmanager, with its labels."""
SERVERS = ("prometheus_", "alertmanager_")
STANDING = {name for name, metric in METRICS.items() if metric.kind is Kind.STANDING}
"""What the responder shows of each case."""
PANELS = [
    pytest.param(board, panel, id=f"{panel.id}")
    for board in boards(Options(), load_catalogue())
    for panel in board.panels
]


def series(selector: pp.VectorSelector) -> int:
    """How many series a selector reads in a fleet of this size."""
    (name,) = metric_names(selector)
    chosen = {label: value for label, sign, value in matchers(selector) if sign == "=" and value}
    node = chosen.keys() & {"node", "target_node"}
    if ABOUT_GPUS.fullmatch(name):
        gpus = 1 if {"gpu_uuid", "UUID"} & chosen.keys() else GPUS_PER_NODE if node else GPUS
        return gpus * OF_GPUS.get(name, 1)
    if ABOUT_NODES.fullmatch(name):
        return (1 if node else NODES) * OF_NODES.get(name, 1)
    if {re.sub(r"_(bucket|count|sum)$", "", name), name} & set(METRICS) - STANDING or name.startswith(SERVERS):
        return OF_SERVERS.get(name, A_SERVER)
    return SOME


def samples(node: pp.Expr) -> Iterator[float]:
    """The samples that an expression reads for one moment."""
    if isinstance(node, pp.MatrixSelector):
        yield series(node.vector_selector) * max(1.0, node.range.total_seconds() / SCRAPE_S)
    elif isinstance(node, pp.VectorSelector):
        yield series(node)
    elif isinstance(node, pp.SubqueryExpr):
        step = node.step.total_seconds() if node.step else SCRAPE_S
        yield sum(samples(node.expr)) * node.range.total_seconds() / step
    else:
        for child in children(node):
            yield from samples(child)


def cost(panel: Panel) -> list[float]:
    """The samples that each query of a panel reads: for one moment, or for a graph of a day."""
    scope = Scope(start=0, end=DAY_S, values={"cluster": ".*", "node": "n", "gpu": "g"})
    step = scope.step(panel)
    points = 1 if panel.kind.instant else DAY_S / step
    return [points * sum(samples(pp.parse(scope.expand(query.expr, step)))) for query in panel.queries]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_no_panel_reads_more_than_its_budget(board: Board, panel: Panel) -> None:
    """Each query stays within the budget of its kind at 16,384 GPUs; windows count with all their samples."""
    limit = INSTANT if panel.kind.instant else OVER_TIME
    if "$__range" in "".join(query.expr for query in panel.queries):
        limit = OVER_TIME  # what looks over the whole range reads as much as a graph of it
    assert max(cost(panel)) <= limit


def test_the_reckoning_counts_series_points_and_windows() -> None:
    """A series per GPU is 16,384, of one node 8, and its hour 240 times as many; a graph has 150 points."""

    def read(expr: str) -> float:
        return sum(samples(pp.parse(expr)))

    assert read("gpuheal:gpu_state > 0") == GPUS
    assert read('gpuheal:gpu_state{node="n"}') == GPUS_PER_NODE
    assert read('increase(gpuheal_gpu_pcie_replays_total{node="n", gpu_uuid="g"}[1h])') == 240
    assert read("max_over_time((time() - gpuheal_case_opened_timestamp_seconds)[1d:1m])") == 1440 * SOME
    graphs = {param.values[1].id: param.values[1] for param in PANELS}
    assert cost(graphs[111]) == [GPUS * 150]
