"""What the supervisor has learned so far, as one mutable record that turns into a snapshot. Touched by the
supervisor's thread alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpuheal_exporters.nvml.schedule import IDENTITY
from gpuheal_exporters.nvml.snapshot import (
    Gpu,
    GroupHealth,
    MigInstance,
    NvmlSnapshot,
    NvmlState,
    ProcGpu,
    Reading,
    StuckProbe,
)

MAX_GPUS = 64
LOAD_PERCENT = 10


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


def _whole(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) else None


def _instances(raw: object) -> tuple[MigInstance, ...]:
    found = [each for each in raw if isinstance(each, dict)] if isinstance(raw, list) else []
    return tuple(
        MigInstance(
            uuid=_text(each, "uuid"),
            gpu_instance=_whole(each, "gi") or 0,
            compute_instance=_whole(each, "ci") or 0,
        )
        for each in found
    )


def under_load(values: Mapping[str, Any], before: Reading) -> Mapping[str, Any]:
    """Return the PCIe answer with `generation_under_load`: its own when the GPU works, else the one before.

    An idle GPU lowers its link generation to save power, so only a working one shows what the link can do.
    """
    utilization = _whole(values, "utilization")
    if utilization is not None and utilization >= LOAD_PERCENT:
        return {**values, "generation_under_load": values.get("generation")}
    return {**values, "generation_under_load": before.values.get("generation_under_load")}


@dataclass(slots=True)
class NvmlLearned:
    """The world as NVML told it; survives the child."""

    state: NvmlState = NvmlState.STARTING
    driver: str = ""
    nvml: str = ""
    cuda: str = ""
    count: int | None = None
    gpus: dict[str, Gpu] = field(default_factory=dict)
    """By UUID, all that were seen since the exporter started."""
    uuid_at: dict[int, str] = field(default_factory=dict)
    """Index in the running (or last) child -> UUID."""
    lost: set[int] = field(default_factory=set)
    """Indexes the running child called lost: not asked again by this child."""
    identified: set[int] = field(default_factory=set)
    """Indexes the running child has identified."""
    proc_gpus: tuple[ProcGpu, ...] = ()
    stuck: dict[tuple[str, int], StuckProbe] = field(default_factory=dict)
    """(group, index) -> since when; index -1 for probes of NVML as a whole."""
    groups: dict[str, GroupHealth] = field(default_factory=dict)
    restarts: int = 0

    def started(self, answer: Mapping[str, Any]) -> None:
        """Let a new child speak for the driver: versions and count are its, nothing is lost yet."""
        self.driver = _text(answer, "driver")
        self.nvml = _text(answer, "nvml")
        cuda = _whole(answer, "cuda")
        self.cuda = "" if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"  # nvml.h: 1000 * major + 10 * minor
        count = min(_whole(answer, "count") or 0, MAX_GPUS)
        if count != self.count:
            self.uuid_at.clear()
        self.count = count
        self.lost.clear()
        self.identified.clear()

    def proc(self, answer: Mapping[str, Any]) -> None:
        """Take the kernel module's own list."""
        raw = answer.get("gpus")
        gpus = [each for each in raw if isinstance(each, dict)] if isinstance(raw, list) else []
        self.proc_gpus = tuple(
            ProcGpu(pci=_text(each, "pci"), uuid=_text(each, "uuid"), product=_text(each, "product")) for each in gpus
        )

    def answered(self, group: str, index: int, values: Mapping[str, Any], at: float) -> None:
        """Take the values that a probe of one GPU returned."""
        self.stuck.pop((group, index), None)
        if group == IDENTITY:
            self._identified(index, values, at)
            return
        gpu = self.gpus.get(self.uuid_at.get(index, ""))
        if gpu is not None:
            if group == "pcie":
                values = under_load(values, gpu.reading(group))
            reading = Reading(observed_at=at, values=values)
            self.gpus[gpu.uuid] = replace(gpu, present=True, observed_at=at, readings={**gpu.readings, group: reading})

    def _identified(self, index: int, values: Mapping[str, Any], at: float) -> None:
        uuid = _text(values, "uuid")
        if not uuid or (uuid not in self.gpus and len(self.gpus) >= 2 * MAX_GPUS):
            return
        known = self.gpus.get(uuid)
        mig = _whole(values, "mig")
        self.uuid_at[index] = uuid
        self.identified.add(index)
        self.gpus[uuid] = Gpu(
            uuid=uuid,
            pci=_text(values, "pci"),
            serial=_text(values, "serial"),
            product=_text(values, "product"),
            slot=_text(values, "slot"),
            minor=_whole(values, "minor"),
            mig=None if mig is None else bool(mig),
            instances=_instances(values.get("instances")),
            present=True,
            observed_at=at,
            readings=dict(known.readings) if known else {},
        )

    def gone(self, index: int) -> None:
        """Note that NVML called the GPU at this index lost."""
        self.lost.add(index)
        gpu = self.gpus.get(self.uuid_at.get(index, ""))
        if gpu is not None:
            self.gpus[gpu.uuid] = replace(gpu, present=False)

    @property
    def enumerated(self) -> bool:
        """Return whether each index said who it is or was called lost.

        While one is stuck or refuses, nobody can be called missing.
        """
        return self.count is not None and self.identified | self.lost == set(range(self.count))

    def miss(self) -> None:
        """Call a GPU lost that was known before and is at no index, once all indexes are accounted for."""
        if not self.enumerated:
            return
        listed = {self.uuid_at[index] for index in self.identified}
        for uuid, gpu in self.gpus.items():
            if uuid not in listed and gpu.present:
                self.gpus[uuid] = replace(gpu, present=False)

    def stall(self, group: str, index: int, at: float) -> None:
        """Note that the probe did not return by its deadline."""
        self.stuck.setdefault((group, index), StuckProbe(group=group, gpu_uuid=self.uuid_at.get(index, ""), since=at))

    def unstall(self, index: int) -> None:
        """Forget what was stuck at this index (-1: NVML as a whole)."""
        for key in [key for key in self.stuck if key[1] == index]:
            del self.stuck[key]

    def count_errors(self, group: str, errors: Mapping[str, Any]) -> None:
        """Add the error answers of a probe to the group's."""
        health = self.groups.get(group, GroupHealth())
        total = dict(health.errors)
        for code, number in errors.items():
            total[int(code)] = total.get(int(code), 0) + int(number)
        self.groups[group] = replace(health, errors=total)

    def round_done(self, group: str, at: float, seconds: float) -> None:
        """Note that the group has been asked for every GPU that can be asked."""
        self.groups[group] = replace(self.groups.get(group, GroupHealth()), observed_at=at, duration_seconds=seconds)

    def snapshot(self, *, complete: bool, abandoned: int, at: float) -> NvmlSnapshot:
        """Return the picture as of now; GPUs ordered by address."""
        return NvmlSnapshot(
            state=self.state,
            complete=complete,
            enumerated=self.enumerated,
            observed_at=at,
            driver_version=self.driver,
            nvml_version=self.nvml,
            cuda_version=self.cuda,
            device_count=self.count,
            gpus=tuple(sorted(self.gpus.values(), key=lambda gpu: (gpu.pci, gpu.uuid))),
            proc_gpus=self.proc_gpus,
            stuck=tuple(self.stuck[key] for key in sorted(self.stuck)),
            groups=dict(self.groups),
            restarts=self.restarts,
            abandoned=abandoned,
        )
