"""The state of one node as its kernel log tells it: plain objects, no globals, no I/O.

`feed` takes records in (see intake), collectors take metrics out (see collector).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpuheal_exporters.kernel.kmsg import KernelRecord, parse_line
from gpuheal_exporters.kernel.message import Message
from gpuheal_exporters.node import handlers as intake
from gpuheal_exporters.node.events import EventRing
from gpuheal_exporters.node.identity import Inventory
from gpuheal_exporters.node.latch import FaultKey, LatchStore, LinkKey, SxidKey, XidKey

SCHEMA = 1
CLEAR_REASONS = ("reboot", "recovered", "reset", "acknowledged")
MAX_LEARNED = 64


class Attribution(Protocol):
    """Tells whose work an event hit; what it returns is text for people, never a label."""

    def __call__(self, *, pid: int | None, gpu_uuid: str, pci_bus_id: str) -> Mapping[str, str]:
        """Pod, namespace, container … of the process or GPU; empty if not known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of everything that events can make grow."""

    xids: int = 1024
    links: int = 1024
    sxids: int = 1024
    faults: int = 512
    events: int = 512


@dataclass(slots=True, kw_only=True)
class Counts:
    """What `feed` and the clearing calls did since the start of the process."""

    foreign: int = 0
    orphans: int = 0
    cleared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLEAR_REASONS, 0))


class NodeExporterState:
    """Everything the kernel log said since the boot. Thread-safe; times are unix seconds, given or from `clock`.

    `upstream` maps the address of a PCIe port to the one GPU below it, so that a port's errors find their GPU.
    """

    def __init__(
        self,
        *,
        inventory: Inventory,
        boot_id: str,
        clock: Callable[[], float],
        boot_time: float = 0.0,
        driver_version: str = "",
        drill: bool = False,
        attribution: Attribution | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self.lock = threading.RLock()
        self.inventory = inventory
        self.boot_id = boot_id
        self.boot_time = boot_time
        self.clock = clock
        self.driver_version = driver_version
        self.drill = drill
        self.attribution = attribution
        self.upstream: Mapping[str, str] = {}
        self.xids: LatchStore[XidKey] = LatchStore(XidKey, limits.xids)
        self.links: LatchStore[LinkKey] = LatchStore(LinkKey, limits.links)
        self.sxids: LatchStore[SxidKey] = LatchStore(SxidKey, limits.sxids)
        self.faults: LatchStore[FaultKey] = LatchStore(FaultKey, limits.faults)
        self.events = EventRing(limits.events)
        self.counts = Counts()
        self.recovery: dict[str, int] = {}
        self.learned: dict[str, str] = {}
        self.context = intake.Context()
        self.cursor: Mapping[str, object] = {}
        self.changes = 0

    def feed(self, record: KernelRecord, at: float | None = None) -> Message | None:
        """The record is part of the state; returns what it said, or None if it is not ours or user space wrote it."""
        with self.lock:
            return intake.take(self, record, self.clock() if at is None else at)

    def feed_line(self, line: str, at: float | None = None) -> Message | None:
        """`feed` for one line of text in any form `kmsg.parse_line` knows."""
        return self.feed(parse_line(line), at)

    def uuid_of(self, pci: str) -> str:
        """The UUID of the GPU at an address, or below that port; empty if neither inventory nor log named it."""
        for address in (pci, self.upstream.get(pci, "")):
            known = self.inventory.by_pci(address) if address else None
            if known is not None:
                return known.gpu_uuid
            if address in self.learned:
                return self.learned[address]
        return ""

    def learn(self, pci: str, uuid: str) -> None:
        """The log named the GPU at an address; the inventory outranks it."""
        if pci in self.learned or len(self.learned) < MAX_LEARNED:
            self.learned[pci] = uuid
            self.adopt()

    def adopt(self) -> None:
        """Levels that were kept under an address alone carry the UUID that is known by now."""
        with self.lock:
            self.xids.adopt(self.uuid_of)
            self.links.adopt(self.uuid_of)
            self.faults.adopt(self.uuid_of)

    def acknowledge(
        self, *, until: float, gpu_uuid: str | None = None, xid: int | None = None, sxid: int | None = None
    ) -> int:
        """Levels whose last event is not after `until` are over; returns how many.

        `gpu_uuid` limits it to one GPU, `xid` or `sxid` to one code; without any of them the whole node is
        acknowledged.
        """
        return self._clear("acknowledged", until, gpu_uuid=gpu_uuid, xid=xid, sxid=sxid)

    def reset_proven(self, gpu_uuid: str, at: float) -> int:
        """A GPU was seen to come back from a reset at `at`: its levels up to then are over; returns how many."""
        return self._clear("reset", at, gpu_uuid=gpu_uuid)

    def recovered(self, pci: str) -> int:
        """The driver wants no recovery any more (Xid 154 to 0): every level of the GPU at this address is over."""
        with self.lock:
            forever, uuid = float("inf"), self.uuid_of(pci)

            def mine(key: XidKey | FaultKey) -> bool:
                return key.pci_bus_id == pci or (uuid != "" and key.gpu_uuid == uuid)

            cleared = self.xids.clear(mine, forever) + self.faults.clear(mine, forever)
            self._cleared("recovered", cleared)
            return cleared

    def _clear(
        self, reason: str, until: float, *, gpu_uuid: str | None = None, xid: int | None = None, sxid: int | None = None
    ) -> int:
        with self.lock:
            self.adopt()
            cleared = 0
            if sxid is None:
                cleared += self.xids.clear(
                    lambda key: gpu_uuid in (None, key.gpu_uuid) and (xid is None or key.xid == str(xid)), until
                )
            if sxid is None and xid is None:
                cleared += self.faults.clear(lambda key: gpu_uuid in (None, key.gpu_uuid), until)
            if gpu_uuid is None and xid is None:
                cleared += self.sxids.clear(lambda key: sxid is None or key.sxid == str(sxid), until)
            self._cleared(reason, cleared)
            return cleared

    def _cleared(self, reason: str, count: int) -> None:
        self.counts.cleared[reason] += count
        if count:
            self.changes += 1

    def reboot(self, boot_id: str, boot_time: float = 0.0) -> None:
        """The node runs in another boot: every level and count of the old one is gone; the event ring stays."""
        with self.lock:
            latched = sum(entry.latched for store in self._stores().values() for _, entry in store.items())
            for store in self._stores().values():
                store.forget()
            self.recovery.clear()
            self.learned.clear()
            self.context = intake.Context()
            # A sequence number or journal cursor belongs to one boot; a place in a log file does not.
            self.cursor = {key: value for key, value in self.cursor.items() if key in ("inode", "offset")}
            self.boot_id, self.boot_time = boot_id, boot_time
            self._cleared("reboot", latched)
            self.changes += 1

    def _stores(self) -> dict[str, LatchStore[Any]]:
        return {"xids": self.xids, "links": self.links, "sxids": self.sxids, "faults": self.faults}

    @property
    def overflow(self) -> int:
        """Events dropped because a store was full."""
        return sum(store.overflow for store in self._stores().values())

    def dump(self) -> dict[str, Any]:
        """The state as a JSON-ready object."""
        with self.lock:
            stores = {name: store.dump() for name, store in self._stores().items()}
            return {
                "schema": SCHEMA,
                "boot_id": self.boot_id,
                "cursor": dict(self.cursor),
                **stores,
                "recovery": dict(self.recovery),
                "learned": dict(self.learned),
                "events": self.events.dump(),
            }

    def load(self, dumped: Mapping[str, Any]) -> None:
        """The state is what `dump` gave; if that was another boot, or nobody knows which, only its events remain.

        Raises KeyError, TypeError or ValueError on anything else, and may then have loaded a part: make a new object.
        """
        with self.lock:
            if dumped["schema"] != SCHEMA:
                raise ValueError(f"schema {dumped['schema']!r} is not {SCHEMA}")
            for name, store in self._stores().items():
                store.load(dumped[name])
            self.recovery = {str(pci): int(value) for pci, value in dumped["recovery"].items()}
            self.learned = {str(pci): str(uuid) for pci, uuid in dumped["learned"].items()}
            self.events.load(dumped["events"])
            self.cursor = dict(dumped["cursor"])
            if not self.boot_id or dumped["boot_id"] != self.boot_id:
                self.reboot(self.boot_id, self.boot_time)
