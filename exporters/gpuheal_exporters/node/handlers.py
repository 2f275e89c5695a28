"""How one kernel record changes the state of a node: the handlers behind `NodeExporterState.feed`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpuheal_exporters.catalogue.codes import resolve_sxid, resolve_xid
from gpuheal_exporters.catalogue.resolution import Resolution
from gpuheal_exporters.kernel.driverline import FAULT_KINDS, DriverLine
from gpuheal_exporters.kernel.message import Message, parse_message
from gpuheal_exporters.kernel.sxid import Sxid, SxidDetail
from gpuheal_exporters.kernel.xid import CLEANUP_XID, RECOVERY_XID, Xid
from gpuheal_exporters.node.events import MAX_TEXT, Event
from gpuheal_exporters.node.latch import FaultKey, LinkKey, SxidKey, XidKey

if TYPE_CHECKING:
    from gpuheal_exporters.kernel.kmsg import KernelRecord
    from gpuheal_exporters.node.state import NodeExporterState

ATTRIBUTION_SECONDS = 30.0
GROUP_SECONDS = 30.0  # Xids of one GPU closer than this are one chain of cause and effect
DETAIL_SECONDS = 2.0  # follow-up lines of a switch event come within this time of its headline
HEAD_SECONDS = 5.0  # the three-line form of a lost GPU: its tail comes within this time of its head
MAX_DETAILS = 8
MAX_OPEN = 64


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


def take(state: NodeExporterState, record: KernelRecord, at: float) -> Message | None:
    """The record is counted, latched and kept as an event, as far as it is the kernel's and says something about a
    GPU.
    """
    message = parse_message(record.text)
    if message is None:
        return None
    if not (record.from_kernel or state.drill):
        state.counts.foreign += 1
        return None
    state.changes += 1
    if isinstance(message, Xid):
        _xid(state, message, record, at)
    elif isinstance(message, Sxid):
        _sxid(state, message, record, at)
    elif isinstance(message, SxidDetail):
        _sxid_detail(state, message, at)
    else:
        _driver_line(state, message, record, at)
    return message


def _group(state: NodeExporterState, pci: str, at: float) -> Group:
    groups = state.context.groups
    group = groups.get(pci)
    if group is None or at - group.last > GROUP_SECONDS:
        if len(groups) >= MAX_OPEN:
            groups.pop(next(iter(groups)))
        group = groups[pci] = Group(last=at)
    if at > group.last:
        group.last = at
    return group


def _cause(state: NodeExporterState, message: Xid, key: XidKey, at: float) -> str:
    """The first Xid of the chain this one belongs to, or empty if it is the first; a clean-up that came first learns
    it too.
    """
    group = _group(state, key.pci_bus_id, at)
    if message.caused_by is not None:
        group.cause = group.cause or str(message.caused_by)
        return str(message.caused_by)
    if message.xid in (CLEANUP_XID, RECOVERY_XID):
        return group.cause
    if not group.cause:
        group.cause = key.xid
        cleanup = state.xids.get(key._replace(xid=str(CLEANUP_XID)))
        if cleanup is not None and cleanup.latched and not cleanup.cause and at - cleanup.last <= GROUP_SECONDS:
            cleanup.cause = key.xid
    return group.cause if group.cause != key.xid else ""


def _xid(state: NodeExporterState, message: Xid, record: KernelRecord, at: float) -> None:
    pci = message.pci or next((gpu.pci_bus_id for gpu in state.inventory.gpus() if gpu.gpu_uuid == message.uuid), "")
    uuid = message.uuid or state.uuid_of(pci)
    key = XidKey(uuid, pci, str(message.xid))
    resolution = resolve_xid(message, state.driver_version, drill=state.drill)
    cause = _cause(state, message, key, at)
    recovery = message.recovery
    entry = state.xids.record(key, at, resolution, cause=cause, latch=recovery is None or recovery.now != 0)
    if entry is not None and message.xid == RECOVERY_XID and entry.latched:
        entry.resolution = resolution  # the driver's newest verdict, also if it asks for less than the one before
    if message.link is not None:
        state.links.record(LinkKey(uuid, pci, key.xid, str(message.link)), at, latch=False)
    if recovery is not None:
        state.recovery[pci] = recovery.now
        if recovery.now == 0:
            state.recovered(pci)
    ring_key = ("xid", key.xid, pci, message.link, recovery and recovery.now)
    if not state.events.repeat(ring_key, at):
        fresh = state.clock() - at < ATTRIBUTION_SECONDS  # an old event's pid and GPU belong to somebody else by now
        ask = state.attribution if fresh else None
        pod = ask(pid=message.pid, gpu_uuid=uuid, pci_bus_id=pci) if ask else {}
        event = _event(state, "xid", key.xid, (uuid, pci), record, at, resolution)
        event.pid, event.process, event.pod, event.cause = message.pid, message.name, dict(pod), cause
        if message.location is not None:
            event.detail = f"GPC {message.location.gpc}, TPC {message.location.tpc}, SM {message.location.sm}"
        state.events.add(ring_key, event)


def _event(
    state: NodeExporterState,
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
        boot_id=state.boot_id,
        driver_version=state.driver_version,
        seq=record.seq,
    )
    if resolution is not None:
        event.action, event.basis, event.blames = resolution.action, resolution.basis, resolution.blames
        event.followup, event.detail = resolution.followup, resolution.detail
    return event


def _sxid(state: NodeExporterState, message: Sxid, record: KernelRecord, at: float) -> None:
    resolution, _ = resolve_sxid(message)
    link = "" if message.link is None else str(message.link)
    key = SxidKey(str(message.switch), message.pci, str(message.sxid), link, message.severity or "")
    state.sxids.record(key, at, resolution)
    ring_key = ("sxid", *key)
    if not state.events.repeat(ring_key, at):
        state.events.add(ring_key, _event(state, "sxid", key.sxid, ("", message.pci), record, at, resolution))
    opened = state.context.switch_events
    opened.pop((message.switch, message.sxid), None)
    opened[message.switch, message.sxid] = (at, state.events.newest(ring_key))
    if len(opened) > MAX_OPEN:
        opened.pop(next(iter(opened)))


def _sxid_detail(state: NodeExporterState, message: SxidDetail, at: float) -> None:
    opened_at, event = state.context.switch_events.get((message.switch, message.sxid), (0.0, None))
    if event is None or at - opened_at > DETAIL_SECONDS:
        state.counts.orphans += 1
    elif len(event.details) < MAX_DETAILS:
        event.details.append(message.text[:MAX_TEXT])


def _driver_line(state: NodeExporterState, message: DriverLine, record: KernelRecord, at: float) -> None:
    kind, pci = message.kind, message.pci or ""
    if kind == "gpu_uuid" and message.uuid:
        state.learn(pci, message.uuid)
    elif kind == "gpu_lost_head":
        state.context.lost_head = (pci, at)
    elif kind == "gpu_lost_tail":
        head, state.context.lost_head = state.context.lost_head, None
        if head is None or at - head[1] > HEAD_SECONDS:
            state.counts.orphans += 1
        _fault(state, "gpu_lost", head[0] if head and at - head[1] <= HEAD_SECONDS else "", "", record, at)
    elif kind in FAULT_KINDS:
        _fault(state, kind, pci, message.severity or "", record, at)


def _fault(state: NodeExporterState, kind: str, pci: str, severity: str, record: KernelRecord, at: float) -> None:
    uuid = state.uuid_of(pci) if pci else ""
    key = FaultKey(uuid, pci, kind, severity)
    state.faults.record(key, at)
    ring_key = ("fault", *key)
    if not state.events.repeat(ring_key, at):
        state.events.add(ring_key, _event(state, kind, severity, (uuid, pci), record, at))
