"""A story of two hours on a small fleet, told by gpuheal's own rules, in a real Prometheus.

Raw series are written down minute by minute; promtool evaluates the real rules on them, with the label of clusters, and
prints what they record; raw and recorded series go as blocks into a Prometheus that scrapes nothing. So no test waits,
and nothing depends on the clock or the load of the machine.

Cluster `a`, minutes from the beginning:

    a-1  4 GPUs in rack r1 are healthy throughout
    a-2  4 GPUs in rack r1. Case a-2-first: opened at 20, tainted from 22, ended at 50. At 80 GPU 1 falls off the bus
         (Xid 79); case a-2-second is opened at 81, tainted from 82, and waits for an approval of the reboot from 90
    a-3  2 GPUs in rack r2. At 60 GPU 0 has a row remap pending, corrected ECC errors, a hot chip and a slow link, GPU 1
         has 17 of 18 NVLinks from 70; case opened at 62, tainted from 65; a PodDisruptionBudget blocks the drain
    a-4  2 GPUs in rack r2; both exporters are silent from 100
    a-5  2 GPUs of another model and driver in rack r3; GPU 0 has Xid 119 at 110

Cluster `b` has one node of the name a-2, with one healthy GPU and a held case of its own: it must show nowhere.
"""

from __future__ import annotations

import fcntl
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import promql_parser as pp
import yaml

from gpuheal_dashboards.boards.all import boards
from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_lab.servers.stack import Prometheus, prometheus_config
from gpuheal_rules.cases.document import values
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.lint.flow import metric_names, selectors
from gpuheal_rules.options import Options
from gpuheal_rules.promql.slices import Rules
from gpuheal_rules.render import build_groups, group_data

MINUTES = 120
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
STEP_S = 60
BEGIN = 1_780_000_020
"""Unix time of minute 0: a whole number of minutes, so that steps of a query meet the samples."""
END = BEGIN + MINUTES * STEP_S
OPTIONS = Options(interval=timedelta(minutes=1), scrape_interval=timedelta(minutes=1), cluster_label="cluster")
LOOKBACK = "90s"
"""Backfilled series have no markers of their end: a series that ended is gone after one more scrape."""
TIMES = re.compile(
    r"gpuheal_\w+_timestamp_seconds|gpuheal:(fault_evidence:(open|last_seen)|dcgm_xid_latch:first|xid_latch:last|"
    r"source_seen:last|gpu_suspect:last|fault_witness:last_seen)_seconds|gpuheal:fault_cleared:timestamp_seconds"
)
"""Series whose values are times; promtool begins at 0."""

At = Callable[[int], float | None]
Key = tuple[str, tuple[tuple[str, str], ...]]
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
GAUGES = {
    "gpuheal_gpu_recovery_action": 0, "gpuheal_gpu_nvlinks_active": 18, "gpuheal_gpu_nvlinks_expected": 18,
    "gpuheal_gpu_pcie_link_width": 16, "gpuheal_gpu_pcie_link_width_max": 16, "gpuheal_gpu_temperature_celsius": 50,
    "gpuheal_gpu_pcie_link_generation_under_load": 5, "gpuheal_gpu_pcie_link_generation_max": 5,
    "gpuheal_gpu_temperature_margin_celsius": 37, "gpuheal_gpu_memory_temperature_celsius": 60,
    "gpuheal_gpu_power_watts": 400, "gpuheal_gpu_power_limit_watts": 700, "gpuheal_gpu_row_remap_pending": 0,
    "gpuheal_gpu_row_remap_failed": 0, "gpuheal_gpu_memory_unrepairable": 0, "gpuheal_gpu_sram_threshold_exceeded": 0,
    "gpuheal_gpu_pcie_replays_total": 0,
}  # fmt: skip
DCGM = {
    "DCGM_FI_DEV_GPU_TEMP": 50, "DCGM_FI_DEV_MEMORY_TEMP": 60, "DCGM_FI_DEV_SM_CLOCK": 1980, "DCGM_FI_DEV_GPU_UTIL": 90,
    "DCGM_FI_DEV_POWER_USAGE": 400, "DCGM_FI_DEV_XID_ERRORS": 0, "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 4,
}  # fmt: skip


