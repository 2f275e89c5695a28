"""Finds promtool and runs it; its verdict is returned as text, so that the caller decides what a failure means."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gpuheal_rules.promql.slices import sliced

DEADLINE_SECONDS = 600


def find_promtool(explicit: str | None = None) -> str | None:
    """Return a promtool command: the given one, else `$GPUHEAL_PROMTOOL`, else the one on PATH, else None."""
    for candidate in (explicit, os.environ.get("GPUHEAL_PROMTOOL")):
        if candidate:
            return candidate if Path(candidate).is_file() else None
    return shutil.which("promtool")


def check_rules(promtool: str, files: Sequence[Path]) -> str:
    """Return promtool's complaints about rule files (lint included, as failures), empty when there are none."""
    return _run([promtool, "check", "rules", "--lint=all", "--lint-fatal", *map(str, files)])


def run_tests(promtool: str, files: Sequence[Path], *, whole: bool = False) -> str:
    """Return promtool's complaints about unit test files, empty when all pass.

    Rules that cannot change an answer are left out where that saves much, unless the `whole` is asked for.
    """
    with tempfile.TemporaryDirectory(prefix="gpuheal-promtool-") as folder:
        parts = list(files) if whole else [part for file in files for part in sliced(file, Path(folder))]
        return _run([promtool, "test", "rules", *map(str, parts)])


def _run(command: Sequence[str]) -> str:
    # A test is short and makes much garbage: with Go's default a quarter of its time goes into collecting it.
    environment = {"GOGC": "400", **os.environ}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False, env=environment
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"exit status {done.returncode}"
