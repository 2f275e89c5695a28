"""What Prometheus knows of a node: who saw a fault, who knows a GPU, and how each GPU was lately."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class WitnessClass(StrEnum):
    """Kinds of observers that fail independently of each other."""

    KERNEL = "kernel"
    NVML = "nvml"
    DCGM = "dcgm"
    KUBERNETES = "kubernetes"
    DRIVER = "driver"


class Strength(StrEnum):
    """Whether a sighting is a symptom that could have another cause (weak), or says the fault itself (strong)."""

    STRONG = "strong"
    WEAK = "weak"


class Confidence(StrEnum):
    """How sure the witnesses make us; ordered by `rank`."""

    NONE = "none"
    SUSPECT = "suspect"
    PROBABLE = "probable"
    CONFIRMED = "confirmed"

    @property
    def rank(self) -> int:
        """Position from 0 (none) to 3 (confirmed)."""
        return list(Confidence).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """One witness class that sees a fault.

    `last_seen_at` is when it was last positively seen (for a kernel event: the event's time), `sample_age` the age of
    the sample itself by Prometheus' own clock. `strength` is what the rules say of it; None where the rules are older
    than that label.
    """

    fault: str
    gpu_uuid: str | None
    witness_class: WitnessClass
    last_seen_at: datetime
    sample_age: timedelta = timedelta(0)
    strength: Strength | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A source (`exporter`, `dcgm`) that knows this GPU to sit in this node.

    `slot` is its place there (the PCI bus id, which stays when the GPU is exchanged), `serial` the board's; both empty
    when the source does not tell. `gone` says that the source shows it no more: it still tells where the GPU was, as it
    must of one that fell off the bus.
    """

    gpu_uuid: str
    source: str
    serial: str = ""
    slot: str = ""
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSample:
    """State of one GPU at one rule evaluation: 0 ok, 1 degraded, 2 suspect, 3 faulty, 4 lost, 5 unknown."""

    at: datetime
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHealth:
    """The recent states of one GPU, oldest first."""

    gpu_uuid: str
    samples: tuple[HealthSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What Prometheus knows of one node; `at` is Prometheus' own clock."""

    at: datetime
    booted_at: datetime | None = None
    witnesses: tuple[Witness, ...] = ()
    identities: tuple[Identity, ...] = ()
    health: tuple[GpuHealth, ...] = ()
