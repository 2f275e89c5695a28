"""Xid headlines of the NVIDIA kernel driver: one line in, one frozen value out.

Forms: NVIDIA Xid guide, and nv_error strings of the open kernel modules 515-595. Up to R565 `pid='<unknown>',
name=<unknown>` is printed, from R570 both are left out when unknown; the oldest drivers print no `PCI:`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gpuheal_exporters.host.identity import normalise_pci

_TAG = "NVRM: Xid ("
_WHO = re.compile(
    r"(?:(?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?"
    r"(?: GPU-I:(?P<gi>\d{1,3}))?(?: GPU-CI:(?P<ci>\d{1,3}))?"
    r"|(?P<uuid>GPU-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}))\Z"
)
_CODE = re.compile(r"(\d{1,6})\b[, ]*")
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
_MIN_WHO, _MAX_WHO = len(_TAG), 100
CLEANUP_XID = 45  # follows every other Xid and every killed job: never a cause itself

_DETAILED = frozenset((13, CLEANUP_XID, 94, 95, RECOVERY_XID, *NVLINK_XIDS, *NVLINK5_XIDS))


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


class Gpu(NamedTuple):
    """Whom a headline names: an address (normalised) or a UUID, and the MIG instance; None where it says nothing."""

    pci: str | None
    uuid: str | None = None
    gi: int | None = None
    ci: int | None = None


class Details(NamedTuple):
    """What only some codes say; only what is anchored in the driver's own text is believed."""

    location: Location | None = None
    link: int | None = None
    regs: tuple[int, ...] = ()
    rst: bool | None = None
    d_rst: bool | None = None
    caused_by: int | None = None
    recovery: Recovery | None = None
    nvlink5: Nvlink5 | None = None


NO_DETAILS = Details()


class Xid(NamedTuple):
    """One Xid headline; None where the line says nothing.

    Small and lazy, because a flood makes hundreds of thousands of them a second, and of a repeated event nobody asks
    for process and text.
    """

    xid: int
    gpu: Gpu
    rest: str
    details: Details = NO_DETAILS

    @property
    def pci(self) -> str | None:
        """Return the GPU's address."""
        return self.gpu.pci

    @property
    def uuid(self) -> str | None:
        """Return the GPU's UUID, if the headline has it in the address's place."""
        return self.gpu.uuid

    @property
    def pid(self) -> int | None:
        """Return the process that the headline names."""
        match = _PID.match(self.rest)
        return int(match[1]) if match is not None and match[1] else None

    @property
    def name(self) -> str | None:
        """Return the name of that process."""
        match = _PID.match(self.rest)
        return None if match is None else _split_name(self.rest[match.end() :])[0]

    @property
    def text(self) -> str:
        """Return what follows pid and name."""
        match = _PID.match(self.rest)
        text = self.rest if match is None else _split_name(self.rest[match.end() :])[1]
        return text.rstrip()


def _split_name(rest: str) -> tuple[str | None, str]:
    """Take `name=…` off the front: (name or None, what follows)."""
    if not rest.startswith("name="):
        return None, rest
    body = rest[5:]
    if body.startswith("<unknown>"):
        return None, body[9:].lstrip(", ")
    end = body.find(", ")
    if end < 0:
        return body.strip()[:_COMM_MAX] or None, ""
    if _TEXT_START.match(body, end) is None:  # not the usual case: a comma inside the name, or a text nobody knows
        known = _TEXT_START.search(body, end)
        end = known.start() if known is not None and known.start() <= _COMM_MAX else end
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


def _details(code: int, text: str) -> Details:
    """Return the fields that depend on the code."""
    if code == CLEANUP_XID:
        match = _CAUSED_BY.search(text) if "caused by" in text else None
        return Details(caused_by=int(match[1])) if match else NO_DETAILS
    if code == RECOVERY_XID:
        match = _RECOVERY.search(text)
        return Details(recovery=Recovery(before=int(match[1], 16), now=int(match[2], 16))) if match else NO_DETAILS
    if code in NVLINK5_XIDS:
        nvlink5 = _nvlink5(text)
        return Details(nvlink5=nvlink5, link=nvlink5.link if nvlink5.link >= 0 else None) if nvlink5 else NO_DETAILS
    if code == 13:
        match = _LOCATION.search(text)
        return (
            Details(location=Location(gpc=int(match[1]), tpc=int(match[2]), sm=int(match[3]))) if match else NO_DETAILS
        )
    if code in (94, 95):
        match = _RESET.search(text)
        return Details(rst=match[1] == "Yes", d_rst=match[2] == "Yes") if match else NO_DETAILS
    match = _LINK.search(text)
    return Details(link=int(match[1]), regs=_hex_words(match[2])) if match else NO_DETAILS


@lru_cache(maxsize=512)
def _gpu(text: str) -> Gpu | None:
    """Return whom the brackets of a headline name; a node has a handful of them."""
    who = _WHO.match(text)
    if who is None:
        return None
    pci, gi, ci, uuid = who.groups()
    return Gpu(normalise_pci(pci) if pci else None, uuid, int(gi) if gi else None, int(ci) if ci else None)


def parse_xid(message: str) -> Xid | None:
    """Return the Xid in a message whose log prefix was taken off, or None; never raises."""
    close = message.find("): ", _MIN_WHO, _MAX_WHO)
    if close < 0 or not message.startswith(_TAG):
        return None
    gpu, number = _gpu(message[_MIN_WHO:close]), _CODE.match(message, close + 3)
    if gpu is None or number is None:
        return None
    code, rest = int(number[1]), message[number.end() :]
    if code not in _DETAILED or (code == CLEANUP_XID and "caused by" not in rest):
        return Xid(code, gpu, rest)
    plain = Xid(code, gpu, rest)
    # What a program may have put into its name is no text of the driver's.
    return Xid(code, gpu, rest, _details(code, plain.text))
