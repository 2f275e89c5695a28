"""promtool finds nothing to say about what the exporter serves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.inventory import InventoryCollector
from gpuheal_exporters.collectors.kernel import KernelCollector
from gpuheal_exporters.collectors.registry import metrics
from gpuheal_exporters.host.identity import GpuIdentity, StaticInventory
from gpuheal_exporters.metrics.definition import family_of
from gpuheal_exporters.metrics.exposition import render
from gpuheal_exporters.node.state import NodeExporterState
from gpuheal_lab.servers.find import Generation, ensure

pytestmark = pytest.mark.servers

SAMPLES = Path(__file__).parent / "kernel/data/samples.jsonl"


@pytest.fixture(scope="module")
def promtool() -> str:
    """promtool of Debian's generation: the oldest that clusters run."""
    return str(ensure("promtool", Generation.DEBIAN).path)


def remarks(promtool: str, text: bytes) -> str:
    """What `promtool check metrics` prints; nothing at all is clean."""
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode() + ("" if done.returncode == 0 else f"\nstatus {done.returncode}")


class EveryMetric(Collector):
    """One sample of every metric of the tables, with a value for every label."""

    def collect(self) -> list[Metric]:
        """All families."""
        families: list[Metric] = []
        for metric in metrics():
            made = family_of(metric)
            made.add_metric(tuple(f"{label}-1" for label in metric.labels), 1.0)
            families.append(made)
        return families


def test_every_metric_of_the_tables_is_clean(promtool: str) -> None:
    """Names, units, types and helps of both halves follow Prometheus's conventions."""
    assert remarks(promtool, render(EveryMetric())) == ""


def test_a_scrape_of_a_node_that_saw_everything_is_clean(promtool: str) -> None:
    """After all published log lines the exposition is valid: no duplicate series, no broken escapes."""
    inventory = StaticInventory([GpuIdentity(gpu_uuid="GPU-1", pci_bus_id="0000:3b:00", product='H100 "80GB"\\x')])
    state = NodeExporterState(inventory=inventory, boot_id="b", boot_time=5.0, clock=lambda: 100.0)
    for line in SAMPLES.read_text().splitlines():
        state.feed_line(json.loads(line)["line"])
    text = render(KernelCollector(state), InventoryCollector(state))
    assert text.count(b"gpuheal_xid_latched{") > 40
    series = [line.rpartition(b" ")[0] for line in text.splitlines() if not line.startswith(b"#")]
    assert len(series) == len(set(series))
    assert remarks(promtool, text) == ""


def test_promtool_would_say_something(promtool: str) -> None:
    """The check is one: a counter without _total and a wrong unit are told."""
    assert "_total" in remarks(promtool, b"# HELP gpuheal_x X.\n# TYPE gpuheal_x counter\ngpuheal_x 1\n")
    assert "bytes" in remarks(promtool, b"# HELP gpuheal_x_bits X.\n# TYPE gpuheal_x_bits gauge\ngpuheal_x_bits 1\n")
