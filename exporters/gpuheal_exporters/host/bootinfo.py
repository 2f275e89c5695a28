"""Which boot the node runs in, and which driver: small files under /proc, below a given root."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gpuheal_exporters.host.procfs import read_text

STAT_LIMIT = 4 * 2**20  # btime stands below the interrupt counts, one line of megabytes on large machines
_DRIVER = re.compile(r"\b(\d{3,4}\.\d{1,4}(?:\.\d{1,4})?)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootInfo:
    """`boot_id` is empty and `boot_time` (unix seconds) zero where the kernel does not tell."""

    boot_id: str
    boot_time: float


def read_boot_id(root: Path) -> str:
    """Return the id of the running boot, or an empty text; cheaper than `read_boot`, for looking often."""
    return read_text(root / "proc/sys/kernel/random/boot_id").strip()


def read_boot(root: Path) -> BootInfo:
    """Return the running boot of the kernel whose /proc is below `root`."""
    found = re.search(r"^btime (\d+)$", read_text(root / "proc/stat", STAT_LIMIT), re.MULTILINE)
    return BootInfo(boot_id=read_boot_id(root), boot_time=float(found[1]) if found else 0.0)


def read_driver_version(root: Path) -> str:
    """Return the version of the loaded NVIDIA kernel module, or an empty text."""
    version = read_text(root / "sys/module/nvidia/version").strip()
    if version:
        return version
    found = _DRIVER.search(read_text(root / "proc/driver/nvidia/version").split("\n", 1)[0])
    return found[1] if found else ""
