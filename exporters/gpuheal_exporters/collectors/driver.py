"""The kernel module: loaded, which version, and how many NVIDIA GPUs sit on the bus whatever the driver thinks of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.host.bootinfo import read_driver_version
from gpuheal_exporters.host.pcitree import gpus_for_this_host
from gpuheal_exporters.host.procfs import read_text
from gpuheal_exporters.metrics.definition import MetricTable, gauge
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot, NvmlState

METRICS = MetricTable(
    "/sys/bus/pci/devices",
    gauge("gpuheal_driver_module_loaded", "1 if the kernel module is loaded.", ("module",), source="/proc/modules"),
    gauge(
        "gpuheal_driver_kernel_info",
        "1 for the loaded kernel module's version and kind (open or proprietary).",
        ("version", "kind"),
        source="/proc/driver/nvidia/version",
    ),
    gauge(
        "gpuheal_driver_version_mismatch",
        "1 if the NVML library and the kernel module have different versions.",
        source="NVML, /proc/driver/nvidia/version",
    ),
    gauge(
        "gpuheal_driver_pci_gpus",
        "NVIDIA GPUs on the PCI bus, whether or not the driver manages them; none that is passed on to a guest.",
        (),
        "GPUs",
    ),
)
REQUIRED = ("nvidia", "nvidia_uvm")
OPTIONAL = ("gdrdrv", "nvidia_drm", "nvidia_fs", "nvidia_modeset", "nvidia_peermem")


class DriverCollector(Collector):
    """State of the kernel module below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterable[Metric]:
        """Return the families of now; without a readable /proc/modules nothing is said about modules."""
        out = METRICS.families()
        modules = read_text(self._root / "proc/modules", 1 << 20)
        loaded = {line.split(" ", 1)[0] for line in modules.splitlines()}
        for module in (*REQUIRED, *(name for name in OPTIONAL if name in loaded)):
            out.add("gpuheal_driver_module_loaded", module in loaded if modules else None, module)
        version = read_driver_version(self._root)
        if version:
            text = read_text(self._root / "proc/driver/nvidia/version")
            kind = "open" if "Open Kernel Module" in text else "proprietary"
            out.add("gpuheal_driver_kernel_info", 1, version, kind)
        if (self._root / "sys/bus/pci/devices").is_dir():
            out.add("gpuheal_driver_pci_gpus", len(gpus_for_this_host(self._root)))
        return out.all()


class VersionCollector(Collector):
    """Whether NVML's library and the loaded module belong together; one small file per scrape, which never blocks."""

    def __init__(self, root: Path, snapshot: Callable[[], NvmlSnapshot]) -> None:
        self._root = root
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Return one family, or none while either version is unknown."""
        now, out = self._snapshot(), METRICS.families()
        loaded = read_driver_version(self._root)
        if now.state is NvmlState.VERSION_MISMATCH:
            out.add("gpuheal_driver_version_mismatch", 1)
        elif now.serving and now.driver_version and loaded:
            out.add("gpuheal_driver_version_mismatch", now.driver_version != loaded)
        return out.all()


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="driver", metrics=METRICS, build=lambda hardware: DriverCollector(hardware.root), poll_seconds=15.0
)
VERSION: CollectorDef[Hardware] = CollectorDef(
    name="version", metrics=METRICS, build=lambda hardware: VersionCollector(hardware.root, hardware.snapshot)
)
