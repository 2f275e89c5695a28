"""What the rules cost in a real Prometheus: CPU, memory, seconds per cycle and samples per rule at several fleet sizes.

A server on loopback answers for every node's exporter and dcgm-exporter; one GPU in a hundred is faulty. The figures of
all sizes are fitted with a line and carried on to 100,000 GPUs.
`python -m tests.bench.bench_rules [--gpus 1024 8192 16384] [--seconds 120] [--interval 15] [--generation debian]`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_lab.servers.process import free_ports
from gpuheal_lab.servers.stack import Prometheus, prometheus_config
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import build_groups, rule_file

GPUS_PER_NODE = 8
FAULTY_EVERY = 100
DCGM_FIELDS = (
    "GPU_TEMP", "SM_CLOCK", "MEM_CLOCK", "MEMORY_TEMP", "POWER_USAGE", "TOTAL_ENERGY_CONSUMPTION", "GPU_UTIL",
    "MEM_COPY_UTIL", "ENC_UTIL", "DEC_UTIL", "FB_FREE", "FB_USED", "XID_ERRORS", "ROW_REMAP_PENDING",
    "ROW_REMAP_FAILURE", "PCIE_REPLAY_COUNTER", "ECC_SBE_VOL_TOTAL", "ECC_DBE_VOL_TOTAL", "CLOCKS_EVENT_REASONS",
    "GET_GPU_RECOVERY_ACTION",
)  # fmt: skip
VALUES = {"GPU_TEMP": 45, "SM_CLOCK": 1980, "MEMORY_TEMP": 60, "CLOCKS_EVENT_REASONS": 4}
NODE_TEXT = """\
gpuheal_exporter_heartbeat_timestamp_seconds {now}
gpuheal_kmsg_up 1
gpuheal_nvml_up 1
gpuheal_node_boot_timestamp_seconds 1000000
gpuheal_probe_stuck{{group="health"}} 0
gpuheal_nvml_driver_info{{driver_version="580.65.06"}} 1
gpuheal_driver_pci_gpus 8
gpuheal_nvml_devices 8
"""
EXPORTER_GAUGES = {
    "gpuheal_gpu_recovery_action": 0, "gpuheal_gpu_nvlinks_active": 18, "gpuheal_gpu_nvlinks_expected": 18,
    "gpuheal_gpu_pcie_link_width": 16, "gpuheal_gpu_pcie_link_width_max": 16, "gpuheal_gpu_row_remap_pending": 0,
    "gpuheal_gpu_row_remap_failed": 0, "gpuheal_gpu_temperature_margin_celsius": 40,
    "gpuheal_gpu_pcie_link_generation_under_load": 5, "gpuheal_gpu_pcie_link_generation_max": 5,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one fleet size cost. CPU in cores, memory in GiB, `cycle` in seconds, samples by rule of the main group."""

    gpus: int
    cpu: float
    scrape_cpu: float
    memory: float
    cycle: float
    missed: float
    samples: dict[str, int]


def uuid(node: int, gpu: int) -> str:
    """Return the UUID of a GPU of the simulated fleet."""
    return f"GPU-{node:08x}-0000-0000-0000-{gpu:012x}"


def exporter_text(node: int) -> str:
    """Return what the node's exporter serves, with a place for the time."""
    lines = [NODE_TEXT.rstrip("\n")]
    for gpu in range(GPUS_PER_NODE):
        label = f'gpu_uuid="{uuid(node, gpu)}"'
        bus = f'{label},pci_bus_id="0000:{gpu + 16:02x}:00"'
        lines.append(f'gpuheal_gpu_info{{{{{bus},serial="{node}{gpu}",slot="{gpu}",product="H100"}}}} 1')
        lines.append(f"gpuheal_gpu_present{{{{{bus}}}}} 1")
        lines += [f"{name}{{{{{label}}}}} {value}" for name, value in EXPORTER_GAUGES.items()]
        if (node * GPUS_PER_NODE + gpu) % FAULTY_EVERY == 0:
            code = (63, 79, 31, 119)[(node + gpu) % 4]
            for name, value in (("latched", 1), ("last_timestamp_seconds", 1_700_000_000), ("total", 1)):
                lines.append(f'gpuheal_xid_{name}{{{{{bus},xid="{code}"}}}} {value}')
    return "\n".join(lines) + "\n"


def dcgm_text(node: int) -> str:
    """Return what the node's dcgm-exporter serves: twenty fields per GPU, labelled as by release 4.5.3-4.8.2."""
    lines = []
    for gpu in range(GPUS_PER_NODE):
        own = (
            f'gpu="{gpu}",UUID="{uuid(node, gpu)}",pci_bus_id="00000000:{gpu + 16:02X}:00.0",device="nvidia{gpu}",'
            f'modelName="NVIDIA H100 80GB HBM3",Hostname="node-{node}",DCGM_FI_DRIVER_VERSION="580.65.06"'
        )
        lines += [f"DCGM_FI_DEV_{field}{{{own}}} {VALUES.get(field, 0)}" for field in DCGM_FIELDS]
    return "\n".join(lines) + "\n"


