"""A headless Chromium that opens one page: what its scripts made of it, and how it looks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

DEADLINE_S = 60
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


def dom(page: Path, part: str, folder: Path) -> str:
    """Return the page's elements after its scripts ran, with this part of it shown."""
    return _run(page, part, folder, "--dump-dom", "--window-size=1500,1000")


def picture(page: Path, part: str, folder: Path, out: Path, *, height: int) -> None:
    """Write what one sees of the page, 1500 pixels wide."""
    _run(page, part, folder, f"--screenshot={out}", f"--window-size=1500,{height}")


def _run(page: Path, part: str, folder: Path, *flags: str) -> str:
    found = shutil.which("chromium")
    assert found, "chromium is not on PATH; on Debian: apt-get install chromium fonts-dejavu-core"
    command = [found, *FLAGS, f"--user-data-dir={folder / 'chromium'}", *flags, f"file://{page}#{part}"]
    # Its processes are a group of their own, so that none of them is left when it takes too long.
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=folder
    )
    try:
        told, complaints = started.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        told, complaints = started.communicate()
    assert started.returncode == 0, complaints[-2000:]
    return told