def uuid(node: str, gpu: int) -> str:
    """Return the UUID of a GPU of the story."""
    return f"GPU-{node}-000{gpu}-0000-0000-000000000000"


def short(node: str, gpu: int) -> str:
    """Return the beginning of the UUID, by which the boards name the GPU."""
    return uuid(node, gpu)[:12]


def always(value: float) -> At:
    """Return a series that is always there."""
    return lambda _minute: float(value)


def since(first: int, value: float, before: float | None = None) -> At:
    """Return a series that is `value` from a minute on."""
    return lambda minute: float(value) if minute >= first else before


def ended(at: At, last: int) -> At:
    """Return a series that is there before a minute only."""
    return lambda minute: at(minute) if minute < last else None


def between(first: int, last: int, value: float) -> At:
    """Return a series that is there from one minute up to, not including, another."""
    return lambda minute: float(value) if first <= minute < last else None


@dataclass(slots=True, kw_only=True)
class Film:
    """All raw series of one cluster."""

    cluster: str
    series: dict[Key, At] = field(default_factory=dict)

    def add(self, metric: str, labels: Mapping[str, str], at: At) -> None:
        """Add a series, or take it in place of the one with the same labels; servers belong to no cluster."""
        own = {} if metric.startswith(("prometheus_", "alertmanager_")) else {"cluster": self.cluster}
        self.series[metric, tuple(sorted({**labels, **own}.items()))] = at

    def responder(self, metric: str, at: At, pod: str = "r-0", **labels: str) -> None:
        """Add a series of the responder."""
        target = {"job": "gpuheal-responder", "instance": f"{pod}:9940", "node": "cpu-1", "pod": pod}
        self.add(metric, {**target, **labels}, at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a film and its exporters, which answer until the minute `ends`."""

    film: Film
    name: str
    rack: str
    gpus: int
    product: str = H100
    driver: str = "580.65.06"
    ends: int = MINUTES + 1

    @property
    def place(self) -> dict[str, str]:
        """Labels that the targets of this node have."""
        return {"node": self.name, "rack": self.rack, "zone": "z1", "fabric_domain": f"f-{self.name}"}

    def own(self, metric: str, at: At, **labels: str) -> None:
        """Add a series of gpuheal's exporter."""
        target = {"job": "gpuheal-exporter", "instance": f"{self.name}:9500"}
        self.film.add(metric, {**labels, **target, **self.place}, self._while_up(at))

    def of_gpu(self, metric: str, gpu: int, at: At, **labels: str) -> None:
        """Add a series of gpuheal's exporter about a GPU."""
        self.own(metric, at, gpu_uuid=uuid(self.name, gpu), **labels)

    def dcgm(self, metric: str, gpu: int, at: At) -> None:
        """Add a series of dcgm-exporter."""
        target = {"job": "dcgm-exporter", "instance": f"{self.name}:9400", **self.place}
        labels = {"gpu": str(gpu), "UUID": uuid(self.name, gpu), "modelName": self.product}
        bus = {"pci_bus_id": f"00000000:{gpu + 16:02X}:00.0"}
        self.film.add(metric, {**labels, **bus, **target}, self._while_up(at))

    def ksm(self, metric: str, at: At, **labels: str) -> None:
        """Add a series of kube-state-metrics about the node."""
        self.film.add(metric, {"job": "kube-state-metrics", "instance": "ksm:8080", "node": self.name, **labels}, at)

    def xid(self, gpu: int, code: int, first: int, action: str) -> None:
        """Latch an Xid that was written half a minute before a minute."""
        labels = {"pci_bus_id": f"0000:{gpu + 16:02x}:00", "xid": str(code)}
        when = first * STEP_S - STEP_S / 2
        told = {"total": 1.0, "latched": 1.0, "first_timestamp_seconds": when, "last_timestamp_seconds": when}
        for name, value in told.items():
            self.of_gpu(f"gpuheal_xid_{name}", gpu, since(first, value), **labels)
        meaning = {"action": action, "basis": "catalogue", "severity": "critical", "blames": "gpu"}
        self.of_gpu("gpuheal_xid_resolution_info", gpu, since(first, 1), **labels, **meaning)

    def healthy(self) -> None:
        """Add all series of a node on which nothing happens."""
        for job, port in (("gpuheal-exporter", 9500), ("dcgm-exporter", 9400)):
            up = since(self.ends, 0, before=1)
            self.film.add("up", {"job": job, "instance": f"{self.name}:{port}", **self.place}, up)
        self.film.add("up", {"job": "node-exporter", "instance": f"{self.name}:9100", "node": self.name}, always(1))
        self.own("gpuheal_exporter_heartbeat_timestamp_seconds", lambda minute: minute * 60.0)
        self.own("gpuheal_node_boot_timestamp_seconds", always(-86400))
        self.own("gpuheal_nvml_driver_info", always(1), driver_version=self.driver)
        self.own("gpuheal_exporter_build_info", always(1), version="0.1.0")
        for metric in ("gpuheal_kmsg_up", "gpuheal_nvml_up"):
            self.own(metric, always(1))
        for metric in ("gpuheal_nvml_devices", "gpuheal_driver_pci_gpus"):
            self.own(metric, always(self.gpus))
        for metric in ("gpuheal_software_up", "gpuheal_software_expected"):
            self.own(metric, always(1), component="fabric_manager")
        self.own("gpuheal_rdma_port_state", always(4), device="mlx5_0", port="1")
        self.own("gpuheal_kmsg_lost_records_total", always(0))
        for metric in ("kube_node_status_capacity", "kube_node_status_allocatable"):
            self.ksm(metric, always(self.gpus), resource="nvidia_com_gpu", unit="integer")
        self.ksm("kube_node_status_condition", always(1), condition="Ready", status="true")
        self.ksm("kube_node_spec_unschedulable", always(0))
        for gpu in range(self.gpus):
            self._healthy_gpu(gpu)

    def _healthy_gpu(self, gpu: int) -> None:
        bus = {"pci_bus_id": f"0000:{gpu + 16:02x}:00"}
        info = {"serial": f"16{gpu}", "slot": str(gpu), "product": self.product}
        self.of_gpu("gpuheal_gpu_info", gpu, always(1), **bus, **info)
        self.of_gpu("gpuheal_gpu_present", gpu, always(1), **bus)
        for metric, value in GAUGES.items():
            self.of_gpu(metric, gpu, always(value))
        for limit, value in (("slowdown", 87), ("shutdown", 92)):
            self.of_gpu("gpuheal_gpu_temperature_limit_celsius", gpu, always(value), limit=limit)
        for spare, banks in (("max", 640), ("high", 0), ("partial", 0), ("low", 0), ("none", 0)):
            self.of_gpu("gpuheal_gpu_row_remap_banks", gpu, always(banks), spare=spare)
        self.of_gpu("gpuheal_gpu_remapped_rows_total", gpu, always(0), cause="correctable")
        counter = {"severity": "corrected", "counter": "volatile", "location": "dram"}
        self.of_gpu("gpuheal_gpu_ecc_errors_total", gpu, always(0), **counter)
        for metric, value in DCGM.items():
            self.dcgm(metric, gpu, always(value))

    def readings(self, gpu: int) -> list[Key]:
        """Return what a GPU itself tells, which ends when it is lost."""
        own = {("gpu_uuid", uuid(self.name, gpu)), ("UUID", uuid(self.name, gpu))}
        kept = {"gpuheal_gpu_info", "gpuheal_gpu_present", "gpuheal_gpu_nvlinks_expected"}
        return [key for key in self.film.series if own.intersection(key[1]) and key[0] not in kept]

    def _while_up(self, at: At) -> At:
        return lambda minute: at(minute) if minute < self.ends else None


def pages(film: Film) -> Iterator[tuple[Key, str]]:
    """Yield each series in promtool's notation."""
    for key, at in film.series.items():
        yield key, values(at, MINUTES)


def braces(key: Key) -> str:
    """Return a series as PromQL writes it."""
    metric, labels = key
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}"


