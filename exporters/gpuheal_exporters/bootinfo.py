"""Which boot the node runs in, and which driver: small files under /proc, below a given root."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_DRIVER = re.compile(r"\b(\d{3,4}\.\d{1,4}(?:\.\d{1,4})?)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootInfo:
    """`boot_id` is empty and `boot_time` (unix seconds) zero where the kernel does not tell."""

    boot_id: str
    boot_time: float


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_boot(root: Path) -> BootInfo:
    """The running boot of the kernel whose /proc is below `root`."""
    boot_id = _read(root / "proc/sys/kernel/random/boot_id").strip()
    found = re.search(r"^btime (\d+)$", _read(root / "proc/stat"), re.MULTILINE)
    return BootInfo(boot_id=boot_id, boot_time=float(found[1]) if found else 0.0)


def read_driver_version(root: Path) -> str:
    """The version of the loaded NVIDIA kernel module, or an empty text."""
    version = _read(root / "sys/module/nvidia/version").strip()
    if version:
        return version
    found = _DRIVER.search(_read(root / "proc/driver/nvidia/version").split("\n", 1)[0])
    return found[1] if found else ""
