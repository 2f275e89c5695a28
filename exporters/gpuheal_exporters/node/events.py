"""The last raw events of this node, bounded, for `/events`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuheal_exporters.host import shape

MAX_LIST = 64
MAX_TEXT = 400  # characters of the kernel's line that are kept
COALESCE_SECONDS = 5.0  # equal events closer than this are one entry with a count


@dataclass(slots=True, kw_only=True)
class Event:
    """One entry: an event, or a burst of equal ones (`repeats` more, the last at `last_at`). Times are unix seconds."""

    number: int = 0
    at: float
    last_at: float
    kind: str
    code: str
    gpu_uuid: str
    pci_bus_id: str
    text: str
    boot_id: str
    driver_version: str
    seq: int | None = None
    pid: int | None = None
    process: str | None = None
    pod: dict[str, str] = field(default_factory=dict)
    action: str = ""
    basis: str = ""
    blames: str = ""
    followup: str = ""
    detail: str = ""
    cause: str = ""
    details: list[str] = field(default_factory=list)
    repeats: int = 0


def _texts(value: object) -> list[str]:
    return [shape.text(each) for each in shape.items(value, MAX_LIST)]


def _pod(value: object) -> dict[str, str]:
    return {shape.text(key): shape.text(each) for key, each in list(shape.mapping(value).items())[:MAX_LIST]}


_EVENT: Mapping[str, Callable[[object], Any]] = {
    **dict.fromkeys(("number", "repeats"), shape.whole),
    **dict.fromkeys(("at", "last_at"), shape.number),
    **dict.fromkeys(("kind", "code", "gpu_uuid", "pci_bus_id", "text", "boot_id", "driver_version"), shape.text),
    **dict.fromkeys(("action", "basis", "blames", "followup", "detail", "cause"), shape.text),
    **dict.fromkeys(("seq", "pid"), shape.optional(shape.whole)),
    "process": shape.optional(shape.text),
    "pod": _pod,
    "details": _texts,
}


def _plain(entry: Event) -> dict[str, Any]:
    """Return an entry as a JSON-ready object: ten times as fast as dataclasses.asdict, and the log waits meanwhile."""
    plain = {name: getattr(entry, name) for name in _EVENT}
    return {**plain, "pod": dict(entry.pod), "details": list(entry.details)}


class EventRing:
    """The newest `limit` entries; events with an equal key within a few seconds of each other share one."""

    def __init__(self, limit: int = 512) -> None:
        self._entries: deque[Event] = deque(maxlen=limit)
        self._latest: dict[tuple[object, ...], Event] = {}
        self._limit = limit
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    def repeat(self, key: tuple[object, ...], at: float) -> bool:
        """Count an event into the entry it repeats; return False if there is none, and a new one is needed."""
        entry = self._latest.get(key)
        if entry is None or not 0 <= at - entry.last_at <= COALESCE_SECONDS:
            return False
        entry.repeats += 1
        entry.last_at = at
        return True

    def add(self, key: tuple[object, ...], event: Event) -> None:
        """Add the event as the newest entry; the oldest one may be gone."""
        self._number += 1
        event.number = self._number
        event.text = event.text[:MAX_TEXT]
        self._entries.append(event)
        self._latest.pop(key, None)
        self._latest[key] = event
        if len(self._latest) > self._limit:
            self._latest.pop(next(iter(self._latest)))

    def newest(self, key: tuple[object, ...]) -> Event | None:
        """Return the newest entry with this key still remembered."""
        return self._latest.get(key)

    def dump(self) -> list[dict[str, Any]]:
        """Return the entries as JSON-ready objects, oldest first."""
        return [_plain(entry) for entry in self._entries]

    def load(self, dumped: object) -> None:
        """Hold what `dump` gave; on anything else raise KeyError or ValueError and change nothing."""
        entries = [Event(**shape.fields(raw, _EVENT)) for raw in shape.items(dumped, self._limit)]
        self._latest.clear()
        self._entries.clear()
        self._entries.extend(entries)
        self._number = max((entry.number for entry in entries), default=0)
