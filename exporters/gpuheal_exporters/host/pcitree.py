"""The GPUs on the PCI bus and the ports above them, from the device tree in sysfs; nothing asks the bus itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpuheal_exporters.host.identity import normalise_pci
from gpuheal_exporters.host.procfs import read_text

NVIDIA = "0x10de"
GPU_CLASSES = ("0x0300", "0x0302")  # PCI display controllers: VGA, 3D
SWITCH_CLASS = "0x0680"  # an NVSwitch is a "bridge, other"
MAX_DEVICES = 4096
PASSED_ON = ("vfio", "stub")
"""Words in the names of drivers that keep a device for somebody else: vfio-pci, nvgrace-gpu-vfio-pci, pci-stub."""


def nvidia_devices(root: Path, classes: tuple[str, ...]) -> list[str]:
    """Return the addresses (dddd:bb:dd) of NVIDIA devices of these classes (first six characters of sysfs `class`)."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*"))[:MAX_DEVICES]:
        if read_text(device / "vendor", 64).strip() != NVIDIA:
            continue
        if read_text(device / "class", 64).strip().startswith(classes):
            try:
                found.append(normalise_pci(device.name))
            except ValueError:
                continue
    return found


def gpus_for_this_host(root: Path) -> list[str]:
    """Return the GPUs that this host's NVIDIA driver should manage.

    A virtual function (vGPU) is a part of one, and a GPU that a hypervisor passes on to a guest is the guest's.
    """

    def ours(address: str) -> bool:
        device = root / f"sys/bus/pci/devices/{address}.0"
        try:
            driver = os.readlink(device / "driver").rsplit("/", 1)[-1]
        except OSError:
            driver = ""  # bound to none, or sysfs does not say: then it is missing from NVML, which is to be told
        return not any(word in driver for word in PASSED_ON) and not (device / "physfn").exists()

    return [address for address in nvidia_devices(root, GPU_CLASSES) if ours(address)]


def ports_above(root: Path, addresses: Iterable[str]) -> Mapping[str, str]:
    """Return port address → GPU address, for every port or switch above these GPUs; empty text above several.

    /sys/bus/pci/devices/ADDRESS links to a path that names every bridge from the root complex down. Addresses are
    `dddd:bb:dd`; GPUs sysfs does not know (any more) have no ports.
    """
    below: dict[str, set[str]] = {}
    for address in addresses:
        try:
            parts = os.readlink(root / f"sys/bus/pci/devices/{address}.0").split("/")
        except OSError:
            continue
        for part in parts[:-1]:
            try:
                below.setdefault(normalise_pci(part), set()).add(address)
            except ValueError:
                continue
    return {port: next(iter(gpus)) if len(gpus) == 1 else "" for port, gpus in below.items()}
