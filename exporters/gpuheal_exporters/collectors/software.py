"""Which parts of the GPU software run on this node: found by process name or by who answers on a socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import CollectorDef, Hardware
from gpuheal_exporters.host.pcitree import SWITCH_CLASS, nvidia_devices
from gpuheal_exporters.host.procfs import host_pids_visible, read_text
from gpuheal_exporters.metrics.definition import MetricTable, gauge
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot

METRICS = MetricTable(
    "/proc",
    gauge(
        "gpuheal_software_up",
        "1 if the component is running, 0 if not; no series if unknown (host processes not visible).",
        ("component",),
        source="/proc, unix sockets",
    ),
    gauge(
        "gpuheal_software_expected",
        "1 if this node needs the component: it has NVSwitches, or it was seen since the exporter started.",
        ("component",),
        source="/dev, /sys, /proc",
    ),
)
PROCESSES = {
    # component -> /proc/<pid>/comm, which the kernel cuts at 15 characters
    "fabric_manager": ("nv-fabricmanage",),
    "persistenced": ("nvidia-persiste",),
    "dcgm_hostengine": ("nv-hostengine", "dcgm-exporter"),  # the exporter embeds the engine unless told otherwise
    "imex": ("nvidia-imex",),
    "nvlsm": ("nvlsm",),
}
SOCKETS = {
    # component -> patterns below the root
    "persistenced": ("run/nvidia-persistenced/socket", "var/run/nvidia-persistenced/socket"),
    "device_plugin": ("var/lib/kubelet/device-plugins/nvidia*.sock",),
    "dra_plugin": ("var/lib/kubelet/plugins/gpu.nvidia.com/*.sock",),
}
DCGM_PORT = 5555
MAX_PROCESSES = 65536
_LISTEN = "0A"


def processes(root: Path) -> set[str] | None:
    """Return the names of all processes; None when the host's are not visible (PID namespace, hidepid)."""
    proc = root / "proc"
    if not host_pids_visible(root):
        return None
    names = set()
    with os.scandir(proc) as entries:
        for entry, _ in zip(entries, range(MAX_PROCESSES), strict=False):
            if entry.name.isdigit():
                names.add(read_text(Path(entry.path, "comm"), 64).strip())
    return names


def answers(path: Path) -> bool:
    """Return whether somebody listens on this unix socket. Nothing is sent; a full backlog counts as listening."""
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
            # by way of /proc/self/fd, since a socket address holds 107 bytes and a root may lie deep
            code = client.connect_ex(f"/proc/self/fd/{folder}/{path.name}")
            return code in (0, errno.EAGAIN, errno.EINPROGRESS)
    finally:
        os.close(folder)


def listens(root: Path, port: int) -> bool:
    """Return whether a TCP socket listens on this port, IPv4 or IPv6, in the network namespace of process 1."""
    wanted = f":{port:04X}"
    for name in ("tcp", "tcp6"):
        text = read_text(root / "proc/1/net" / name, 4 << 20) or read_text(root / "proc/net" / name, 4 << 20)
        for line in text.splitlines()[1:]:
            words = line.split()
            if len(words) > 3 and words[1].endswith(wanted) and words[3] == _LISTEN:
                return True
    return False


class SoftwareCollector(Collector):
    """Up and expected per component; remembers which components it has seen up."""

    def __init__(self, root: Path, snapshot: Callable[[], NvmlSnapshot]) -> None:
        self._root = root
        self._snapshot = snapshot
        self._seen: set[str] = set()

    def collect(self) -> Iterable[Metric]:
        """Return the families of now."""
        out = METRICS.families()
        names = processes(self._root)
        for component in sorted({*PROCESSES, *SOCKETS}):
            up = self._up(component, names)
            if up:
                self._seen.add(component)
            out.add("gpuheal_software_up", up, component)
            if up is not None:
                out.add("gpuheal_software_expected", self._expected(component), component)
        return out.all()

    def _up(self, component: str, names: set[str] | None) -> bool | None:
        """Return whether it runs, None when that can't be told."""
        patterns = SOCKETS.get(component, ())
        if any(answers(path) for pattern in patterns for path in self._paths(pattern)):
            return True
        if component == "dcgm_hostengine" and listens(self._root, DCGM_PORT):
            return True
        if component in PROCESSES:
            return None if names is None else not names.isdisjoint(PROCESSES[component])
        folders = [self._root / Path(pattern).parent for pattern in patterns]
        return False if any(folder.is_dir() for folder in folders) else None

    def _paths(self, pattern: str) -> list[Path]:
        return sorted(self._root.glob(pattern))[:16]

    def _expected(self, component: str) -> bool:
        if component in self._seen:
            return True
        if component == "fabric_manager":
            return self._switched()
        return component in ("device_plugin", "dra_plugin") and any(
            self._paths(pattern) for pattern in SOCKETS[component]
        )

    def _switched(self) -> bool:
        """Return whether the node has NVSwitches of its own, on its bus or behind its GPUs.

        In a rack the fabric manager runs on the switch trays.
        """
        if nvidia_devices(self._root, (SWITCH_CLASS,)) or (self._root / "dev/nvidia-nvswitchctl").exists():
            return True
        fabrics = [gpu.reading("fabric") for gpu in self._snapshot().gpus]
        return any(fabric.number("state") and not fabric.text("cluster") for fabric in fabrics)


COLLECTOR: CollectorDef[Hardware] = CollectorDef(
    name="software",
    metrics=METRICS,
    build=lambda hardware: SoftwareCollector(hardware.root, hardware.snapshot),
    poll_seconds=30.0,
)
