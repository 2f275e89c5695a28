"""The published meaning of a bare code, and the resolution of every event by the order of authority."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from gpuheal_exporters.catalogue import nvlink4, nvlink5
from gpuheal_exporters.catalogue.resolution import ACTIONS, Resolution, worse
from gpuheal_exporters.catalogue.table import rows
from gpuheal_exporters.kernel.sxid import Sxid
from gpuheal_exporters.kernel.xid import NVLINK5_XIDS, RECOVERY_XID, Xid

RECOVERY_ACTIONS = {int(value): action for value, action in rows("recovery.tsv")}
"""Xid 154: number of NVML's recovery action (field 230) → what it asks for."""
_FATAL = re.compile(r"\bFatal\b")
_SEVERITY = {"fatal": "fatal", "degraded": "non_fatal", "warning": "non_fatal", "info": "non_fatal"}


@dataclass(frozen=True, slots=True, kw_only=True)
class XidRow:
    """A row of data/xids.tsv."""

    name: str
    action: str
    severity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SxidRow:
    """A row of data/sxids.tsv: `reach` is device, link or -, `words` holds F and N for the severities the driver can
    print.
    """

    action: str
    reach: str
    words: str


@lru_cache(maxsize=1)
def xid_rows() -> dict[int, XidRow]:
    """Return the Xid table by code."""
    return {
        int(code): XidRow(name=name, action=action, severity=severity)
        for code, name, action, severity in rows("xids.tsv")
    }


@lru_cache(maxsize=1)
def sxid_rows() -> dict[int, SxidRow]:
    """Return the SXid table by code."""
    return {
        int(code): SxidRow(action=action, reach=reach, words=words) for code, action, reach, words in rows("sxids.tsv")
    }


@lru_cache(maxsize=512)
def _from_table(code: int) -> Resolution:
    row = xid_rows().get(code)
    if row is None:
        return Resolution(action="alert", basis="unknown", detail="code is not in any published table")
    return Resolution(action=row.action, basis="catalog", severity=_SEVERITY.get(row.severity, ""), detail=row.name)


def _from_verdict(message: Xid) -> Resolution:
    if message.details.recovery is None:
        return Resolution(
            action="alert", basis="xid154", detail="recovery action changed, but the new value is truncated"
        )
    value = message.details.recovery.now
    action = RECOVERY_ACTIONS.get(value, "alert")
    return Resolution(
        action=action, basis="xid154", severity="fatal" if value else "", detail=f"recovery action {value}"
    )


def _from_reset_words(message: Xid) -> Resolution | None:
    """Return what Xid 94 and 95 say themselves about a reset; None if the line was cut before that."""
    if message.details.rst is None:
        return None
    if message.details.rst:
        return Resolution(action="gpu_reset", basis="message", severity="fatal", detail="RST: Yes")
    if message.details.d_rst:
        return Resolution(action="gpu_reset_after_drain", basis="message", severity="non_fatal", detail="D-RST: Yes")
    return Resolution(action="alert", basis="message", severity="non_fatal", detail="no reset required")


def resolve_xid(message: Xid, driver_version: str = "", *, drill: bool = False) -> Resolution:
    """Return what this event asks for, by the strongest source the line carries."""
    if message.xid == RECOVERY_XID:
        return _from_verdict(message)
    decided: Resolution | None = None
    if message.xid in (94, 95):
        decided = _from_reset_words(message)
    elif message.details.nvlink5 is not None:
        decided = nvlink5.decode(message.xid, message.details.nvlink5, driver_version, drill=drill).resolution
    elif message.xid == 74 and message.details.regs:
        decided = nvlink4.decode(message.details.regs)
    elif message.xid in NVLINK5_XIDS and _FATAL.search(message.text):
        decided = worse(_from_table(message.xid), nvlink5.by_word(fatal=True, what="text in an unknown format"))
    return decided or _from_table(message.xid)


def resolve_sxid(message: Sxid) -> tuple[Resolution, str]:
    """Return what a switch event asks for, and its reach: device (every GPU of the fabric), link, or empty.

    The severity word of the line outranks the table: Non-fatal and Correctable are alerts at most (codes that need a
    reboot anyway excepted); Fatal resets the GPUs of the link unless the table knows this code as fatal and says
    otherwise.
    """
    row = sxid_rows().get(message.sxid)
    reach = "" if row is None or row.reach == "-" else row.reach
    severity = message.severity or ""
    if row is None:
        action = "gpu_reset" if severity == "fatal" else "alert"
        return Resolution(
            action=action, basis="unknown", severity=severity, detail="code is not in any published table"
        ), reach
    action, basis = row.action, "catalog"
    strong = ACTIONS.index(action) > ACTIONS.index("alert")
    if severity in ("non_fatal", "correctable") and strong and action != "reboot":
        action, basis = "alert", "message"
    elif severity == "fatal" and not strong and "F" not in row.words:
        action, basis = "gpu_reset", "message"
    return Resolution(action=action, basis=basis, severity=severity), reach
