"""`gpuheal exporter --parse`: what each line of a log means, as one JSON object per recognised line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from gpuheal_exporters.kernel.driverline import DriverLine
from gpuheal_exporters.kernel.kmsg import KernelRecord, parse_line
from gpuheal_exporters.kernel.message import Message, parse_message
from gpuheal_exporters.kernel.sxid import Sxid, SxidDetail
from gpuheal_exporters.kernel.xid import Xid


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
        "gi": message.gi,
        "ci": message.ci,
        "link": message.link,
        "regs": list(message.regs) or None,
        "rst": message.rst,
        "d_rst": message.d_rst,
        "caused_by": message.caused_by,
    }
    out |= {key: value for key, value in optional.items() if value is not None}
    if message.location is not None:
        out |= {"gpc": message.location.gpc, "tpc": message.location.tpc, "sm": message.location.sm}
    if message.xid == 154:
        recovery = message.recovery
        out["recovery"] = None if recovery is None else {"from": recovery.before, "to": recovery.now}
    if message.nvlink5 is not None:
        coded = message.nvlink5
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
    """The message as a JSON object with a `kind`; keys without a value are null or left out."""
    if isinstance(message, Xid):
        return _xid(message)
    if isinstance(message, DriverLine):
        return _driver_line(message)
    head = {"switch": message.switch, "pci": message.pci, "sxid": message.sxid}
    if isinstance(message, SxidDetail):
        return {"kind": "sxid_detail", **head}
    assert isinstance(message, Sxid)
    return {"kind": "sxid", **head, "severity": message.severity, "link": message.link, "first": message.first}


def describe_record(record: KernelRecord, *, drill: bool = False) -> dict[str, Any] | None:
    """What a record says, or None if nothing is recognised or user space wrote it (unless `drill`)."""
    if not (record.from_kernel or drill):
        return None
    message = parse_message(record.text)
    if message is None:
        return None
    out = describe(message)
    if record.seq is not None:
        out["kmsg"] = {"prio": record.prio, "seq": record.seq, "usec": record.usec}
    return out


def parse_lines(lines: Iterable[str], *, drill: bool = False) -> Iterator[dict[str, Any]]:
    """One object per recognised line, in order, each with its `line` number from 1."""
    for number, line in enumerate(lines, 1):
        described = describe_record(parse_line(line), drill=drill)
        if described is not None:
            yield {"line": number, **described}


def print_parsed(lines: Iterable[str], out: TextIO, *, drill: bool = False) -> int:
    """Write `parse_lines` as JSON lines to `out`; the number written."""
    count = 0
    for described in parse_lines(lines, drill=drill):
        out.write(json.dumps(described, ensure_ascii=False, separators=(",", ":")) + "\n")
        count += 1
    return count
