"""Small files of the kernel, below a root that may be mounted elsewhere."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path, limit: int = 65536) -> str:
    """Return the first `limit` characters of a file, or an empty text when it can't be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(limit)
    except OSError:
        return ""


def host_pids_visible(root: Path) -> bool:
    """Return whether the pids under `root`/proc are the kernel log's, the host's: process 2 is kthreadd then."""
    return read_text(root / "proc/2/comm", 64).strip() == "kthreadd"
