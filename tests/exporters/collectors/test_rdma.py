"""InfiniBand and RoCE ports from a /sys tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.stubs.samples import only, samples

from gpuheal_exporters.collectors.rdma import RdmaCollector

PORTS = {
    "mlx5_0/ports/1": {
        "state": "4: ACTIVE",
        "phys_state": "5: LinkUp",
        "link_layer": "InfiniBand",
        "rate": "400 Gb/sec (4X NDR)",
        "counters/link_downed": "3",
        "counters/symbol_error": "0",
        "counters/port_rcv_errors": "18446744073709551615",
    },
    "mlx5_1/ports/1": {
        "state": "1: DOWN",
        "phys_state": "3: Disabled",
        "link_layer": "Ethernet",
        "rate": "2.5 Gb/sec (1X SDR)",
        "gid_attrs/ndevs/0": "enp1s0f0np0",
        "counters/link_downed": "N/A (no PMA)",
    },
}


def test_ports_of_both_kinds(tmp_path: Path) -> None:
    """State, physical state, rate and counters of each port come as numbers; a counter the port does not have has no
    series.
    """
    for port, files in PORTS.items():
        for name, text in files.items():
            path = tmp_path / "sys/class/infiniband" / port / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
    found = samples(RdmaCollector(tmp_path))
    first, second = ("mlx5_0", "1"), ("mlx5_1", "1")
    assert only(found, "gpuheal_rdma_port_state") == {first: 4, second: 1}
    assert only(found, "gpuheal_rdma_port_physical_state") == {first: 5, second: 3}
    assert only(found, "gpuheal_rdma_port_rate_bytes_per_second") == {first: 50e9, second: 0.3125e9}
    assert only(found, "gpuheal_rdma_port_link_downed_total") == {first: 3}
    assert only(found, "gpuheal_rdma_port_errors_total") == {
        ("mlx5_0", "symbol_error", "1"): 0,
        ("mlx5_0", "port_rcv_errors", "1"): float(2**64 - 1),
    }
    assert only(found, "gpuheal_rdma_port_info") == {
        ("mlx5_0", "InfiniBand", "", "1"): 1,
        ("mlx5_1", "Ethernet", "enp1s0f0np0", "1"): 1,
    }


def test_node_without_ports(tmp_path: Path) -> None:
    """A node without RDMA devices has no such series."""
    assert samples(RdmaCollector(tmp_path)) == {}


def test_functions_that_pods_take_along_are_no_ports_of_the_node(tmp_path: Path) -> None:
    """Virtual functions and subfunctions have no series: they disappear from the host whenever a pod uses them."""
    marks = {"mlx5_0": "", "mlx5_2": "physfn", "mlx5_3": "sfnum"}
    for device, mark in marks.items():
        port = tmp_path / "sys/class/infiniband" / device / "ports/1"
        port.mkdir(parents=True)
        (port / "state").write_text("4: ACTIVE\n")
        if mark:
            (tmp_path / "sys/class/infiniband" / device / "device" / mark).mkdir(parents=True)
    assert only(samples(RdmaCollector(tmp_path)), "gpuheal_rdma_port_state") == {("mlx5_0", "1"): 4}


@pytest.mark.parametrize(("mode", "exclusive"), [("Y", 0), ("N", 1), (None, 0)])
def test_a_host_says_whether_pods_can_take_its_devices_along(mode: str | None, exclusive: int, tmp_path: Path) -> None:
    """Only the exclusive mode of the RDMA core hides a device; without the module there is none to hide."""
    (tmp_path / "sys/module").mkdir(parents=True)
    if mode is not None:
        file = tmp_path / "sys/module/ib_core/parameters/netns_mode"
        file.parent.mkdir(parents=True)
        file.write_text(f"{mode}\n")
    assert only(samples(RdmaCollector(tmp_path)), "gpuheal_rdma_exclusive") == {(): exclusive}
