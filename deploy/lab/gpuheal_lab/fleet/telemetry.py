"""What Prometheus finds on the simulated nodes: the texts of dcgm-exporter, our exporter and kube-state-metrics.

Our exporter's half is the real thing: kernel lines are parsed, latched and rendered by `gpuheal_exporters`. Texts are
kept until something changes, so that a thousand nodes can be scraped every second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.inventory import InventoryCollector
from gpuheal_exporters.collectors.kernel import KernelCollector
from gpuheal_exporters.collectors.registry import family, single
from gpuheal_exporters.host.identity import GpuIdentity, StaticInventory, normalise_pci
from gpuheal_exporters.kernel.kmsg import KernelRecord
from gpuheal_exporters.metrics.exposition import render
from gpuheal_exporters.node.state import NodeExporterState
from gpuheal_lab.fleet.clock import Schedule
from gpuheal_lab.fleet.machine import GpuState, KernelLine, Machine, Power, Watcher
from gpuheal_lab.fleet.objects import GPU_RESOURCE, Json
from gpuheal_lab.fleet.spec import Gpu

DRIVER = "570.124.06"
REFRESH = timedelta(seconds=10)
HEARTBEAT = "gpuheal_exporter_heartbeat_timestamp_seconds"
ERR_MSG = {0: "No Error", 79: "GPU has fallen off the bus"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One dcgm-exporter field: its value is `base`, up to `spread` more depending on the GPU, and `rate` per second."""

    name: str
    kind: str
    help: str
    base: float
    spread: int = 0
    rate: float = 0.0


# Fields of dcgm-exporter's default-counters.csv that matter to health rules, and those a custom CSV should add.
FIELDS = (
    Field(name="DCGM_FI_DEV_SM_CLOCK", kind="gauge", help="SM clock frequency (in MHz).", base=1755, spread=40),
    Field(name="DCGM_FI_DEV_MEM_CLOCK", kind="gauge", help="Memory clock frequency (in MHz).", base=2619),
    Field(name="DCGM_FI_DEV_GPU_TEMP", kind="gauge", help="GPU temperature (in C).", base=46, spread=14),
    Field(name="DCGM_FI_DEV_MEMORY_TEMP", kind="gauge", help="Memory temperature (in C).", base=58, spread=12),
    Field(name="DCGM_FI_DEV_POWER_USAGE", kind="gauge", help="Power draw (in W).", base=420, spread=160),
    Field(
        name="DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        kind="counter",
        help="Total energy consumption since boot (in mJ).",
        base=0,
        rate=500_000,
    ),
    Field(name="DCGM_FI_DEV_PCIE_REPLAY_COUNTER", kind="counter", help="Total number of PCIe retries.", base=0),
    Field(name="DCGM_FI_DEV_GPU_UTIL", kind="gauge", help="GPU utilization (in %).", base=88, spread=12),
    Field(name="DCGM_FI_DEV_FB_FREE", kind="gauge", help="Framebuffer memory free (in MiB).", base=9000, spread=900),
    Field(name="DCGM_FI_DEV_FB_USED", kind="gauge", help="Framebuffer memory used (in MiB).", base=71000, spread=900),
    Field(name="DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", kind="counter", help="Single-bit volatile ECC errors.", base=0),
    Field(name="DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", kind="counter", help="Double-bit volatile ECC errors.", base=0),
    Field(
        name="DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        kind="counter",
        help="Number of remapped rows for uncorrectable errors",
        base=0,
    ),
    Field(
        name="DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        kind="counter",
        help="Number of remapped rows for correctable errors",
        base=0,
        spread=2,
    ),
    Field(name="DCGM_FI_DEV_ROW_REMAP_FAILURE", kind="gauge", help="Whether remapping of rows has failed", base=0),
    Field(name="DCGM_FI_DEV_ROW_REMAP_PENDING", kind="gauge", help="Whether remapping of rows is pending", base=0),
)
XID = "DCGM_FI_DEV_XID_ERRORS"


