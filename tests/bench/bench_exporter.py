"""Cost of the kernel-log half: scrape time, memory, lines a second, and what a flood of Xid 45 does.

Run: python -m tests.bench.bench_exporter. Prints JSON; ends with status 1 when a budget is exceeded. The whole exporter
with NVML is measured by bench_nvml.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from gpuheal_exporters.host.identity import GpuIdentity, StaticInventory
from gpuheal_exporters.kernel.kmsg import interesting, parse_raw
from gpuheal_exporters.kernel.message import parse_message
from gpuheal_exporters.node.state import NodeExporterState

GPUS = 8
LINES = 200_000
ROUNDS = 3
SCRAPES = 200
BUDGETS = {"scrape_ms_median": 5.0, "rss_mb": 45.0}
FLOOR = {"parsed_lines_per_second": 300_000.0}


def addresses() -> list[str]:
    """PCI addresses of the node's GPUs."""
    return [f"0000:{0x10 + number:02x}:00" for number in range(GPUS)]


def inventory() -> list[dict[str, str]]:
    """Eight GPUs as an inventory file lists them."""
    return [
        {"gpu_uuid": f"GPU-{number:08d}", "pci_bus_id": pci, "serial": f"16{number}", "slot": str(number)}
        for number, pci in enumerate(addresses())
    ]


def troubled() -> Iterable[str]:
    """A bad day: five codes on every GPU, switch events, PCIe errors."""
    for pci in addresses():
        for text in ("79, gone", "48, DBE", "63, remap", "13, Graphics Exception", "45, pid=1, name=p, Ch 00000001"):
            yield f"NVRM: Xid (PCI:{pci}): {text}"
        yield f"NVRM: Xid (PCI:{pci}): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
        yield f"NVRM: GPU {pci}.0: GPU has fallen off the bus."
        yield f"nvidia {pci}.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)"
    for switch in range(4):
        yield f"nvidia-nvswitch{switch}: SXid (PCI:0000:0{switch}:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"


def flood(count: int, first: int = 1) -> list[bytes]:
    """Records of Xid 45 from many processes and channels, as read from /dev/kmsg."""
    pci = addresses()
    return [
        b"4,%d,%d,-;NVRM: Xid (PCI:%s): 45, pid=%d, name=python3, Ch %08x\n"
        % (first + number, number * 10, pci[number % GPUS].encode(), 1000 + number % 64, number % 4096)
        for number in range(count)
    ]


def ordinary(count: int) -> list[bytes]:
    """A usual log: one record in fifty says something about a GPU."""
    noise = b"6,%d,%d,-;eth0: renamed from veth%d and some more text of a usual length for a kernel message\n"
    lines = flood(count)
    return [line if number % 50 == 0 else noise % (number, number, number) for number, line in enumerate(lines, 1)]


def rate(count: int, work: Callable[[], object]) -> float:
    """Units per second of processor time, best of a few rounds: what one core can do, whatever else it was doing."""
    best = 0.0
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = max(best, count / (time.process_time() - began))
    return round(best)


def throughput() -> dict[str, float]:
    """Lines a second: parsed only, taken into a state in a flood, and a usual log through the cheap filter."""
    storm, usual = flood(LINES), ordinary(LINES)

    def parse() -> None:
        for raw in storm:
            record = parse_raw(raw)
            assert record is not None
            parse_message(record.text)

    def take(lines: list[bytes]) -> NodeExporterState:
        gpus = [GpuIdentity(**entry) for entry in inventory()]
        state = NodeExporterState(inventory=StaticInventory(gpus), boot_id="b", clock=time.time)
        for raw in lines:
            if interesting(raw) and (record := parse_raw(raw)) is not None:
                state.feed(record, 1.0)
        return state

    return {
        "parsed_lines_per_second": rate(LINES, parse),
        "latched_flood_lines_per_second": rate(LINES, lambda: take(storm)),
        "usual_log_lines_per_second": rate(LINES, lambda: take(usual)),
        "flood_series": float(len(take(storm).levels.xids)),
    }


def scrape(port: int) -> bytes:
    """The body of /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()
    finally:
        connection.close()


def counted(port: int, at_least: int) -> bool:
    """The exporter has read so many records."""
    try:
        lines = scrape(port).decode().splitlines()
    except OSError:
        return False
    return any(line.startswith("gpuheal_kmsg_records_total ") and float(line.split()[1]) >= at_least for line in lines)


def wait(true: Callable[[], bool], seconds: float = 60.0) -> float:
    """Seconds until `true()`; fails after the limit."""
    began = time.perf_counter()
    while not true():
        assert time.perf_counter() - began < seconds, "did not become true in time"
        time.sleep(0.02)
    return time.perf_counter() - began


def process(root: Path) -> dict[str, float]:
    """Figures of one exporter process without NVML: a troubled node, then the flood."""
    log = root / "kmsg"
    bad_day = list(troubled())
    log.write_text("".join(f"4,{seq},{seq},-;{text}\n" for seq, text in enumerate(bad_day, 1)))
    (root / "gpus.json").write_text(json.dumps(inventory()))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "gpuheal_exporters", "--listen-address", f"127.0.0.1:{port}", "--no-nvml"]
    command += ["--root", str(root), "--kmsg", str(log), "--inventory", str(root / "gpus.json")]
    command += ["--state-dir", str(root / "levels")]
    with subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL) as exporter:
        try:
            wait(lambda: counted(port, len(bad_day)))
            took = []
            for _ in range(SCRAPES):
                began = time.perf_counter()
                body = scrape(port)
                took.append((time.perf_counter() - began) * 1000)
            memory = psutil.Process(exporter.pid).memory_info
            calm = memory().rss / 2**20
            with log.open("ab") as out:
                out.writelines(flood(LINES, first=10**6))
            seconds = wait(lambda: counted(port, len(bad_day) + LINES))
            after = memory().rss / 2**20
        finally:
            exporter.terminate()
    return {
        "series": sum(not line.startswith(b"#") for line in body.splitlines()),
        "scrape_ms_median": round(statistics.median(took), 2),
        "scrape_ms_p99": round(sorted(took)[int(SCRAPES * 0.99) - 1], 2),
        "rss_mb_calm": round(calm, 1),
        "rss_mb": round(after, 1),
        "flood_seconds": round(seconds, 2),
    }


def main() -> int:
    """Prints the figures; the exit status says whether all budgets hold."""
    with tempfile.TemporaryDirectory() as name:
        figures = {**throughput(), **process(Path(name))}
    print(json.dumps(figures, indent=2))
    within = all(figures[key] <= limit for key, limit in BUDGETS.items())
    return 0 if within and all(figures[key] >= limit for key, limit in FLOOR.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
