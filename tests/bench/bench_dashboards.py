"""What each panel of the dashboards costs a real Prometheus: series, samples and time, at a fleet's size.

The fleet of `bench_rules` with the generated rules runs for a while; then each panel is asked as Grafana asks it, for a
range of 6h, of which only the time since the start holds data. Series are those that its selectors match.
`python -m tests.bench.bench_dashboards [--gpus 16384] [--seconds 180] [--interval 15] [--generation debian]`
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import promql_parser as pp
from tests.bench.bench_rules import GPUS_PER_NODE, prometheus, uuid

from gpuheal_dashboards.boards.all import boards
from gpuheal_dashboards.model import Panel
from gpuheal_dashboards.preview.data import Scope
from gpuheal_lab.servers.find import Generation
from gpuheal_lab.servers.stack import Prometheus
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.lint.flow import selectors
from gpuheal_rules.options import Options

RANGE_S = 6 * 3600
DEADLINE_S = 120


def measured(server: Prometheus, panel: Panel, scope: Scope) -> tuple[int, int, float]:
    """Return the series that a panel's selectors match, the samples it reads, and the seconds it takes."""
    series = samples = 0
    took = 0.0
    step = scope.step(panel)
    for query in panel.queries:
        expr = scope.expand(query.expr, step)
        for selector in selectors(pp.parse(expr)):
            selector = selector.vector_selector if isinstance(selector, pp.MatrixSelector) else selector
            found = server.query(f"count({selector.prettify()})")
            series += int(found[0][1]) if found else 0
        asked = {"query": expr, "stats": "all", "time": str(scope.end)}
        if not panel.kind.instant:
            asked |= {"start": str(scope.start), "end": str(scope.end), "step": str(step)}
        path = "query" if panel.kind.instant else "query_range"
        began = time.monotonic()
        with urlopen(f"{server.url}/api/v1/{path}?{urlencode(asked)}", timeout=DEADLINE_S) as told:
            answer = json.load(told)
        took += time.monotonic() - began
        samples += int(answer["data"]["stats"]["samples"]["totalQueryableSamples"])
    return series, samples, took


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each panel, the dearest last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=16_384)
    parser.add_argument("--seconds", type=int, default=180, help="how long the rules run first")
    parser.add_argument("--interval", type=int, default=15)
    parser.add_argument("--generation", type=Generation, default=Generation.DEBIAN)
    args = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="gpuheal-bench-") as folder,
        prometheus(Path(folder), args.gpus // GPUS_PER_NODE, args.interval, generation=args.generation) as server,
    ):
        time.sleep(args.seconds)
        end = time.time()
        values = {"cluster": ".*", "node": "node-0", "gpu": uuid(0, 0)}
        scope = Scope(start=end - RANGE_S, end=end, values=values, scrape_s=args.interval)
        rows = [
            (*measured(server, panel, scope), f"{panel.id} {panel.title}")
            for board in boards(Options(), load_catalogue())
            for panel in board.panels
        ]
    for series, samples, took, name in sorted(rows, key=lambda row: row[2]):
        print(f"{series:>9} series {samples:>10} samples {took * 1000:>7.0f} ms  {name}")
    print(f"{args.gpus} GPUs: all {len(rows)} panels {sum(row[2] for row in rows):.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
