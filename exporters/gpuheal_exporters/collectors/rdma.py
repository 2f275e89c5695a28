"""InfiniBand and RoCE ports, as the kernel shows them under /sys/class/infiniband (rdma core,
Documentation/ABI/stable/sysfs-class-infiniband).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.host.procfs import read_text
from gpuheal_exporters.metrics.definition import MetricTable, counter, gauge

PORT = ("device", "port")
_SYSFS = "/sys/class/infiniband"
METRICS = MetricTable(
    _SYSFS,
    gauge("gpuheal_rdma_port_state", "Logical state: 1 down, 2 init, 3 armed, 4 active.", PORT, "code"),
    gauge("gpuheal_rdma_port_physical_state", "Physical state: 2 polling, 3 disabled, 5 link up.", PORT, "code"),
    gauge(
        "gpuheal_rdma_port_info",
        "1 for the port's link layer (InfiniBand or Ethernet) and network device.",
        (*PORT, "link_layer", "net_device"),
    ),
    gauge("gpuheal_rdma_port_rate_bytes_per_second", "Signalling rate of the port.", PORT, "bytes/s"),
    gauge(
        "gpuheal_rdma_exclusive",
        "1 if RDMA devices can move into the network namespaces of pods and disappear from the host, else 0.",
        source="/sys/module/ib_core/parameters/netns_mode",
    ),
    counter("gpuheal_rdma_port_link_downed_total", "Times the link went down.", PORT),
    counter(
        "gpuheal_rdma_port_errors_total", "Port errors by kind, as the kernel names them.", (*PORT, "kind"), "errors"
    ),
)
ERRORS = (
    "excessive_buffer_overrun_errors",
    "link_error_recovery",
    "local_link_integrity_errors",
    "port_rcv_errors",
    "port_xmit_discards",
    "symbol_error",
)
MAX_PORTS = 128
_CODE = re.compile(r"(\d+):")
_RATE = re.compile(r"(\d+(?:\.\d+)?) Gb/sec")


def _code(path: Path) -> int | None:
    """Return the number in `4: ACTIVE`."""
    match = _CODE.match(read_text(path, 64))
    return int(match[1]) if match else None


def _count(path: Path) -> int | None:
    text = read_text(path, 64).strip()
    return int(text) if text.isdigit() else None


def _is_virtual(device: Path) -> bool:
    """Return whether a device is a virtual function or a subfunction, which come and go with pods and guests."""
    return (device / "device/physfn").exists() or (device / "device/sfnum").exists()


class RdmaCollector(Collector):
    """State, rate and error counters of each port of a physical device below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterable[Metric]:
        """Return the families of now."""
        out = METRICS.families()
        if (self._root / "sys/module").is_dir():
            # `N` is exclusive; without the module there is nothing to move (drivers/infiniband/core/device.c).
            mode = read_text(self._root / "sys/module/ib_core/parameters/netns_mode", 64).strip()
            out.add("gpuheal_rdma_exclusive", mode == "N")
        ports = (self._root / "sys/class/infiniband").glob("*/ports/*")
        for port in sorted(port for port in ports if not _is_virtual(port.parent.parent))[:MAX_PORTS]:
            labels = (port.parent.parent.name, port.name)
            out.add("gpuheal_rdma_port_state", _code(port / "state"), *labels)
            out.add("gpuheal_rdma_port_physical_state", _code(port / "phys_state"), *labels)
            layer = read_text(port / "link_layer", 64).strip()
            device = read_text(port / "gid_attrs/ndevs/0", 64).strip()
            out.add("gpuheal_rdma_port_info", 1, *labels, layer, device)
            rate = _RATE.match(read_text(port / "rate", 64))
            out.add("gpuheal_rdma_port_rate_bytes_per_second", float(rate[1]) * 1e9 / 8 if rate else None, *labels)
            out.add("gpuheal_rdma_port_link_downed_total", _count(port / "counters/link_downed"), *labels)
            for kind in ERRORS:
                out.add("gpuheal_rdma_port_errors_total", _count(port / "counters" / kind), *labels, kind)
        return out.all()


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="rdma", metrics=METRICS, build=lambda hardware: RdmaCollector(hardware.root), poll_seconds=15.0
)