@contextmanager
def serving(nodes: int) -> Iterator[int]:
    """Serve /e/N and /d/N of every node on loopback from a thread; yields the port and ends with the block."""
    exporters = [exporter_text(node) for node in range(nodes)]
    dcgm = [dcgm_text(node).encode() for node in range(nodes)]
    port = free_ports(1)[0]
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                kind, number = head.split(b" ", 2)[1].decode().strip("/").split("/")
                body = dcgm[int(number)]
                if kind == "e":
                    body = exporters[int(number)].format(now=time.time()).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: ")
                writer.write(str(len(body)).encode() + b"\r\n\r\n" + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        ready.set()
        async with server:
            await server.serve_forever()

    def thread() -> None:
        asyncio.set_event_loop(loop)
        task = loop.create_task(run())
        loop.run_forever()
        task.cancel()
        rest = asyncio.all_tasks(loop)
        for one in rest:
            one.cancel()
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.close()

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    ready.wait(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(loop.stop)
        worker.join(10)


def targets(folder: Path, nodes: int, port: int) -> list[dict[str, Any]]:
    """Write the targets of both jobs below `folder` and return their scrape configurations."""
    jobs: list[dict[str, Any]] = []
    for job, kind in (("gpuheal-exporter", "e"), ("dcgm-exporter", "d")):
        entries = [
            {
                "targets": [f"127.0.0.1:{port}"],
                "labels": {
                    "node": f"node-{n}",
                    "rack": f"rack-{n // 16}",
                    "zone": "z1",
                    "__metrics_path__": f"/{kind}/{n}",
                },
            }
            for n in range(nodes)
        ]
        path = folder / f"{job}.json"
        path.write_text(json.dumps(entries))
        jobs.append({"job_name": job, "file_sd_configs": [{"files": [str(path)]}]})
    return jobs


@contextmanager
def prometheus(
    folder: Path, nodes: int, interval_s: int, *, rules: bool = True, generation: Generation = Generation.DEBIAN
) -> Iterator[Prometheus]:
    """Run a real Prometheus on a simulated fleet with the generated rules."""
    interval = timedelta(seconds=interval_s)
    options = Options(interval=interval, scrape_interval=interval)
    groups = build_groups(load_catalogue(), options)
    with serving(nodes) as port:
        server = Prometheus(
            ensure("prometheus", generation),
            folder,
            config=prometheus_config(scrape=targets(folder, nodes, port), scrape_interval=f"{interval_s}s"),
            rules={"gpuheal.yml": rule_file(groups)} if rules else {},
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


def samples_by_rule(server: Prometheus, groups: Sequence[Group]) -> dict[str, int]:
    """Return how many samples each expression of the rules reads, as Prometheus counts them."""
    found: dict[str, int] = {}
    for group in groups:
        for rule in group.rules:
            stats = server.get("/api/v1/query", query=rule.expr, stats="all")["data"]["stats"]
            labels = ",".join(f"{k}={v}" for k, v in sorted(rule.labels.items()) if k not in ("strength", "namespace"))
            found[f"{group.name}/{rule.name}{{{labels}}}"] = int(stats["samples"]["totalQueryableSamples"])
    return found


def _metric(server: Prometheus, name: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def measure(gpus: int, seconds: int, interval_s: int, generation: Generation) -> Figures:
    """Return what a fleet of `gpus` costs, with and without rules, each measured over `seconds`."""
    nodes = gpus // GPUS_PER_NODE
    cpu: dict[bool, float] = {}
    for rules in (False, True):
        with (
            tempfile.TemporaryDirectory() as name,
            prometheus(Path(name), nodes, interval_s, rules=rules, generation=generation) as server,
        ):
            process = psutil.Process(server.child.pid)
            time.sleep(4 * interval_s)
            before, began = sum(process.cpu_times()[:2]), time.monotonic()
            time.sleep(seconds)
            cpu[rules] = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
            if rules:
                memory = process.memory_info().rss / 2**30
                cycle = _metric(server, "prometheus_rule_group_last_duration_seconds")
                missed = _metric(server, "prometheus_rule_group_iterations_missed_total")
                interval = timedelta(seconds=interval_s)
                groups = build_groups(load_catalogue(), Options(interval=interval, scrape_interval=interval))
                samples = samples_by_rule(server, groups)
    return Figures(
        gpus=gpus, cpu=cpu[True], scrape_cpu=cpu[False], memory=memory, cycle=cycle, missed=missed, samples=samples
    )


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return offset and slope of the least-squares line."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else mean_y / mean_x
    return mean_y - slope * mean_x, slope


def main(argv: Sequence[str]) -> int:
    """Print a table, the ten most expensive rules and the extrapolation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1024, 8192, 16384])
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--interval", type=int, default=15)
    parser.add_argument("--generation", choices=[one.value for one in Generation], default="debian")
    args = parser.parse_args(list(argv))
    print("  GPUs  cores  of these scraping  RSS GiB  rule seconds per cycle  missed  samples per cycle", flush=True)
    found = []
    for gpus in args.gpus:
        one = measure(gpus, args.seconds, args.interval, Generation(args.generation))
        found.append(one)
        print(
            f"{one.gpus:6d} {one.cpu:6.3f} {one.scrape_cpu:18.3f} {one.memory:8.2f} {one.cycle:23.3f} {one.missed:7.0f}"
            f" {sum(one.samples.values()):18d}",
            flush=True,
        )
    print("\nmost samples per GPU, largest fleet:")
    for name, count in sorted(found[-1].samples.items(), key=lambda item: -item[1])[:10]:
        print(f"  {count / found[-1].gpus:7.2f}  {name}")
    if len(found) > 1:
        print("\nlinear fit, carried on to 100,000 GPUs:")
        for name in ("cpu", "memory", "cycle"):
            offset, slope = line([(one.gpus, getattr(one, name)) for one in found])
            print(f"  {name}: {offset:.4f} + {slope * 1000:.5f} per 1,000 GPUs -> {offset + slope * 100_000:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
