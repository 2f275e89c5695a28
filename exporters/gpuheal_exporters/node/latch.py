"""Events kept as levels: a latch per key, from the first event to a reboot, a proven reset or an acknowledgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from gpuheal_exporters.catalogue.resolution import ACTIONS, Resolution, worse
from gpuheal_exporters.host import shape

KeyT = TypeVar("KeyT", bound=tuple[str, ...])


class XidKey(NamedTuple):
    """Labels of an Xid series; `gpu_uuid` is empty while the address is not known to the inventory."""

    gpu_uuid: str
    pci_bus_id: str
    xid: str


class LinkKey(NamedTuple):
    """Labels of an NVLink Xid by link."""

    gpu_uuid: str
    pci_bus_id: str
    xid: str
    link: str


class SxidKey(NamedTuple):
    """Labels of an SXid series; `link` and `severity` are empty where the line has none."""

    switch: str
    pci_bus_id: str
    sxid: str
    link: str
    severity: str


class FaultKey(NamedTuple):
    """Labels of a kernel fault that has no Xid; `severity` is only filled for PCIe errors."""

    gpu_uuid: str
    pci_bus_id: str
    kind: str
    severity: str


@dataclass(slots=True, kw_only=True)
class Latch:
    """What is known under one key. `total` counts since the boot, `count`, `first` and `last` (unix seconds) since it
    latched.
    """

    total: int = 0
    latched: bool = False
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    resolution: Resolution | None = None
    cause: str = ""


MAX_LABEL = 128
MAX_PARTS = 8


_RESOLUTION: Mapping[str, Callable[[object], Any]] = dict.fromkeys(
    ("action", "basis", "severity", "blames", "followup", "detail"), shape.text
)


def _resolution(value: object) -> Resolution:
    found = Resolution(**shape.fields(value, _RESOLUTION))
    if found.action not in ACTIONS:
        raise ValueError(f"not an action: {found.action[:40]!r}")
    return found


_LATCH: Mapping[str, Callable[[object], Any]] = {
    "total": shape.whole,
    "latched": shape.flag,
    "count": shape.whole,
    "first": shape.number,
    "last": shape.number,
    "resolution": shape.optional(_resolution),
    "cause": lambda value: shape.text(value, MAX_LABEL),
}


def _plain(entry: Latch) -> dict[str, Any]:
    """Return a latch as a JSON-ready object; faster than dataclasses.asdict, which the log would have to wait for."""
    plain = {name: getattr(entry, name) for name in _LATCH}
    why = entry.resolution
    plain["resolution"] = None if why is None else {name: getattr(why, name) for name in _RESOLUTION}
    return plain


class LatchStore(Generic[KeyT]):
    """All latches of one kind; at most `limit` keys, further ones are counted in `overflow` and dropped."""

    def __init__(self, key_type: Callable[..., KeyT], limit: int) -> None:
        self._key_type = key_type
        self._limit = limit
        self._latches: dict[KeyT, Latch] = {}
        self.overflow = 0

    def __len__(self) -> int:
        return len(self._latches)

    def items(self) -> Iterator[tuple[KeyT, Latch]]:
        """Yield every key ever seen since the boot with its latch, in order of first appearance."""
        return iter(self._latches.items())

    def get(self, key: KeyT) -> Latch | None:
        """Return the latch of this key, or None."""
        return self._latches.get(key)

    def record(
        self, key: KeyT, at: float, resolution: Resolution | None = None, *, cause: str = "", latch: bool = True
    ) -> Latch | None:
        """Count one more event under `key`, which holds the level unless `latch` is False; return None over the limit.

        The worst resolution and the first cause of the level are kept.
        """
        entry = self._latches.get(key)
        if entry is None:
            if len(self._latches) >= self._limit:
                self.overflow += 1
                return None
            entry = self._latches[key] = Latch()
        entry.total += 1
        if not latch:
            return entry
        if not entry.latched:
            entry.latched, entry.count, entry.first, entry.last = True, 0, at, at
            entry.resolution, entry.cause = None, ""
        entry.count += 1
        if at > entry.last:
            entry.last = at
        elif at < entry.first:
            entry.first = at
        if resolution is not entry.resolution:
            entry.resolution = worse(entry.resolution, resolution)
        entry.cause = entry.cause or cause
        return entry

    def clear(self, wanted: Callable[[KeyT], bool], until: float) -> int:
        """End the wanted levels whose last event is not after `until` (unix seconds); return how many."""
        cleared = 0
        for key, entry in self._latches.items():
            if entry.latched and entry.last <= until and wanted(key):
                entry.latched = False
                cleared += 1
        return cleared

    def adopt(self, uuid_of: Callable[[str], str]) -> None:
        """Give keys with an address but no UUID the one that `uuid_of` knows by now."""
        for key in list(self._latches):
            if key[0] == "" and (uuid := uuid_of(key[1])):
                self._rename(key, self._key_type(uuid, *key[1:]))

    def _rename(self, old: KeyT, new: KeyT) -> None:
        entry = self._latches.pop(old)
        into = self._latches.get(new)
        if into is None:
            self._latches[new] = entry
            return
        into.total += entry.total
        if not entry.latched:
            return
        if not into.latched:
            into.latched, into.count, into.first, into.last = True, entry.count, entry.first, entry.last
            into.resolution, into.cause = entry.resolution, entry.cause
            return
        into.count += entry.count
        into.first, into.last = min(into.first, entry.first), max(into.last, entry.last)
        into.resolution, into.cause = worse(entry.resolution, into.resolution), into.cause or entry.cause

    def forget(self) -> None:
        """Forget everything: a new boot begins."""
        self._latches.clear()
        self.overflow = 0

    def dump(self) -> list[dict[str, Any]]:
        """Return the content as JSON-ready objects."""
        return [{"key": list(key), **_plain(entry)} for key, entry in self._latches.items()]

    def parse(self, dumped: object) -> dict[KeyT, Latch]:
        """Return the latches that `dump` gave; raise KeyError or ValueError on anything else."""
        latches: dict[KeyT, Latch] = {}
        for raw in shape.items(dumped, self._limit):
            parts = [shape.text(part, MAX_LABEL) for part in shape.items(shape.mapping(raw)["key"], MAX_PARTS)]
            latches[self._key(parts)] = Latch(**shape.fields(raw, _LATCH))
        return latches

    def _key(self, parts: list[str]) -> KeyT:
        try:
            key = self._key_type(*parts)
        except TypeError:
            raise ValueError(f"not a key: {parts}") from None
        code = getattr(key, "xid", None) or getattr(key, "sxid", None) or "0"
        if not (code.isascii() and code.isdigit()):
            raise ValueError(f"not a code: {code!r}")
        return key

    def hold(self, latches: Mapping[KeyT, Latch]) -> None:
        """Take over latches that `parse` gave."""
        self._latches = dict(latches)
