"""`gpuheal exporter --parse`: what each line of a log means, as one JSON object per recognised line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from gpuheal_exporters.kernel.driverline import BUS_KINDS, GPU_DRIVER, DriverLine
from gpuheal_exporters.kernel.entries import entries
from gpuheal_exporters.kernel.kmsg import KernelRecord, parse_line
from gpuheal_exporters.kernel.message import Message, looks_like_driver, parse_message
from gpuheal_exporters.kernel.sxid import Sxid, SxidDetail
from gpuheal_exporters.kernel.xid import Xid

MAX_WAITING = 1024


def _xid(message: Xid) -> dict[str, Any]:
    out: dict[str, Any] = {
        "kind": "xid",
        "pci": message.pci,
        "xid": message.xid,
        "pid": message.pid,
        "name": message.name,
    }
    optional = {
        "uuid": message.uuid,
        "gi": message.gpu.gi,
        "ci": message.gpu.ci,
        "link": message.details.link,
        "regs": list(message.details.regs) or None,
        "rst": message.details.rst,
        "d_rst": message.details.d_rst,
        "caused_by": message.details.caused_by,
    }
    out |= {key: value for key, value in optional.items() if value is not None}
    if (location := message.details.location) is not None:
        out |= {"gpc": location.gpc, "tpc": location.tpc, "sm": location.sm}
    if message.xid == 154:
        recovery = message.details.recovery
        out["recovery"] = None if recovery is None else {"from": recovery.before, "to": recovery.now}
    if message.details.nvlink5 is not None:
        coded = message.details.nvlink5
        out["nvlink5"] = {
            "unit": coded.unit,
            "severity": coded.severity,
            "xc": coded.xc,
            "injected": coded.injected,
            "link": coded.link,
            "words": list(coded.words),
        }
    out["text"] = message.text
    return out


def _driver_line(message: DriverLine) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": message.kind}
    fields = ("pci", "uuid", "serial", "minor", "reporter", "severity")
    out |= {key: value for key in fields if (value := getattr(message, key)) is not None}
    if message.kind == "init_failed":
        out.setdefault("pci", None)
    return out


def describe(message: Message) -> dict[str, Any]:
    """Return the message as a JSON object with a `kind`; keys without a value are null or left out."""
    if isinstance(message, Xid):
        return _xid(message)
    if isinstance(message, DriverLine):
        return _driver_line(message)
    head = {"switch": message.switch, "pci": message.pci, "sxid": message.sxid}
    if isinstance(message, SxidDetail):
        return {"kind": "sxid_detail", **head}
    assert isinstance(message, Sxid)
    return {"kind": "sxid", **head, "severity": message.severity, "link": message.link, "first": message.first}


def describe_record(
    record: KernelRecord, *, drill: bool = False, message: Message | None = None
) -> dict[str, Any] | None:
    """Return what a record says, or None if nothing is recognised or user space wrote it (unless `drill`).

    `message` is the record's meaning, if the caller knows it already.
    """
    if not (record.from_kernel or drill):
        return None
    message = message or parse_message(record.text)
    if message is None:
        return None
    out = describe(message)
    if record.at is not None:
        out["at"] = round(record.at, 6)
    if record.seq is not None:
        out["kmsg"] = {"prio": record.prio, "seq": record.seq, "usec": record.usec}
    return out


@dataclass(slots=True, kw_only=True)
class Leftover:
    """Lines that were left out on purpose, and what people should hear of them."""

    not_understood: int = 0
    first: str = ""
    other_devices: int = 0
    foreign: int = 0

    def told(self) -> list[str]:
        """Return a sentence for each kind of lines left out."""
        said = []
        if self.not_understood:
            said.append(f"{self.not_understood} NVIDIA driver lines could not be parsed; {self.first}")
        if self.foreign:
            said.append(f"{self.foreign} lines have the driver's words and were written by a program; left out")
        if self.other_devices:
            said.append(f"{self.other_devices} PCIe errors of devices that are not known to be GPUs were ignored")
        return said


class _Bus:
    """PCIe lines wait until some line shows that their device is a GPU or a port above one."""

    def __init__(self) -> None:
        self._gpus: set[str] = set()
        self._waiting: list[tuple[DriverLine, dict[str, Any]]] = []

    def take(self, message: Message, described: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what can be told by now: this line, and those before it that waited for its address."""
        if isinstance(message, DriverLine) and message.kind in BUS_KINDS and not self._theirs(message):
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append((message, described))
            return []
        if not isinstance(message, Sxid | SxidDetail) and message.pci:
            self._gpus.add(message.pci)
        freed = [text for line, text in self._waiting if self._theirs(line)]
        self._waiting = [(line, text) for line, text in self._waiting if line.pci not in self._gpus]
        return [*freed, described]

    def _theirs(self, line: DriverLine) -> bool:
        if line.driver != GPU_DRIVER and line.pci not in self._gpus:
            return False
        self._gpus.update(each for each in (line.pci, line.reporter) if each)
        return True

    @property
    def waiting(self) -> int:
        """Return how many lines nothing has shown to be a GPU's."""
        return len(self._waiting)


def parse_lines(lines: Iterable[str], *, drill: bool = False, left: Leftover | None = None) -> Iterator[dict[str, Any]]:
    """Yield one object per recognised line, each with its `line` number from 1; `left` counts what was left out.

    A PCIe error comes after the line that shows its device to be a GPU, if that stands below it.
    """
    left = Leftover() if left is None else left
    bus = _Bus()
    kernels = True
    for number, line in entries(lines):
        record = parse_line(line)
        message = parse_message(record.text)
        continues = _continues(line, record)
        if not continues and record.text.strip():
            kernels = _of_driver(record)
        if message is None:
            if record.from_kernel and (not record.known or looks_like_driver(record.text) == "headline"):
                left.not_understood += 1
                left.first = left.first or f"the first is line {number}"
            left.foreign += not record.from_kernel and not record.known
            continue
        theirs = kernels or drill or not continues
        described = describe_record(record, drill=drill, message=message) if theirs else None
        left.foreign += described is None
        if described is not None:
            yield from bus.take(message, {"line": number, **described})
    left.other_devices = bus.waiting


def _continues(line: str, record: KernelRecord) -> bool:
    """Return whether the line is indented and says nothing of itself: one more line of the message before it."""
    return line[:1] in (" ", "\t") and record.text in (line, line.strip())


def _of_driver(record: KernelRecord) -> bool:
    return record.from_kernel and record.known and looks_like_driver(record.text) != ""


def print_parsed(lines: Iterable[str], out: TextIO, *, drill: bool = False, left: Leftover | None = None) -> int:
    """Write `parse_lines` as JSON lines to `out`; return the number written."""
    count = 0
    for described in parse_lines(lines, drill=drill, left=left):
        out.write(json.dumps(described, ensure_ascii=False, separators=(",", ":")) + "\n")
        count += 1
    return count
