"""The metric tables, the page made from them, and the families the collectors give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpuheal_exporters.collectors.inventory import InventoryCollector
from gpuheal_exporters.collectors.kernel import KernelCollector
from gpuheal_exporters.collectors.page import page
from gpuheal_exporters.collectors.registry import family, metrics, single
from gpuheal_exporters.host.identity import GpuIdentity, StaticInventory
from gpuheal_exporters.metrics.definition import MetricDef
from gpuheal_exporters.metrics.exposition import Collectors, render
from gpuheal_exporters.node.state import NodeExporterState

PAGE = Path(__file__).parents[3] / "exporters/METRICS.md"
PCI = "0000:3b:00"
LINES = (
    "79, GPU has fallen off the bus.",
    "45, pid=1, name=p, Ch 00000001",
    "74, NVLink: fatal error detected on link 14(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)",
    "149, NETIR_LINK_EVT Fatal XC0 i0 Link 09 (0x025525c6 0x00000000)",
    "154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)",
)


def node() -> NodeExporterState:
    inventory = StaticInventory([GpuIdentity(gpu_uuid="GPU-1", pci_bus_id=PCI, serial="9", slot="3", product="H100")])
    state = NodeExporterState(
        inventory=inventory, boot_id="b", boot_time=5.0, clock=lambda: 100.0, driver_version="570.124.06"
    )
    for line in LINES:
        state.feed_line(f"NVRM: Xid (PCI:{PCI}): {line}")
    state.feed_line("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up")
    state.feed_line(f"NVRM: GPU {PCI}.0: GPU has fallen off the bus.")
    return state


def samples(state: NodeExporterState) -> dict[str, dict[tuple[str, ...], float]]:
    """name → label values (in the order of the table) → value."""
    labels = {metric.name: metric.labels for metric in metrics()}
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for made in text_string_to_metric_families(render(KernelCollector(state), InventoryCollector(state)).decode()):
        for sample in made.samples:
            key = tuple(sample.labels[label] for label in labels[sample.name])
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def test_the_page_and_the_tables_agree() -> None:
    """METRICS.md is what the tables give: name, type, unit, labels and source of every metric."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_no_metric_is_defined_twice() -> None:
    """The kernel-log half and the NVML half share no name."""
    names = [metric.name for metric in metrics()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: MetricDef) -> None:
    """Prefix, counters end in _total, times in seconds say so, helps are sentences, `node` is never a label."""
    assert re.fullmatch(r"gpuheal(_[a-z0-9]+)+", metric.name)
    assert metric.type in ("counter", "gauge")
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert "timestamp" not in metric.name or (metric.name.endswith("_seconds") and metric.unit == "seconds")
    assert metric.help.endswith(".")
    assert "node" not in metric.labels
    assert len(metric.labels) == len(set(metric.labels))


def test_every_sample_of_a_troubled_node_is_as_documented() -> None:
    """One node with a bit of everything: levels, times, resolutions, causes, links, switch events and identity."""
    found = samples(node())
    gpu = ("GPU-1", PCI)
    switch = ("3", "0000:c1:00", "20034", "30", "fatal")
    assert found["gpuheal_xid_latched"] == {(*gpu, code): 1.0 for code in ("79", "45", "74", "149", "154")}
    assert found["gpuheal_xid_last_timestamp_seconds"][*gpu, "79"] == 100.0
    assert found["gpuheal_xid_resolution_info"] == {
        (*gpu, "79", "reboot", "catalog", "fatal", ""): 1.0,
        (*gpu, "45", "none", "catalog", "non_fatal", ""): 1.0,
        (*gpu, "74", "gpu_reset", "registers", "fatal", ""): 1.0,
        (*gpu, "149", "gpu_reset_after_drain", "decode", "link_fatal", "peer"): 1.0,
        (*gpu, "154", "reboot", "xid154", "fatal", ""): 1.0,
    }
    assert found["gpuheal_xid_cause_info"] == {(*gpu, code, "79"): 1.0 for code in ("45", "74", "149", "154")}
    assert found["gpuheal_xid_recovery_action"] == {gpu: 2.0}
    assert found["gpuheal_xid_link_total"] == {(*gpu, "74", "14"): 1.0, (*gpu, "149", "9"): 1.0}
    assert found["gpuheal_sxid_latched"] == {switch: 1.0}
    assert found["gpuheal_sxid_resolution_info"] == {(*switch, "gpu_reset", "link"): 1.0}
    assert found["gpuheal_kernel_fault_latched"] == {(*gpu, "gpu_lost", ""): 1.0}
    assert found["gpuheal_gpu_info"] == {(*gpu, "9", "3", "H100"): 1.0}
    assert found["gpuheal_node_boot_info"] == {("b",): 1.0}
    assert found["gpuheal_node_boot_timestamp_seconds"] == {(): 5.0}


def test_an_ended_level_is_zero_and_has_no_times() -> None:
    """After an acknowledgement the level reads 0, its total stays, and times, cause and resolution are gone."""
    state = node()
    state.acknowledge(until=100.0)
    found = samples(state)
    assert set(found["gpuheal_xid_latched"].values()) == {0.0}
    assert set(found["gpuheal_xid_total"].values()) == {1.0}
    assert found["gpuheal_xid_recovery_action"] == {("GPU-1", PCI): 0.0}
    for gone in ("xid_first_timestamp_seconds", "xid_last_timestamp_seconds", "xid_resolution_info", "xid_cause_info"):
        assert f"gpuheal_{gone}" not in found
    assert found["gpuheal_latch_cleared_total"][("acknowledged",)] == 7.0


def test_a_code_that_was_only_counted_has_no_level() -> None:
    """An Xid 154 to 0 on a healthy GPU is counted and leaves no level behind."""
    state = NodeExporterState(inventory=StaticInventory(), boot_id="b", clock=lambda: 100.0)
    state.feed_line(f"NVRM: Xid (PCI:{PCI}): 154, GPU recovery action changed from 0x1 (x) to 0x0 (None)")
    found = samples(state)
    assert found["gpuheal_xid_total"] == {("", PCI, "154"): 1.0}
    assert "gpuheal_xid_latched" not in found


def test_rendering_needs_no_registry_and_skips_empty_families() -> None:
    """Families without samples are left out; describing collects nothing."""
    state = NodeExporterState(inventory=StaticInventory(), boot_id="b", clock=lambda: 100.0)
    text = render(KernelCollector(state)).decode()
    assert "gpuheal_xid_latched" not in text
    assert list(Collectors([KernelCollector(state)]).describe()) == []


def test_only_names_of_the_table_can_be_emitted() -> None:
    """A family for any other name is a mistake that shows at once."""
    with pytest.raises(KeyError):
        family("gpuheal_unknown")
    assert single("gpuheal_nvml_up", 1.0).samples[0].value == 1.0


def test_gpus_that_only_the_log_named_are_known_too() -> None:
    """A GPU the inventory lacks, but the driver named by UUID, has an identity series; a known one is not doubled."""
    state = node()
    state.feed_line("NVRM: GPU at PCI:0000:5a:00: GPU-b6c3b2be-c55b-d076-fa0e-d464e4c7e08b")
    state.feed_line(f"NVRM: GPU at PCI:{PCI}: GPU-b6c3b2be-c55b-d076-fa0e-000000000000")
    assert samples(state)["gpuheal_gpu_info"] == {
        ("GPU-1", PCI, "9", "3", "H100"): 1.0,
        ("GPU-b6c3b2be-c55b-d076-fa0e-d464e4c7e08b", "0000:5a:00", "", "", ""): 1.0,
    }
