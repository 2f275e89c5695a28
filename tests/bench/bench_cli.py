"""How long each `gpuheal … --help` takes; the aim is 300 ms. `python -m tests.bench.bench_cli`"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from gpuheal_responder.cli import COMMANDS

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


def main(argv: Sequence[str]) -> int:
    """Print one line per command."""
    del argv
    print(f"{'(none)':10} {1000 * seconds('--help'):5.0f} ms")
    for name, command in COMMANDS.items():
        there = importlib.util.find_spec(command.module) is not None
        print(f"{name:10} {1000 * seconds(name, '--help'):5.0f} ms" if there else f"{name:10} not there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
