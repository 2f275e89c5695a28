"""InfiniBand and RoCE ports from a /sys tree."""

from __future__ import annotations

from pathlib import Path

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
