"""The kernel module: loaded, which version, and how many NVIDIA GPUs sit on the bus whatever the driver thinks of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.host.bootinfo import read_driver_version
from gpuheal_exporters.host.procfs import read_text
from gpuheal_exporters.metrics.nvml import Families
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot, NvmlState

REQUIRED = ("nvidia", "nvidia_uvm")
OPTIONAL = ("gdrdrv", "nvidia_drm", "nvidia_fs", "nvidia_modeset", "nvidia_peermem")
NVIDIA = "0x10de"
GPU_CLASSES = ("0x0300", "0x0302")  # PCI display controllers: VGA, 3D
SWITCH_CLASS = "0x0680"  # an NVSwitch is a "bridge, other"
MAX_DEVICES = 4096


def nvidia_devices(root: Path, classes: tuple[str, ...]) -> int:
    """NVIDIA devices of these PCI classes (first six characters of sysfs `class`); values the kernel holds, nothing
    asks the bus.
    """
    found = 0
    for device in sorted((root / "sys/bus/pci/devices").glob("*"))[:MAX_DEVICES]:
        if read_text(device / "vendor").strip() == NVIDIA:
            found += read_text(device / "class").strip().startswith(classes)
    return found


class DriverCollector(Collector):
    """State of the kernel module below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterable[Metric]:
        """The families of now; without a readable /proc/modules nothing is said about modules."""
        out = Families()
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
            out.add("gpuheal_driver_pci_gpus", nvidia_devices(self._root, GPU_CLASSES))
        return out.all()


class VersionCollector(Collector):
    """Whether NVML's library and the loaded module belong together; one small file per scrape, which never blocks."""

    def __init__(self, root: Path, snapshot: Callable[[], NvmlSnapshot]) -> None:
        self._root = root
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """One family, or none while either version is unknown."""
        now, out = self._snapshot(), Families()
        loaded = read_driver_version(self._root)
        if now.state is NvmlState.VERSION_MISMATCH:
            out.add("gpuheal_driver_version_mismatch", 1)
        elif now.serving and now.driver_version and loaded:
            out.add("gpuheal_driver_version_mismatch", now.driver_version != loaded)
        return out.all()
