"""Builds the stub libnvidia-ml.so.1 with the machine's C compiler and scripts it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("stub.c")


def build(folder: Path) -> Path:
    """`folder` holds libnvidia-ml.so.1 (give it as LD_LIBRARY_PATH). Raises RuntimeError naming what to install
    without a compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError(
            "the NVML tests need a C compiler: install one (Debian: apt-get install gcc libc6-dev) and run again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        str(folder / "libnvidia-ml.so.1"),
        str(SOURCE),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return folder


class Script:
    """The state file of one stub: what the machine is and does from now on."""

    def __init__(self, folder: Path, library: Path | None) -> None:
        self.state = folder / "state"
        self.log = folder / "calls"
        self._library = library or folder / "no-library"
        self.lines: dict[str, str] = {}
        self.set(profile="h100")

    def set(self, **values: object) -> None:
        """These keys hold from the next call on; `None` takes a key back. `__` in a name stands for a dot."""
        for name, value in values.items():
            key = name.replace("__", ".")
            if value is None:
                self.lines.pop(key, None)
            else:
                self.lines[key] = str(value)
        fresh = self.state.with_suffix(".new")
        fresh.write_text("".join(f"{key} {value}\n" for key, value in self.lines.items()), encoding="utf-8")
        fresh.rename(self.state)

    def environment(self) -> dict[str, str]:
        """The environment of a process that is to meet this stub."""
        return os.environ | {
            "LD_LIBRARY_PATH": str(self._library),
            "GPUHEAL_STUB_STATE": str(self.state),
            "GPUHEAL_STUB_LOG": str(self.log),
        }

    def calls(self) -> list[str]:
        """nvmlInitWithFlags ("init PID") and nvmlShutdown ("shutdown PID") calls so far, in order."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
