"""The metal below the nodes: it boots, its GPUs break, its kernel writes lines, and a reboot cures what it cures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from gpuheal_lab.fleet.clock import Schedule
from gpuheal_lab.fleet.spec import Gpu, NodeSpec

MOST_LINES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long things take in the simulated world; the defaults are short, their order is the real one."""

    shutdown: timedelta = timedelta(seconds=1)
    boot: timedelta = timedelta(seconds=4)
    kubelet_ready: timedelta = timedelta(seconds=1)
    gpus_ready: timedelta = timedelta(seconds=1)
    not_ready_after: timedelta = timedelta(seconds=1)
    device_plugin: timedelta = timedelta(milliseconds=500)
    controllers: timedelta = timedelta(milliseconds=100)
    pod_grace: timedelta = timedelta(seconds=1)
    pod_start: timedelta = timedelta(seconds=1)

    def scaled(self, speed: float) -> Timings:
        """The same with everything `speed` times as fast."""
        return Timings(**{f.name: getattr(self, f.name) / speed for f in fields(self)})


class Power(StrEnum):
    """What a machine is doing."""

    UP = "up"
    STOPPING = "stopping"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFault:
    """A fault on one GPU.

    `kernel_lines` are what the driver logs, `{pci}` standing for the address; `lost` takes the GPU from NVML and DCGM;
    `cured_by` names the repairs that end it; after a cure that does not last it comes back `relapse_after` later.
    """

    slug: str
    kernel_lines: tuple[str, ...]
    xid: int | None = None
    lost: bool = False
    unhealthy: bool = True
    cured_by: frozenset[str] = frozenset({"reboot"})
    relapse_after: timedelta | None = None


def fell_off_bus(
    *, cured_by: frozenset[str] = frozenset({"reboot"}), relapse_after: timedelta | None = None
) -> GpuFault:
    """Xid 79: the GPU is gone from the bus (line as in NVIDIA's open kernel module, nvidia/os-interface and rm)."""
    return GpuFault(
        slug="gpu-fell-off-bus",
        kernel_lines=("NVRM: Xid (PCI:{pci}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",),
        xid=79,
        lost=True,
        cured_by=cured_by,
        relapse_after=relapse_after,
    )


FAULTS: dict[str, Callable[..., GpuFault]] = {"gpu-fell-off-bus": fell_off_bus}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLine:
    """One line of the kernel log; `facility` 0 is the kernel itself, 1 a process that wrote to /dev/kmsg."""

    sequence: int
    at: datetime
    since_boot: timedelta
    text: str
    facility: int = 0
    level: int = 3


@dataclass(slots=True)
class GpuState:
    """How one GPU is: what ails it, and the last Xid as DCGM remembers it."""

    faults: dict[str, GpuFault] = field(default_factory=dict)
    last_xid: int = 0

    @property
    def lost(self) -> bool:
        """True when the GPU no longer answers."""
        return any(f.lost for f in self.faults.values())

    @property
    def unhealthy(self) -> bool:
        """True when the device plugin would not hand the GPU out."""
        return any(f.unhealthy for f in self.faults.values())


class Watcher:
    """Who wants to know what happens to a machine; every method may be left as it is."""

    def gpus_changed(self, machine: Machine, /) -> None:
        """A GPU broke or was cured."""

    def line(self, machine: Machine, line: KernelLine, /) -> None:
        """The kernel logged a line."""

    def went_down(self, machine: Machine, /) -> None:
        """The machine stopped."""

    def came_up(self, machine: Machine, /) -> None:
        """The machine runs a new kernel."""