def recorded_names() -> set[str]:
    """Return what the dashboards read of what rules make."""
    names: set[str] = set()
    for board in boards(OPTIONS, load_catalogue()):
        for expr in (
            *(query.expr for panel in board.panels for query in panel.queries),
            *(m.expr for m in board.marks),
        ):
            tree = pp.parse(expr.replace("$__rate_interval", "4m").replace("$__range", "2h"))
            names |= {name for selector in selectors(tree) for name in metric_names(selector)}
    return {name for name in names if name.startswith("gpuheal:") or name == "ALERTS"}


_GOT = re.compile(r'expr: "[^\n]*", time: ([\w.]+),\n\s*exp:[^\n]*\n\s*got:([^\n]*)')
_SAMPLE = re.compile(r'\{((?:\w+="(?:[^"\\]|\\.)*"(?:, )?)*)\} (\S+?)(?=, \{|$)')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def needed_rules(test: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rules that can change what these series show in the test; alerts without the texts for people."""
    rules = Rules([group_data(group) for group in build_groups(load_catalogue(), OPTIONS)])
    kept = rules.only(rules.alive(test) & rules.needed({"promql_expr_test": [{"expr": name} for name in names]}))
    for group in kept:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    return kept


def recorded(films: list[Film], folder: Path) -> Iterator[tuple[Key, int, float]]:
    """Yield the samples that the rules record of the films, minute by minute, as promtool prints them."""
    names = sorted(recorded_names())
    query = f'{{__name__=~"{"|".join(names)}"}}'
    test = {
        "interval": f"{STEP_S}s",
        "input_series": [{"series": braces(key), "values": text} for film in films for key, text in pages(film)],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{minute}m", "exp_samples": [{"labels": "nothing", "value": 1}]}
            for minute in range(MINUTES + 1)
        ],
    }
    (folder / "rules.yaml").write_text(yaml.dump({"groups": needed_rules(test, names)}, Dumper=DUMPER))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{STEP_S}s", "tests": [test]}
    (folder / "story.test.yaml").write_text(yaml.dump(document, Dumper=DUMPER, sort_keys=False, width=1 << 20))
    tool = str(ensure("promtool", Generation.DEBIAN).path)
    # It is told to expect nothing, so that it prints all that there is.
    ran = subprocess.run(
        [tool, "test", "rules", str(folder / "story.test.yaml")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    told = _GOT.findall(ran.stdout + ran.stderr)
    assert len(told) == MINUTES + 1, (ran.stdout + ran.stderr)[:2000]
    for minute, (_time, got) in enumerate(told):
        for labels, value in _SAMPLE.findall(got):
            found = dict(_LABEL.findall(labels))
            yield (found.pop("__name__"), tuple(sorted(found.items()))), minute, float(value)


def shifted(metric: str, value: float) -> float:
    """Return the value; a time of promtool's, which begins at 0, becomes one of the story."""
    return value + BEGIN if TIMES.fullmatch(metric) and value != 0 else value


def openmetrics(films: list[Film], made: Iterator[tuple[Key, int, float]]) -> Iterator[str]:
    """Yield the lines of all samples."""
    for film in films:
        for key, at in film.series.items():
            name = braces(key)
            for minute in range(MINUTES + 1):
                value = at(minute)
                if value is not None:
                    yield f"{name} {shifted(key[0], value)!r} {BEGIN + minute * STEP_S}\n"
    for key, minute, value in made:
        if not math.isnan(value) and not any(key in film.series for film in films):
            yield f"{braces(key)} {shifted(key[0], value)!r} {BEGIN + minute * STEP_S}\n"
    yield "# EOF\n"


def blocks(films: list[Film], folder: Path) -> Path:
    """Write the films and what the rules make of them as blocks; return their folder.

    Several processes may ask for the same folder: the first writes it, the others wait for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "data"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            text = folder / "story.txt"
            with text.open("w") as out:
                out.writelines(openmetrics(films, recorded(films, folder)))
            tool = str(ensure("promtool", Generation.DEBIAN).path)
            command = [tool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "done").touch()
    return made


@contextmanager
def playing(data: Path, folder: Path, generation: Generation) -> Iterator[Prometheus]:
    """Run a Prometheus of its own on a copy of the blocks."""
    server = Prometheus(
        ensure("prometheus", generation),
        folder,
        config=prometheus_config(),
        flags=["--storage.tsdb.retention.time=100y", f"--query.lookback-delta={LOOKBACK}"],
    )
    shutil.copytree(data, folder / "data")
    server.start()
    try:
        yield server
    finally:
        server.stop()