class _NvmlCollector(Collector):
    """Presence of the GPUs and the driver's verdict, as the exporter's NVML half tells them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def collect(self) -> Iterable[Metric]:
        """The families as of now."""
        machine = self._machine
        present, action = family("gpuheal_gpu_present"), family("gpuheal_gpu_recovery_action")
        yield single("gpuheal_kmsg_up", 1.0)
        yield single("gpuheal_nvml_up", float(machine.gpus_ready))
        if not machine.gpus_ready:
            return
        for gpu in machine.spec.gpus:
            lost = machine.states[gpu.uuid].lost
            present.add_metric((gpu.uuid, gpu.kernel_address), float(not lost))
            if not lost:
                action.add_metric((gpu.uuid,), 0.0)
        yield present
        yield action


class NodeTelemetry(Watcher):
    """Both exporters of one node; they are away while the machine is down, DCGM's also until the driver is up."""

    def __init__(self, machine: Machine, schedule: Schedule) -> None:
        self.machine = machine
        self._schedule = schedule
        self.state = NodeExporterState(
            inventory=StaticInventory(_identity(gpu) for gpu in machine.spec.gpus),
            boot_id=machine.boot_id,
            boot_time=machine.booted_at.timestamp(),
            clock=lambda: schedule.now().timestamp(),
            driver_version=DRIVER,
        )
        self._collectors = (KernelCollector(self.state), InventoryCollector(self.state), _NvmlCollector(machine))
        self._exporter: tuple[int, bytes] | None = None
        self._dcgm: tuple[datetime, bytes] | None = None
        machine.watchers.append(self)

    def line(self, _machine: Machine, line: KernelLine, /) -> None:
        """The exporter has read the line."""
        record = KernelRecord(
            text=line.text,
            prio=line.facility << 3 | line.level,
            seq=line.sequence,
            usec=int(line.since_boot / timedelta(microseconds=1)),
        )
        self.state.feed(record, at=line.at.timestamp())
        self._exporter = None

    def gpus_changed(self, _machine: Machine, /) -> None:
        """The next scrape shows it."""
        self._exporter = self._dcgm = None

    def went_down(self, _machine: Machine, /) -> None:
        """Nothing of the old boot is served again."""
        self._exporter = self._dcgm = None

    def came_up(self, machine: Machine, /) -> None:
        """The exporter runs in the new boot."""
        self.state.reboot(machine.boot_id, machine.booted_at.timestamp())
        self._exporter = self._dcgm = None

    def exporter_text(self) -> bytes | None:
        """What our exporter answers now, or None while there is nobody to answer."""
        self._schedule.catch_up()
        if self.machine.power is Power.DOWN:
            return None
        if self._exporter is None or self._exporter[0] != self.state.changes:
            changes = self.state.changes
            self._exporter = (changes, render(*self._collectors))
        beat = self._schedule.now().timestamp()
        return self._exporter[1] + f"# TYPE {HEARTBEAT} gauge\n{HEARTBEAT} {beat:.3f}\n".encode()

    def dcgm_text(self) -> bytes | None:
        """What dcgm-exporter answers now, or None while there is nobody to answer."""
        self._schedule.catch_up()
        now = self._schedule.now()
        if self.machine.power is Power.DOWN or not self.machine.gpus_ready:
            return None
        if self._dcgm is None or now - self._dcgm[0] >= REFRESH:
            self._dcgm = (now, "".join(_dcgm_lines(self.machine, now)).encode())
        return self._dcgm[1]


class Telemetry:
    """All nodes' exporters and one kube-state-metrics."""

    def __init__(self, machines: Mapping[str, Machine], schedule: Schedule, nodes: Mapping[str, Json]) -> None:
        self.nodes = {name: NodeTelemetry(machine, schedule) for name, machine in machines.items()}
        self._schedule = schedule
        self.objects = nodes

    def kube_state_metrics(self) -> bytes:
        """Capacity, allocatable, conditions, cordons and taints of all nodes, as kube-state-metrics names them."""
        self._schedule.catch_up()
        return "".join(_kube_lines(self.objects.values())).encode()


def _identity(gpu: Gpu) -> GpuIdentity:
    return GpuIdentity(
        gpu_uuid=gpu.uuid,
        pci_bus_id=normalise_pci(gpu.pci_bus_id),
        serial=gpu.serial,
        slot=gpu.slot,
        product=gpu.product,
    )


