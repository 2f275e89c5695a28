"""Cost of the whole exporter on eight H100 of the stub library: scrape time, memory, idle processor time.

Run: python -m tests.bench.bench_nvml [--seconds 60] [--profile h100]. Ends with status 1 when a budget is exceeded.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tests.stubs.kubelet import kubelet, pod, response
from tests.stubs.nvml.fixtures import until
from tests.stubs.nvml.library import Script, build

SCRAPE_MS = 50.0
RSS_MB = 45.0
IDLE_PERCENT = 0.5
SCRAPES = 100
WARM_SECONDS = 3.0
UUID = "GPU-11111111-0000-4000-8000-000000000000"


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _scrape(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)  # no proxy, whatever the environment says
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _up(port: int) -> bool:
    try:
        return "gpuheal_nvml_up 1.0" in _scrape(port)
    except OSError:
        return False


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def measure(root: Path, script: Script, seconds: float) -> dict[str, float]:
    """Figures of one exporter process and its NVML child; `root` holds the kernel log and the kubelet's socket."""
    port = _port()
    (root / "kern.log").write_text("")
    command = [sys.executable, "-m", "gpuheal_exporters", "--listen-address", f"127.0.0.1:{port}"]
    command += ["--root", str(root), "--state-dir", str(root / "levels"), "--kmsg", str(root / "kern.log")]
    with subprocess.Popen(command, env=script.environment()) as exporter:
        try:
            until(lambda: _up(port))
            time.sleep(WARM_SECONDS)
            took = []
            for _ in range(SCRAPES):
                began = time.perf_counter()
                text = _scrape(port)
                took.append((time.perf_counter() - began) * 1000)
            parent = psutil.Process(exporter.pid)
            family = [parent, *parent.children(recursive=True)]
            before = _cpu_seconds(family)
            time.sleep(seconds)
            used = _cpu_seconds(family) - before
            rss = [process.memory_info().rss / 2**20 for process in family]
            unique = sum(process.memory_full_info().uss for process in family) / 2**20
        finally:
            exporter.terminate()
    return {
        "series": sum(not line.startswith("#") for line in text.splitlines()),
        "scrape_ms_median": round(statistics.median(took), 2),
        "scrape_ms_max": round(max(took), 2),
        "rss_mb_parent": round(rss[0], 1),
        "rss_mb_children": round(sum(rss[1:]), 1),
        "rss_mb_total": round(sum(rss), 1),
        "uss_mb_total": round(unique, 1),
        "idle_percent_of_core": round(100 * used / seconds, 3),
    }


def main() -> int:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the idle measurement")
    parser.add_argument("--profile", default="h100", choices=("h100", "a100", "gb200", "mig"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        script = Script(root, build(root / "lib"))
        script.set(profile=options.profile)
        path = root / "var/lib/kubelet/pod-resources/kubelet.sock"
        path.parent.mkdir(parents=True)
        held = pod(
            "team", "train-0", "main", resource="nvidia.com/gpu", devices=["GPU-11111111-0000-4000-8000-000000000000"]
        )
        with kubelet(path, lambda _: response(held)):
            figures = measure(root, script, options.seconds)
    print(json.dumps(figures, indent=2))
    within = (
        figures["scrape_ms_median"] <= SCRAPE_MS
        and figures["rss_mb_total"] <= RSS_MB
        and figures["idle_percent_of_core"] <= IDLE_PERCENT
    )
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
