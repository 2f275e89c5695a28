"""When each probe group is asked again, how long it may take, and how long a failing child is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

START = "start"
IDENTITY = "identity"
GROUPS = (IDENTITY, "recovery", "memory", "nvlink", "fabric", "pcie", "thermal")
PROBES = (START, "count", *GROUPS)
"""Every value of the label `group`."""

INTERVALS: Mapping[str, float] = MappingProxyType(
    {
        "count": 30.0,
        IDENTITY: 300.0,
        "recovery": 5.0,  # the driver's own verdict and the loss of a GPU: what must be seen first
        "memory": 15.0,
        "nvlink": 30.0,
        "fabric": 15.0,
        "pcie": 15.0,
        "thermal": 15.0,
    }
)
"""Seconds between rounds. Xids come by the kernel log, so a slow poll is enough, and each call may wait for a lock of
another client.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlSettings:
    """Times of the NVML half, in seconds."""

    intervals: Mapping[str, float] = field(default_factory=lambda: INTERVALS)
    deadline: float = 5.0
    """A probe that takes longer is stuck."""
    start_deadline: float = 30.0
    """The same for nvmlInit and the first handle of a GPU, which initialise the GPU when persistence mode is off."""
    patience: float = 30.0
    """How long a stuck child may still return before it is killed; killing beside a GSP fault can freeze the GPU."""
    kill_wait: float = 2.0
    """How long a killed child may take to go before it counts as abandoned (blocked in the driver)."""
    max_abandoned: int = 2
    """With so many abandoned children no further one is started until one of them is gone."""
    lost_recheck: float = 3600.0
    """While a GPU is lost, a new child looks for it this often without being told to (`recheck` does it at once)."""
    retry: float = 1.0
    """First pause after a failed start; doubles each time."""
    retry_max: float = 60.0
    quarantine: float = 60.0
    """First pause of a GPU whose probe had to be killed; doubles each time."""
    quarantine_max: float = 3600.0

    def deadline_of(self, group: str) -> float:
        return self.start_deadline if group in (START, IDENTITY) else self.deadline


@dataclass(slots=True)
class Backoff:
    """Pauses that double from `first` to `limit` until `reset`."""

    first: float
    limit: float
    failures: int = 0

    def next(self) -> float:
        """Return the pause after one more failure."""
        pause = min(self.first * 2.0 ** min(self.failures, 30), self.limit)
        self.failures += 1
        return pause

    def reset(self) -> None:
        self.failures = 0