class Machine:
    """One machine, with its GPUs and its kernel log since boot."""

    def __init__(self, spec: NodeSpec, schedule: Schedule, timings: Timings) -> None:
        self.spec = spec
        self.power = Power.UP
        self.boots = 1
        self.booted_at = schedule.now() - timedelta(days=3)
        self.gpus_ready = True
        self.hang_at_boot = False
        self.watchers: list[Watcher] = []
        self.lines: list[KernelLine] = []
        self.states = {gpu.uuid: GpuState() for gpu in spec.gpus}
        self._schedule = schedule
        self._timings = timings
        self._sequence = 0
        self._relapses: list[tuple[Gpu, GpuFault]] = []

    @property
    def boot_id(self) -> str:
        """The kernel's random boot id, here derived from the seed."""
        return self.spec.boot_id(self.boots)

    def log(self, text: str, *, facility: int = 0, level: int = 3) -> KernelLine | None:
        """The line is in the kernel log; None when the machine is down and nobody could write it."""
        if self.power is Power.DOWN:
            return None
        at = self._schedule.now()
        self._sequence += 1
        line = KernelLine(
            sequence=self._sequence,
            at=at,
            since_boot=at - self.booted_at,
            text=text,
            facility=facility,
            level=level,
        )
        self.lines = [*self.lines[-MOST_LINES + 1 :], line]
        for watcher in self.watchers:
            watcher.line(self, line)
        return line

    def break_gpu(self, gpu: Gpu, fault: GpuFault) -> None:
        """The GPU has the fault, and the kernel has said so. Nothing happens while the machine is down."""
        if self.power is Power.DOWN:
            return
        state = self.states[gpu.uuid]
        state.faults[fault.slug] = fault
        if fault.xid is not None:
            state.last_xid = fault.xid
        for text in fault.kernel_lines:
            self.log(text.format(pci=gpu.kernel_address))
        for watcher in self.watchers:
            watcher.gpus_changed(self)

    def cure(self, repair: str) -> None:
        """Every fault that this repair cures is gone; a passing cure comes back after the next boot."""
        for gpu in self.spec.gpus:
            state = self.states[gpu.uuid]
            for fault in [f for f in state.faults.values() if repair in f.cured_by]:
                del state.faults[fault.slug]
                if fault.relapse_after is not None:
                    self._relapses.append((gpu, fault))
        for watcher in self.watchers:
            watcher.gpus_changed(self)

    def reboot(self) -> None:
        """The machine is going down and will come up with a new boot id. Nothing more happens if it is on its way."""
        if self.power is not Power.UP:
            return
        self.power = Power.STOPPING
        self._schedule.after(self._timings.shutdown, lambda: self._down(then_boot=not self.hang_at_boot))

    def cut_power(self) -> None:
        """The machine is down at once and stays so until `switch_on`."""
        self._down(then_boot=False)

    def switch_on(self) -> None:
        """The machine boots if it was down."""
        if self.power is Power.DOWN:
            self._schedule.after(self._timings.boot, self._up)

    def _down(self, *, then_boot: bool) -> None:
        if self.power is Power.DOWN:
            return
        self.power = Power.DOWN
        self.gpus_ready = False
        for watcher in self.watchers:
            watcher.went_down(self)
        if then_boot:
            self.switch_on()

    def _up(self) -> None:
        if self.power is not Power.DOWN:
            return
        self.boots += 1
        self.booted_at = self._schedule.now()
        self.lines = []
        self.power = Power.UP
        for state in self.states.values():
            state.last_xid = 0
        self.cure("reboot")
        for watcher in self.watchers:
            watcher.came_up(self)
        for gpu, state in zip(self.spec.gpus, self.states.values(), strict=True):
            for fault in list(state.faults.values()):
                self.break_gpu(gpu, fault)
        boots = self.boots
        self._schedule.after(self._timings.kubelet_ready + self._timings.gpus_ready, partial(self._gpus_up, boots))
        relapses, self._relapses = self._relapses, []
        for gpu, fault in relapses:
            delay = fault.relapse_after or timedelta(0)
            self._schedule.after(delay, partial(self.break_gpu, gpu, fault))

    def _gpus_up(self, boots: int) -> None:
        if self.power is Power.UP and self.boots == boots:
            self.gpus_ready = True
            for watcher in self.watchers:
                watcher.gpus_changed(self)
