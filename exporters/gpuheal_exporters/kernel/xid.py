"""Xid headlines of the NVIDIA kernel driver: one line in, one frozen value out.

Forms: NVIDIA Xid guide, and nv_error strings of the open kernel modules 515-595. Up to R565 `pid='<unknown>',
name=<unknown>` is printed, from R570 both are left out when unknown; the oldest drivers print no `PCI:`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpuheal_exporters.host.identity import normalise_pci

_HEAD = re.compile(
    r"NVRM: Xid \((?:(?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?"
    r"(?: GPU-I:(?P<gi>\d{1,3}))?(?: GPU-CI:(?P<ci>\d{1,3}))?"
    r"|(?P<uuid>GPU-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}))\): "
    r"(?P<xid>\d{1,6})\b[, ]*(?P<rest>.*)",
    re.DOTALL,
)
_PID = re.compile(r"pid=(?:(\d{1,10})|'?<unknown>'?)(?:, ?|\Z)")
# A process name may hold commas (15 bytes, TASK_COMM_LEN): it ends where one of the driver's own texts begins.
_TEXT_START = re.compile(
    r", (?=Ch |Channel |channel |Graphics |Timeout |GSP |NVLink|Contained|Uncontained|Class Error"
    r"|Row Remap|Dynamic Page|An uncorrectable|High single|GDDR|GPU |SEC_FAULT|MMU "
    r"|[A-Z][A-Z0-9_/]{2,40} +(?:Fatal|Nonfatal) )"
)
_COMM_MAX = 15
_LOCATION = re.compile(r"\(GPC (\d+), TPC (\d+), SM (\d+)\)")
_CAUSED_BY = re.compile(r"caused by previous Xid (\d{1,6})\s*\Z")
_LINK = re.compile(r"\blink (\d{1,3})(?: ?\(((?:0x[0-9a-fA-F]{1,8}(?:, ?)?){1,12})\))?")
_RESET = re.compile(r"\bRST: (Yes|No), D-RST: (Yes|No)\s*\Z")
_RECOVERY = re.compile(r"changed from 0x([0-9a-fA-F]{1,8}) \([^)]{0,64}\) to 0x([0-9a-fA-F]{1,8})\b")
_NVLINK5 = re.compile(
    r"(?P<unit>[A-Z][A-Za-z0-9_/]{1,60}(?: Degraded)?) +(?P<severity>Fatal|Nonfatal) +XC(?P<xc>\d) +i(?P<injected>\d) +"
    r"Link +(?P<link>-?\d{1,3})(?: *\((?P<words>(?:0x[0-9a-fA-F]{1,8} *){1,12})\))?"
)
NVLINK5_XIDS = range(144, 151)
NVLINK_XIDS = frozenset((74, 136, 137))
RECOVERY_XID = 154
CLEANUP_XID = 45  # follows every other Xid and every killed job: never a cause itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where on the die an Xid 13 happened."""

    gpc: int
    tpc: int
    sm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Xid 154: the recovery step the driver wanted before and wants now (numbers of nvmlDeviceGetFieldValues field
    230).
    """

    before: int
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvlink5:
    """The coded part of Xid 144-150; `link` is -1 for an event without one, `words` is empty when the line was cut."""

    unit: str
    severity: str
    xc: int
    injected: int
    link: int
    words: tuple[int, ...]


class Xid(NamedTuple):
    """One Xid headline; None where the line says nothing. `pci` is normalised, `text` is what follows pid and name.

    A named tuple, because a flood makes tens of thousands of them a second.
    """

    xid: int
    text: str
    pci: str | None = None
    uuid: str | None = None
    gi: int | None = None
    ci: int | None = None
    pid: int | None = None
    name: str | None = None
    location: Location | None = None
    link: int | None = None
    regs: tuple[int, ...] = ()
    rst: bool | None = None
    d_rst: bool | None = None
    caused_by: int | None = None
    recovery: Recovery | None = None
    nvlink5: Nvlink5 | None = None


def _split_name(rest: str) -> tuple[str | None, str]:
    """Take `name=…` off the front: (name or None, what follows)."""
    if not rest.startswith("name="):
        return None, rest
    body = rest[5:]
    if body.startswith("<unknown>"):
        return None, body[9:].lstrip(", ")
    known = _TEXT_START.search(body)
    end = known.start() if known is not None and known.start() <= _COMM_MAX else body.find(", ")
    if end < 0:
        return body.strip()[:_COMM_MAX] or None, ""
    return body[:end] or None, body[end + 2 :]


def _hex_words(text: str | None) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in re.findall(r"0x[0-9a-fA-F]+", text or ""))


def _nvlink5(text: str) -> Nvlink5 | None:
    match = _NVLINK5.match(text)
    if match is None:
        return None
    return Nvlink5(
        unit=match["unit"],
        severity=match["severity"],
        xc=int(match["xc"]),
        injected=int(match["injected"]),
        link=int(match["link"]),
        words=_hex_words(match["words"]),
    )


def _details(code: int, text: str) -> dict[str, Any]:
    """The fields that depend on the code; only what is anchored in the driver's own text is believed."""
    if code == CLEANUP_XID:
        match = _CAUSED_BY.search(text) if "caused by" in text else None
        return {"caused_by": int(match[1])} if match else {}
    if code == RECOVERY_XID:
        match = _RECOVERY.search(text)
        return {"recovery": Recovery(before=int(match[1], 16), now=int(match[2], 16))} if match else {}
    if code in NVLINK5_XIDS:
        nvlink5 = _nvlink5(text)
        return {"nvlink5": nvlink5, "link": nvlink5.link if nvlink5.link >= 0 else None} if nvlink5 else {}
    if code == 13:
        match = _LOCATION.search(text)
        return {"location": Location(gpc=int(match[1]), tpc=int(match[2]), sm=int(match[3]))} if match else {}
    if code in (94, 95):
        match = _RESET.search(text)
        return {"rst": match[1] == "Yes", "d_rst": match[2] == "Yes"} if match else {}
    if code in NVLINK_XIDS:
        match = _LINK.search(text)
        return {"link": int(match[1]), "regs": _hex_words(match[2])} if match else {}
    return {}


def parse_xid(message: str) -> Xid | None:
    """The Xid in a message whose log prefix was taken off, or None; never raises."""
    head = _HEAD.match(message)
    if head is None:
        return None
    pci, gi, ci, uuid, number, rest = head.groups()
    code = int(number)
    pid_match = _PID.match(rest)
    pid = name = None
    if pid_match is not None:
        pid = int(pid_match[1]) if pid_match[1] else None
        name, rest = _split_name(rest[pid_match.end() :])
    found = Xid(
        xid=code,
        text=rest.rstrip(),
        pci=normalise_pci(pci) if pci else None,
        uuid=uuid,
        gi=int(gi) if gi else None,
        ci=int(ci) if ci else None,
        pid=pid,
        name=name,
    )
    details = _details(code, rest)
    return found._replace(**details) if details else found
