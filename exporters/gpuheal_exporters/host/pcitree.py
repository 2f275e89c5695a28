"""Which GPU a PCIe port leads to, from the device tree in sysfs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpuheal_exporters.host.identity import normalise_pci


def ports_above(root: Path, addresses: Iterable[str]) -> Mapping[str, str]:
    """Port address → GPU address, for every port or switch above exactly one of these GPUs.

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
    return {port: next(iter(gpus)) for port, gpus in below.items() if len(gpus) == 1}
