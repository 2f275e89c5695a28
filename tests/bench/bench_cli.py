"""How long each `gpuheal … --help` takes (300 ms at most), and how large the wheels are."""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpuheal_responder.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TIMES = 5
RUN = "import sys; from gpuheal_responder.cli import main; sys.exit(main(sys.argv[1:]))"


def seconds(*args: str) -> float:
    """Median wall time of one command line."""
    spent = []
    for _ in range(TIMES):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", RUN, *args], check=True, capture_output=True)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def sizes() -> Iterator[str]:
    """One line per wheel: its bytes, its files, their bytes."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    with tempfile.TemporaryDirectory(prefix="gpuheal-wheels-") as folder:
        subprocess.run([*pip, "--wheel-dir", folder, str(ROOT), str(ROOT / "deploy" / "lab")], check=True)
        for wheel in sorted(Path(folder).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                found = archive.infolist()
            unpacked = sum(entry.file_size for entry in found)
            yield f"{wheel.name}: {wheel.stat().st_size:,} bytes; {len(found)} files, {unpacked:,} bytes unpacked"


def main(argv: Sequence[str]) -> int:
    """Print one line per command."""
    del argv
    print(f"{'(none)':10} {1000 * seconds('--help'):5.0f} ms")
    for name, command in COMMANDS.items():
        there = importlib.util.find_spec(command.module) is not None
        print(f"{name:10} {1000 * seconds(name, '--help'):5.0f} ms" if there else f"{name:10} not there")
    print(*sizes(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
