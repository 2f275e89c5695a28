"""One executor among the replicas: leader election by a Lease, fenced by time.

A holder believes in itself only until `renew_deadline` after the moment it *began* its last successful renewal. Others
may take the Lease no sooner than `duration` after they saw that renewal, which is later: so two replicas never both
believe, whatever their wall clocks say (all spans are measured on each one's own monotonic clock, as client-go does).
That clock goes on while the machine sleeps, and a jump of the wall clock counts as well: one that wakes up in a paused
virtual machine does not go on where it was. Whoever leads anew begins a new `term`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from gpuheal_responder.ports import Clock
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import Api, ApiError
from gpuheal_responder.shell.kube.lease import NOBODY, Lease, Leases
from gpuheal_responder.shell.process.supervisor import LongTask

log = logging.getLogger(__name__)
RELEASED = timedelta(seconds=1)


def rights(namespace: str, name: str) -> tuple[Right, ...]:
    """Return the rights to take part in an election by this Lease."""
    group, leases = "coordination.k8s.io", ("leases",)
    return (
        Right(group=group, resources=leases, verbs=("create",), why="One executor among us.", namespace=namespace),
        Right(
            group=group,
            resources=leases,
            verbs=("get", "update"),
            why="Its Lease, no other.",
            namespace=namespace,
            names=(name,),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionSettings:
    """The three spans of an election; the defaults are those of Kubernetes' own components."""

    duration: timedelta = timedelta(seconds=15)
    """How long others wait after the last renewal they saw."""
    renew_deadline: timedelta = timedelta(seconds=10)
    """How long we believe in ourselves after a renewal; shorter than `duration`."""
    retry: timedelta = timedelta(seconds=2)
    """Time between two tries to renew or to take the Lease."""

    def __post_init__(self) -> None:
        if not timedelta(0) < self.retry < self.renew_deadline < self.duration:
            raise ValueError("retry < renew_deadline < duration must hold")


def awake() -> float:
    """Return a clock in seconds that no one sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Election:
    """Takes part in an election from `start` to `stop`; `is_leader` is the only answer that counts."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        *,
        namespace: str,
        name: str,
        identity: str,
        settings: ElectionSettings | None = None,
        monotonic: Callable[[], float] = awake,
        changed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._settings = settings or ElectionSettings()
        self._leases = Leases(api, namespace, deadline=self._settings.renew_deadline / 2)
        self._clock = clock
        self._name = name
        self._identity = identity
        self._monotonic = monotonic
        self._changed = changed
        self._valid_until = float("-inf")
        self._valid_until_wall = datetime.min.replace(tzinfo=UTC)
        self._seen: tuple[str, float] = ("", float("-inf"))
        self._announced = False
        self._task = LongTask(self._run, f"election {name}")
        self.holder = ""
        """Who held the Lease when it was last read or written."""
        self.term = 0
        """Counts how often we came to lead, without a gap in between."""

    @property
    def is_leader(self) -> bool:
        """True while nobody else can have the Lease.

        Both clocks must agree: the monotonic one stands still while a virtual machine is suspended, the wall's may be
        set back.
        """
        return self._monotonic() < self._valid_until and self._clock.now() < self._valid_until_wall

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to take part; return the task that does."""
        return self._task.start()

    async def stop(self) -> None:
        """Stop believing at once, and give the Lease back so that another need not wait; repeatable."""
        await self._task.stop()
        led, self._valid_until = self.holder == self._identity, float("-inf")
        self._announce()
        if led:
            with contextlib.suppress(ApiError):
                await self._release()
        self.holder = ""

    async def _run(self) -> None:
        while True:
            try:
                await self.campaign()
            except ApiError as problem:
                log.warning("Lease %s: %s", self._name, problem)
            self._announce()
            jitter = random.uniform(0.9, 1.1)  # noqa: S311  # replicas should not try in step
            await asyncio.sleep(self._settings.retry.total_seconds() * jitter)
            self._announce()

    async def campaign(self) -> None:
        """Try once to renew or take the Lease; ApiError when the API server cannot be asked or another won."""
        began, began_at = self._monotonic(), self._clock.now()
        led, term = self.is_leader, self.term
        lease = await self._leases.read(self._name) or Lease()
        if lease.version != self._seen[0]:
            self._seen = (lease.version, self._monotonic())
        self.holder = lease.holder
        ours = lease.holder == self._identity
        if not (ours or lease.holder == NOBODY or self._expired(lease)):
            self._valid_until = float("-inf")
            return
        now = self._clock.now()
        wanted = Lease(
            holder=self._identity,
            span=self._settings.duration,
            renewed_at=now,
            acquired_at=lease.acquired_at if ours else now,
            transitions=lease.transitions + (0 if ours else 1),
            version=lease.version,
        )
        written = await self._leases.write(self._name, wanted)
        self._seen = (written.version, self._monotonic())
        self.holder = self._identity
        self._valid_until = began + self._settings.renew_deadline.total_seconds()
        self._valid_until_wall = began_at + self._settings.renew_deadline
        if not (led and ours and term == self.term):
            self.term += 1
            self._announced = False  # whoever has to catch up hears of it, even if we never said that we had stopped

    def _expired(self, lease: Lease) -> bool:
        """Return whether the Lease has stood unchanged before our eyes for longer than it was taken for."""
        span = max(lease.span, self._settings.duration)
        return self._monotonic() - self._seen[1] > span.total_seconds()

    async def _release(self) -> None:
        lease = await self._leases.read(self._name)
        if lease is not None and lease.holder == self._identity:
            await self._leases.write(self._name, replace(lease, holder=NOBODY, span=RELEASED))

    def _announce(self) -> None:
        if self.is_leader != self._announced:
            self._announced = not self._announced
            log.info("%s the leader (Lease %s)", "now" if self._announced else "no longer", self._name)
            self._changed(self._announced)
