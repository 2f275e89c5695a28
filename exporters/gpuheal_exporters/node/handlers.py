"""How one kernel record changes the levels of a node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gpuheal_exporters.catalogue.codes import resolve_sxid, resolve_xid
from gpuheal_exporters.catalogue.resolution import Resolution
from gpuheal_exporters.kernel.driverline import BUS_KINDS, FAULT_KINDS, GPU_DRIVER, DriverLine
from gpuheal_exporters.kernel.kmsg import KernelRecord
from gpuheal_exporters.kernel.message import Message, looks_like_driver, parse_message
from gpuheal_exporters.kernel.sxid import Sxid, SxidDetail
from gpuheal_exporters.kernel.xid import CLEANUP_XID, RECOVERY_XID, Xid
from gpuheal_exporters.node.addresses import Addresses
from gpuheal_exporters.node.events import MAX_TEXT, Event, EventRing
from gpuheal_exporters.node.latch import FaultKey, LinkKey, SxidKey, XidKey
from gpuheal_exporters.node.levels import Levels

log = logging.getLogger(__name__)

ATTRIBUTION_SECONDS = 30.0
GROUP_SECONDS = 30.0  # Xids of one GPU closer than this are one chain of cause and effect
DETAIL_SECONDS = 2.0  # follow-up lines of a switch event come within this time of its headline
HEAD_SECONDS = 5.0  # the three-line form of a lost GPU: its tail comes within this time of its head
MAX_DETAILS = 8
MAX_OPEN = 64
NOT_UNDERSTOOD = ("wrapping", "headline", "message")


@dataclass(slots=True, kw_only=True)
class Group:
    """Xids of one GPU that belong together: `cause` is the first that is not a clean-up."""

    last: float
    cause: str = ""


@dataclass(slots=True, kw_only=True)
class Context:
    """What has to be remembered between records: chains of Xids by address, open switch events, the head of a lost
    GPU.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    switch_events: dict[tuple[int, int], tuple[float, Event | None]] = field(default_factory=dict)
    lost_head: tuple[str, float] | None = None


class Attribution(Protocol):
    """Tells whose work an event hit; what it returns is text for people, never a label."""

    def __call__(self, *, pid: int | None, gpu_uuid: str, pci_bus_id: str) -> Mapping[str, str]:
        """Return pod, namespace, container … of the process or GPU; empty if not known."""
        ...


@dataclass(slots=True, kw_only=True)
class Situation:
    """What an event is judged by besides its line; `clock` gives unix seconds."""

    clock: Callable[[], float]
    boot_id: str
    driver_version: str = ""
    drill: bool = False
    attribution: Attribution | None = None


@dataclass(slots=True, kw_only=True)
class Counts:
    """What the handlers did since the start of the process; `changes` grows with everything worth writing to disk."""

    foreign: int = 0
    orphans: int = 0
    changes: int = 0
    other_devices: int = 0
    not_understood: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NOT_UNDERSTOOD, 0))


