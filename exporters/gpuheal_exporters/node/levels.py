"""Everything a node keeps as levels: four stores of latches and the driver's last word on each GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpuheal_exporters.host import shape
from gpuheal_exporters.node.latch import MAX_LABEL, FaultKey, LatchStore, LinkKey, SxidKey, XidKey

CLEAR_REASONS = ("reboot", "recovered", "reset", "acknowledged")
_FOREVER = float("inf")
MAX_RECOVERY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of everything that events can make grow."""

    xids: int = 1024
    links: int = 1024
    sxids: int = 1024
    faults: int = 512
    events: int = 512


class Levels:
    """The levels of one node. Not thread-safe: its owner holds the lock."""

    def __init__(self, limits: Limits) -> None:
        self.xids: LatchStore[XidKey] = LatchStore(XidKey, limits.xids)
        self.links: LatchStore[LinkKey] = LatchStore(LinkKey, limits.links)
        self.sxids: LatchStore[SxidKey] = LatchStore(SxidKey, limits.sxids)
        self.faults: LatchStore[FaultKey] = LatchStore(FaultKey, limits.faults)
        self.recovery: dict[str, int] = {}
        """GPU address → the recovery action of its last Xid 154."""
        self.cleared = dict.fromkeys(CLEAR_REASONS, 0)

    def stores(self) -> Mapping[str, LatchStore[Any]]:
        """Return the stores by their name on disk."""
        return {"xids": self.xids, "links": self.links, "sxids": self.sxids, "faults": self.faults}

    @property
    def overflow(self) -> int:
        """Return the number of events dropped because a store was full."""
        return sum(store.overflow for store in self.stores().values())

    def adopt(self, uuid_of: Callable[[str], str]) -> None:
        """Put levels kept under an address alone under the UUID that is known by now."""
        self.xids.adopt(uuid_of)
        self.links.adopt(uuid_of)
        self.faults.adopt(uuid_of)

    def recover(self, pci: str, uuid: str) -> int:
        """End every level of the GPU at this address, since its driver wants no recovery any more; return how many."""

        def mine(key: XidKey | FaultKey) -> bool:
            return key.pci_bus_id == pci or (uuid != "" and key.gpu_uuid == uuid)

        return self._count("recovered", self.xids.clear(mine, _FOREVER) + self.faults.clear(mine, _FOREVER))

    def end(
        self, reason: str, until: float, *, gpu_uuid: str | None = None, xid: int | None = None, sxid: int | None = None
    ) -> int:
        """End levels whose last event is not after `until` (unix seconds); return how many.

        `gpu_uuid` limits it to one GPU, `xid` or `sxid` to one code; without any of them the whole node is meant.
        """
        cleared = 0
        if sxid is None:
            cleared += self.xids.clear(
                lambda key: gpu_uuid in (None, key.gpu_uuid) and (xid is None or key.xid == str(xid)), until
            )
        if sxid is None and xid is None:
            cleared += self.faults.clear(lambda key: gpu_uuid in (None, key.gpu_uuid), until)
        if gpu_uuid is None and xid is None:
            cleared += self.sxids.clear(lambda key: sxid is None or key.sxid == str(sxid), until)
        return self._count(reason, cleared)

    def forget(self) -> None:
        """Forget every level and count: another boot has begun."""
        latched = sum(entry.latched for store in self.stores().values() for _, entry in store.items())
        for store in self.stores().values():
            store.forget()
        self.recovery.clear()
        self._count("reboot", latched)

    def _count(self, reason: str, cleared: int) -> int:
        self.cleared[reason] += cleared
        return cleared

    def dump(self) -> dict[str, Any]:
        """Return the levels as a JSON-ready object."""
        return {**{name: store.dump() for name, store in self.stores().items()}, "recovery": dict(self.recovery)}

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Hold what `dump` gave; on anything else raise KeyError or ValueError and change nothing."""
        stores = self.stores()
        parsed = {name: store.parse(dumped[name]) for name, store in stores.items()}
        recovery = {
            shape.text(pci, MAX_LABEL): shape.whole(value) for pci, value in shape.mapping(dumped["recovery"]).items()
        }
        for name, store in stores.items():
            store.hold(parsed[name])
        self.recovery = dict(list(recovery.items())[:MAX_RECOVERY])
