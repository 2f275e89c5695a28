"""The state of one node as its kernel log tells it: plain objects, no globals, no I/O.

`feed` takes records in (`handlers`), collectors take metrics out of `levels`, `events`, `counts` and `addresses`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from gpuheal_exporters.host import shape
from gpuheal_exporters.host.identity import Inventory, normalise_pci
from gpuheal_exporters.kernel.kmsg import KernelRecord, parse_line
from gpuheal_exporters.kernel.message import Message
from gpuheal_exporters.node.addresses import MAX_LEARNED, Addresses
from gpuheal_exporters.node.events import EventRing
from gpuheal_exporters.node.handlers import Attribution, Counts, Handlers, Situation
from gpuheal_exporters.node.latch import MAX_LABEL
from gpuheal_exporters.node.levels import Levels, Limits

SCHEMA = 1
MAX_CURSOR = 16


class NodeExporterState:
    """Everything the kernel log said since the boot. Thread-safe; times are unix seconds, given or from `clock`."""

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
        self.limits = limits = limits or Limits()
        self.lock = threading.RLock()
        self.boot_time = boot_time
        self.clock = clock
        self.situation = Situation(
            clock=clock, boot_id=boot_id, driver_version=driver_version, drill=drill, attribution=attribution
        )
        self.addresses = Addresses(inventory)
        self.levels = Levels(limits)
        self.events = EventRing(limits.events)
        self._handlers = Handlers(
            situation=self.situation, levels=self.levels, addresses=self.addresses, events=self.events
        )
        self.cursor: Mapping[str, object] = {}

    @property
    def boot_id(self) -> str:
        """Return the id of the boot the levels belong to."""
        return self.situation.boot_id

    @property
    def counts(self) -> Counts:
        """Return what was done with the records since the start of the process."""
        return self._handlers.counts

    @property
    def changes(self) -> int:
        """Return a number that grows with everything worth writing to disk."""
        return self.counts.changes

    def feed(self, record: KernelRecord, at: float | None = None) -> Message | None:
        """Make the record part of the state; return what it said, None if it is not ours or user space wrote it."""
        with self.lock:
            return self._handlers.take(record, self.clock() if at is None else at)

    def feed_line(self, line: str, at: float | None = None) -> Message | None:
        """Feed one line of text in any form `kmsg.parse_line` knows."""
        return self.feed(parse_line(line), at)

    def adopt(self) -> None:
        """Put levels kept under an address alone under the UUID that is known by now."""
        with self.lock:
            self.levels.adopt(self.addresses.uuid_of)

    def acknowledge(
        self, *, until: float, gpu_uuid: str | None = None, xid: int | None = None, sxid: int | None = None
    ) -> int:
        """End levels whose last event is not after `until`; return how many.

        `gpu_uuid` limits it to one GPU, `xid` or `sxid` to one code; without any of them the whole node is
        acknowledged.
        """
        return self._end("acknowledged", until, gpu_uuid=gpu_uuid, xid=xid, sxid=sxid)

    def reset_proven(self, gpu_uuid: str, at: float) -> int:
        """End the levels up to `at` of a GPU that was seen to come back from a reset then; return how many."""
        return self._end("reset", at, gpu_uuid=gpu_uuid)

    def _end(self, reason: str, until: float, **which: Any) -> int:
        with self.lock:
            self.adopt()
            cleared = self.levels.end(reason, until, **which)
            if cleared:
                self.counts.changes += 1
            return cleared

    def reboot(self, boot_id: str, boot_time: float = 0.0) -> None:
        """Forget every level and count of the old boot, since the node runs in another; the event ring stays."""
        with self.lock:
            self.levels.forget()
            self.addresses.learned.clear()
            self._handlers.forget()
            # A sequence number or journal cursor belongs to one boot; a place in a log file does not.
            self.cursor = {key: value for key, value in self.cursor.items() if key in ("inode", "offset")}
            self.situation.boot_id, self.boot_time = boot_id, boot_time
            self.counts.changes += 1

    def dump(self) -> dict[str, Any]:
        """Return the state as a JSON-ready object."""
        with self.lock:
            return {
                "schema": SCHEMA,
                "boot_id": self.boot_id,
                "cursor": dict(self.cursor),
                **self.levels.dump(),
                "learned": dict(self.addresses.learned),
                "events": self.events.dump(),
            }

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Hold what `dump` gave; of another boot, or one that nobody knows, only the events.

        On anything else raise KeyError or ValueError; levels and events are then still those from before.
        """
        with self.lock:
            if dumped["schema"] != SCHEMA:
                raise ValueError(f"schema {str(dumped['schema'])[:40]} is not {SCHEMA}")
            boot_id = shape.text(dumped["boot_id"])
            cursor = {name: _place(value) for name, value in list(shape.mapping(dumped["cursor"]).items())[:MAX_CURSOR]}
            learned = {
                normalise_pci(shape.text(pci)): shape.text(uuid, MAX_LABEL)
                for pci, uuid in list(shape.mapping(dumped["learned"]).items())[:MAX_LEARNED]
            }
            EventRing(self.limits.events).load(dumped["events"])  # so that nothing is half loaded
            self.levels.load(dumped)
            self.events.load(dumped["events"])
            self.addresses.learned, self.cursor = learned, cursor
            if not self.boot_id or boot_id != self.boot_id:
                self.reboot(self.boot_id, self.boot_time)


def _place(value: object) -> int | str:
    return shape.text(value) if isinstance(value, str) else shape.whole(value)
