"""What the NVML supervisor publishes: one immutable picture of all GPUs, each part with the time it was observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

NOTHING: Mapping[str, object] = MappingProxyType({})


class NvmlState(StrEnum):
    """Why NVML can be asked or not; `gpuheal_nvml_up` is 1 for OK alone."""

    STARTING = "starting"
    OK = "ok"
    LIBRARY_MISSING = "library-missing"
    DRIVER_MISSING = "driver-missing"
    VERSION_MISMATCH = "version-mismatch"
    NO_PERMISSION = "no-permission"
    STUCK = "stuck"
    FAILED = "failed"
    RELEASED = "released"
    STOPPED = "stopped"


STATE_OF_CODE: Mapping[int, NvmlState] = MappingProxyType(
    {
        4: NvmlState.NO_PERMISSION,
        9: NvmlState.DRIVER_MISSING,
        12: NvmlState.LIBRARY_MISSING,
        18: NvmlState.VERSION_MISMATCH,  # user-space library and kernel module differ: an update without a reload
    }
)
"""NVML return codes (nvml.h nvmlReturn_t) that say why NVML as a whole is unusable; others are FAILED."""


AWAY = frozenset(
    {
        NvmlState.LIBRARY_MISSING,
        NvmlState.DRIVER_MISSING,
        NvmlState.VERSION_MISMATCH,
        NvmlState.NO_PERMISSION,
        NvmlState.STOPPED,
    }
)
"""States in which nothing can be said of a GPU, not even that it is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The last answer of one probe group for one GPU. `observed_at` is unix seconds; values NVML lacks are missing."""

    observed_at: float
    values: Mapping[str, object] = field(default_factory=lambda: NOTHING)

    def number(self, key: str) -> float | None:
        """Return the value as a float, or None when missing or not a number."""
        value = self.values.get(key)
        return float(value) if isinstance(value, int | float) else None

    def text(self, key: str) -> str:
        """Return the value as text, empty when missing."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def table(self, key: str) -> Mapping[str, float]:
        """Return the value as name -> number, empty when missing."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            return {}
        return {str(name): float(each) for name, each in value.items() if isinstance(each, int | float)}

    def tables(self, key: str) -> Mapping[str, Mapping[str, float]]:
        """Return the value as name -> name -> number, empty when missing."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            return {}
        return {str(name): Reading(observed_at=0, values=value).table(name) for name in value}


@dataclass(frozen=True, slots=True, kw_only=True)
class MigInstance:
    """A MIG device; faults are told of its parent GPU."""

    uuid: str
    gpu_instance: int
    compute_instance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU NVML has shown since the exporter started. `pci` is dddd:bb:dd in lower case; empty texts are unknown.

    `present` is False once NVML called it lost or no longer lists it; its last readings are kept.
    """

    uuid: str
    pci: str
    serial: str = ""
    product: str = ""
    slot: str = ""
    minor: int | None = None
    mig: bool | None = None
    instances: tuple[MigInstance, ...] = ()
    present: bool = True
    observed_at: float = 0.0
    readings: Mapping[str, Reading] = field(default_factory=dict)

    def reading(self, group: str) -> Reading:
        """Return the group's last answer; an empty one when it never answered."""
        return self.readings.get(group) or Reading(observed_at=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcGpu:
    """A GPU as /proc/driver/nvidia/gpus names it, for nodes where NVML is unusable; `uuid` is empty when the driver
    can't read it.
    """

    pci: str
    uuid: str = ""
    product: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckProbe:
    """A probe that did not return by its deadline; `gpu_uuid` is empty when it concerns NVML as a whole."""

    group: str
    gpu_uuid: str = ""
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHealth:
    """How a probe group fares: last full round (unix seconds, 0 = none yet), its duration, and error answers by NVML
    code.
    """

    observed_at: float = 0.0
    duration_seconds: float = 0.0
    errors: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlSnapshot:
    """All that is known through NVML at one instant. While NVML is stuck or away it holds what was last known."""

    state: NvmlState = NvmlState.STARTING
    complete: bool = False
    """Every group has answered once since the exporter started, or NVML is known to be unusable."""
    enumerated: bool = False
    """Every device index said who it is or was called lost: a GPU known earlier that is not in `gpus` is lost."""
    observed_at: float = 0.0
    driver_version: str = ""
    nvml_version: str = ""
    cuda_version: str = ""
    device_count: int | None = None
    gpus: tuple[Gpu, ...] = ()
    proc_gpus: tuple[ProcGpu, ...] = ()
    stuck: tuple[StuckProbe, ...] = ()
    groups: Mapping[str, GroupHealth] = field(default_factory=dict)
    restarts: int = 0
    abandoned: int = 0
    """Children that did not end after SIGKILL (blocked in the driver)."""

    @property
    def up(self) -> bool:
        return self.state is NvmlState.OK

    @property
    def serving(self) -> bool:
        """Return whether what is known of the GPUs still means something.

        So it does while NVML answers, or is only stuck, released or between two children.
        """
        return self.state not in AWAY

    def served(self) -> tuple[Gpu, ...]:
        """Return the GPUs whose readings still mean something: not those lost, none while NVML is away."""
        return tuple(gpu for gpu in self.gpus if gpu.present) if self.serving else ()