class Handlers:
    """Fill `levels` and `events` from kernel records. Not thread-safe: their owner holds the lock."""

    def __init__(self, *, situation: Situation, levels: Levels, addresses: Addresses, events: EventRing) -> None:
        self.situation = situation
        self.counts = Counts()
        self.context = Context()
        self._levels, self._addresses, self._events = levels, addresses, events

    def forget(self) -> None:
        """Forget what ties one record to the next: another boot has begun."""
        self.context = Context()

    def take(self, record: KernelRecord, at: float) -> Message | None:
        """Count, latch and keep as an event what a record says about a GPU; return that, or None if it says nothing.

        What user space wrote is only counted.
        """
        message = parse_message(record.text)
        if message is None:
            self._not_understood(record)
            return None
        if not (record.from_kernel or self.situation.drill):
            self.counts.foreign += 1
            return None
        self.counts.changes += 1
        if isinstance(message, Xid):
            self._xid(message, record, at)
        elif isinstance(message, Sxid):
            self._sxid(message, record, at)
        elif isinstance(message, SxidDetail):
            self._sxid_detail(message, at)
        else:
            self._driver_line(message, record, at)
        return message

    def _not_understood(self, record: KernelRecord) -> None:
        """Count a line that looks like the driver's, and say the first of each kind."""
        reason = looks_like_driver(record.text) if record.known else "wrapping"
        if reason and not record.from_kernel:
            self.counts.foreign += 1
        elif reason:
            if reason != "message" and not self.counts.not_understood[reason]:
                log.warning(
                    "driver line not parsed (%s), further ones are only counted: %r", reason, record.text[:MAX_TEXT]
                )
            self.counts.not_understood[reason] += 1

    def _group(self, pci: str, at: float) -> Group:
        groups = self.context.groups
        group = groups.get(pci)
        if group is None or at - group.last > GROUP_SECONDS:
            if len(groups) >= MAX_OPEN:
                groups.pop(next(iter(groups)))
            group = groups[pci] = Group(last=at)
        if at > group.last:
            group.last = at
        return group

    def _cause(self, message: Xid, key: XidKey, at: float) -> str:
        """Return the first Xid of the chain this one belongs to, empty if it is the first itself.

        A clean-up that came before its cause learns of it too.
        """
        group = self._group(key.pci_bus_id, at)
        if message.details.caused_by is not None:
            group.cause = group.cause or str(message.details.caused_by)
            return str(message.details.caused_by)
        if message.xid in (CLEANUP_XID, RECOVERY_XID):
            return group.cause
        if not group.cause:
            group.cause = key.xid
            cleanup = self._levels.xids.get(key._replace(xid=str(CLEANUP_XID)))
            if cleanup is not None and cleanup.latched and not cleanup.cause and at - cleanup.last <= GROUP_SECONDS:
                cleanup.cause = key.xid
        return group.cause if group.cause != key.xid else ""

    def _xid(self, message: Xid, record: KernelRecord, at: float) -> None:
        pci = message.pci or self._addresses.pci_of(message.uuid or "")
        uuid = message.uuid or self._addresses.uuid_of(pci)
        key = XidKey(uuid, pci, str(message.xid))
        resolution = resolve_xid(message, self.situation.driver_version, drill=self.situation.drill)
        cause = self._cause(message, key, at)
        recovery = message.details.recovery
        entry = self._levels.xids.record(key, at, resolution, cause=cause, latch=recovery is None or recovery.now != 0)
        if entry is not None and message.xid == RECOVERY_XID and entry.latched:
            entry.resolution = resolution  # the driver's newest verdict, also if it asks for less than the one before
        if message.details.link is not None:
            self._levels.links.record(LinkKey(uuid, pci, key.xid, str(message.details.link)), at, latch=False)
        if recovery is not None:
            self._levels.recovery[pci] = recovery.now
            if recovery.now == 0:
                self._levels.recover(pci, self._addresses.uuid_of(pci))
        ring_key = ("xid", key.xid, pci, message.details.link, recovery and recovery.now)
        if not self._events.repeat(ring_key, at):
            # An old event's pid and GPU belong to somebody else by now.
            ask = self.situation.attribution if self.situation.clock() - at < ATTRIBUTION_SECONDS else None
            pod = ask(pid=message.pid, gpu_uuid=uuid, pci_bus_id=pci) if ask else {}
            event = self._event("xid", key.xid, (uuid, pci), record, at, resolution)
            event.pid, event.process, event.pod, event.cause = message.pid, message.name, dict(pod), cause
            if (location := message.details.location) is not None:
                event.detail = f"GPC {location.gpc}, TPC {location.tpc}, SM {location.sm}"
            self._events.add(ring_key, event)

    def _event(
        self,
        kind: str,
        code: str,
        gpu: tuple[str, str],
        record: KernelRecord,
        at: float,
        resolution: Resolution | None = None,
    ) -> Event:
        event = Event(
            at=at,
            last_at=at,
            kind=kind,
            code=code,
            gpu_uuid=gpu[0],
            pci_bus_id=gpu[1],
            text=record.text,
            boot_id=self.situation.boot_id,
            driver_version=self.situation.driver_version,
            seq=record.seq,
        )
        if resolution is not None:
            event.action, event.basis, event.blames = resolution.action, resolution.basis, resolution.blames
            event.followup, event.detail = resolution.followup, resolution.detail
        return event

    def _sxid(self, message: Sxid, record: KernelRecord, at: float) -> None:
        resolution, _ = resolve_sxid(message)
        link = "" if message.link is None else str(message.link)
        key = SxidKey(str(message.switch), message.pci, str(message.sxid), link, message.severity or "")
        self._levels.sxids.record(key, at, resolution)
        ring_key = ("sxid", *key)
        if not self._events.repeat(ring_key, at):
            self._events.add(ring_key, self._event("sxid", key.sxid, ("", message.pci), record, at, resolution))
        opened = self.context.switch_events
        opened.pop((message.switch, message.sxid), None)
        opened[message.switch, message.sxid] = (at, self._events.newest(ring_key))
        if len(opened) > MAX_OPEN:
            opened.pop(next(iter(opened)))

    def _sxid_detail(self, message: SxidDetail, at: float) -> None:
        opened_at, event = self.context.switch_events.get((message.switch, message.sxid), (0.0, None))
        if event is None or at - opened_at > DETAIL_SECONDS:
            self.counts.orphans += 1
        elif len(event.details) < MAX_DETAILS:
            event.details.append(message.text[:MAX_TEXT])

    def _driver_line(self, message: DriverLine, record: KernelRecord, at: float) -> None:
        kind, pci = message.kind, message.pci or ""
        if kind == "gpu_uuid" and message.uuid:
            self._learn(pci, message.uuid)
        elif kind == "gpu_lost_head":
            self.context.lost_head = (pci, at)
        elif kind == "gpu_lost_tail":
            head, self.context.lost_head = self.context.lost_head, None
            if head is None or at - head[1] > HEAD_SECONDS:
                self.counts.orphans += 1
            self._fault("gpu_lost", head[0] if head and at - head[1] <= HEAD_SECONDS else "", "", record, at)
        elif kind in BUS_KINDS and not (message.driver == GPU_DRIVER or self._addresses.leads_to_gpu(pci)):
            self.counts.other_devices += 1
        elif kind in FAULT_KINDS:
            self._fault(kind, pci, message.severity or "", record, at)

    def _learn(self, pci: str, uuid: str) -> None:
        if self._addresses.learn(pci, uuid):
            self._levels.adopt(self._addresses.uuid_of)

    def _fault(self, kind: str, pci: str, severity: str, record: KernelRecord, at: float) -> None:
        uuid = self._addresses.uuid_of(pci) if pci else ""
        key = FaultKey(uuid, pci, kind, severity)
        self._levels.faults.record(key, at)
        ring_key = ("fault", *key)
        if not self._events.repeat(ring_key, at):
            self._events.add(ring_key, self._event(kind, severity, (uuid, pci), record, at))
