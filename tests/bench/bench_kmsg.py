"""A flood of Xid lines on the real /dev/kmsg: what share the exporter sees, and whether it counts the rest exactly.

Run as root: python -m tests.bench.bench_kmsg [TREE ...]. Each TREE is a checkout (this one by default); their exporters
are measured in turn in the same run, so that two versions compare. Lines written by user space count in a drill only.
Sets kernel.printk_devkmsg to `on` meanwhile: other readers of the kernel log will see the flood.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from tests.bench.bench_exporter import addresses, inventory, scrape, wait

KMSG = Path("/dev/kmsg")
LIMIT = Path("/proc/sys/kernel/printk_devkmsg")
SECONDS = 2.0
FLOODS = {"50k_per_second": 50_000, "100k_per_second": 100_000, "burst_of_200k": 0}
BURST = 200_000
CHUNK = 100
SETTLED_SECONDS = 1.0


@contextmanager
def unlimited() -> Iterator[None]:
    """Writes to /dev/kmsg are not rate limited."""
    before = LIMIT.read_text().strip()
    LIMIT.write_text("on\n")
    try:
        yield
    finally:
        LIMIT.write_text(before + "\n")


def write(rate: int) -> tuple[int, float]:
    """Lines written, and in how many seconds; at once for rate 0."""
    pci = addresses()
    count = int(rate * SECONDS) or BURST
    lines = [
        b"<4>NVRM: Xid (PCI:%s): 45, pid=%d, name=python3, Ch %08x" % (pci[n % 8].encode(), 1000 + n % 64, n % 4096)
        for n in range(count)
    ]
    log = os.open(KMSG, os.O_WRONLY)
    began = time.perf_counter()
    for number, line in enumerate(lines):
        if rate and number % CHUNK == 0:
            while time.perf_counter() - began < number / rate:
                pass  # a sleep of less than a millisecond lasts longer than that
        os.write(log, line)
    took = time.perf_counter() - began
    os.close(log)
    return count, took


def counted(port: int) -> dict[str, float]:
    """The counters of the log source."""
    found = {}
    for line in scrape(port).decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("gpuheal_kmsg_") and name.endswith("_total"):
            found[name.removeprefix("gpuheal_kmsg_").removesuffix("_total")] = float(value)
    return found


def settled(port: int) -> dict[str, float]:
    """The counters once nothing has come for a while."""
    last, since = counted(port), time.perf_counter()
    while time.perf_counter() - since < SETTLED_SECONDS:
        time.sleep(0.1)
        now = counted(port)
        if now != last:
            last, since = now, time.perf_counter()
    return last


def measure(tree: Path, rate: int) -> dict[str, float]:
    """One flood into a fresh exporter of that tree."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as probe:
        root, port = Path(name), int(probe.getsockname()[1])
        probe.close()
        (root / "gpus.json").write_text(json.dumps(inventory()))
        command = [
            sys.executable,
            "-m",
            "gpuheal_exporters",
            f"--listen-address=127.0.0.1:{port}",
            "--no-nvml",
            "--drill",
        ]
        command += [
            f"--root={root}",
            f"--kmsg={KMSG}",
            f"--inventory={root / 'gpus.json'}",
            f"--state-dir={root / 's'}",
        ]
        environment = dict(os.environ, PYTHONPATH=str(tree / "exporters"))
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=root) as exporter:
            try:
                wait(lambda: answers(port))
                before = settled(port)
                cpu = psutil.Process(exporter.pid).cpu_times().user
                written, took = write(rate)
                after = settled(port)
                used = psutil.Process(exporter.pid).cpu_times().user - cpu
                memory = psutil.Process(exporter.pid).memory_info().rss / 2**20
            finally:
                exporter.terminate()
    seen, lost = (after[key] - before[key] for key in ("records", "lost_records"))
    return {
        "written_per_second": round(written / took),
        "share_seen": round(min(seen / written, 1.0), 4),
        "accounted": round((seen + lost) / written, 4),
        "cpu_seconds": round(used, 2),
        "rss_mb": round(memory, 1),
    }


def answers(port: int) -> bool:
    """The exporter serves."""
    try:
        return bool(scrape(port))
    except OSError:
        return False


def main() -> int:
    """Prints the figures of every tree, one JSON object per flood and tree."""
    trees = [Path(argument) for argument in sys.argv[1:]] or [Path(__file__).parents[2]]
    with unlimited():
        for flood, rate in FLOODS.items():
            for tree in trees:
                print(json.dumps({"tree": tree.name, "flood": flood, **measure(tree.resolve(), rate)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