def _dcgm_lines(machine: Machine, now: datetime) -> Iterator[str]:
    """A lost GPU's fields are blank and so have no series; the last Xid stays (DCGM serves it from its cache)."""
    host = machine.spec.name
    uptime = (now - machine.booted_at).total_seconds()
    gpus = [(gpu, machine.states[gpu.uuid], _labels(gpu, host)) for gpu in machine.spec.gpus]
    for field in FIELDS:
        yield f"# HELP {field.name} {field.help}\n# TYPE {field.name} {field.kind}\n"
        for gpu, state, labels in gpus:
            if not state.lost:
                yield f"{field.name}{{{labels}}} {_value(field, gpu, uptime)}\n"
    yield f"# HELP {XID} Value of the last XID error encountered.\n# TYPE {XID} gauge\n"
    for _gpu, state, labels in gpus:
        yield _xid_line(state, labels)


def _labels(gpu: Gpu, host: str) -> str:
    return (
        f'gpu="{gpu.index}",UUID="{gpu.uuid}",pci_bus_id="{gpu.dcgm_address}",device="nvidia{gpu.index}",'
        f'modelName="{gpu.product}",Hostname="{host}",DCGM_FI_DRIVER_VERSION="{DRIVER}"'
    )


def _xid_line(state: GpuState, labels: str) -> str:
    code = state.last_xid
    text = ERR_MSG.get(code, "Unknown Error")
    return f'{XID}{{{labels},err_code="{code}",err_msg="{text}"}} {code}\n'


def _value(field: Field, gpu: Gpu, uptime: float) -> str:
    extra = 0
    if field.spread:
        extra = hashlib.blake2b(f"{gpu.uuid}/{field.name}".encode(), digest_size=2).digest()[0] % (field.spread + 1)
    return f"{field.base + extra + field.rate * uptime:.6f}"


_KUBE = (
    ("kube_node_info", "Information about a cluster node."),
    ("kube_node_status_capacity", "The total amount of resources available for a node."),
    ("kube_node_status_allocatable", "The allocatable for different resources of a node."),
    ("kube_node_status_condition", "The condition of a cluster node."),
    ("kube_node_spec_unschedulable", "Whether a node can schedule new pods."),
    ("kube_node_spec_taint", "The taint of a cluster node."),
)


def _kube_lines(nodes: Iterable[Json]) -> Iterator[str]:
    found: dict[str, list[str]] = {name: [] for name, _ in _KUBE}
    for node in nodes:
        name, status, spec = node["metadata"]["name"], node["status"], node["spec"]
        boot, kubelet = status["nodeInfo"]["bootID"], status["nodeInfo"]["kubeletVersion"]
        info = f'node="{name}",boot_id="{boot}",kubelet_version="{kubelet}",provider_id="{spec["providerID"]}"'
        found["kube_node_info"].append(f"{{{info}}} 1")
        for key in ("capacity", "allocatable"):
            labels = f'node="{name}",resource="{GPU_RESOURCE.translate(_PROMETHEUS)}",unit="integer"'
            found[f"kube_node_status_{key}"].append(f"{{{labels}}} {status[key][GPU_RESOURCE]}")
        for condition in status["conditions"]:
            for value in ("true", "false", "unknown"):
                labels = f'node="{name}",condition="{condition["type"]}",status="{value}"'
                found["kube_node_status_condition"].append(f"{{{labels}}} {int(condition['status'].lower() == value)}")
        found["kube_node_spec_unschedulable"].append(f'{{node="{name}"}} {int(bool(spec.get("unschedulable")))}')
        for taint in spec.get("taints", ()):
            labels = f'node="{name}",key="{taint["key"]}",value="{taint.get("value", "")}",effect="{taint["effect"]}"'
            found["kube_node_spec_taint"].append(f"{{{labels}}} 1")
    for name, text in _KUBE:
        yield f"# HELP {name} {text}\n# TYPE {name} gauge\n"
        for sample in found[name]:
            yield f"{name}{sample}\n"


_PROMETHEUS = str.maketrans({".": "_", "/": "_", "-": "_"})
