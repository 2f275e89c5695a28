"""NVLink5 (Blackwell): Xid 144-150 decoded to every row of NVIDIA's table that fits, and judged by the worst of them.

Message: `UNIT SEVERITY XCn in Link n (intrInfo errorStatus debug…)`. Drivers before R575 code intrInfo as V1, later
ones as V2; with an unknown driver a row fits if either form does. Several status bits may be set: an exact row wins,
otherwise each bit is looked up. What no row explains is judged by the severity word alone: Fatal resets, Nonfatal is
an alert, nothing is taken for healthy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gpuheal_exporters.catalogue.resolution import Resolution, worse
from gpuheal_exporters.catalogue.table import rows
from gpuheal_exporters.kernel.xid import Nvlink5

V2_BRANCH = 575
_LINK_UNITS = frozenset(("NETIR_LINK_EVT", "NETIR_LINK_DOWN"))
_REASON_SHIFT, _REASON_MASK = 20, 0x3F


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of data/nvlink5.tsv; `status` None stands for any value."""

    xid: int
    units: frozenset[str]
    v1: tuple[int, int]
    v2: tuple[int, int]
    status: int | None
    action: str
    severity: str
    bucket: str
    followup: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Every row that fits a message, the status bits no row explains, and the link-down reason (None for other
    events).
    """

    rows: tuple[Row, ...]
    unexplained: int
    reason: int | None
    resolution: Resolution


@lru_cache(maxsize=1)
def table() -> tuple[Row, ...]:
    """Return the decode rows in table order."""
    out: list[Row] = []
    for xid, units, m1, v1, m2, v2, status, action, severity, bucket, followup in rows("nvlink5.tsv"):
        out.append(
            Row(
                xid=int(xid),
                units=frozenset(units.split("/")),
                v1=(int(m1, 16), int(v1, 16)),
                v2=(int(m2, 16), int(v2, 16)),
                status=None if status == "*" else int(status, 16),
                action=action,
                severity=severity,
                bucket=bucket,
                followup=followup,
            )
        )
    return tuple(out)


@lru_cache(maxsize=1)
def reasons() -> dict[int, tuple[str, str]]:
    """Return why a link went down, by number: what it means, and who is to blame (empty: nobody)."""
    return {int(value): (text, "" if blames == "-" else blames) for value, text, blames in rows("nvlink5-reasons.tsv")}


def driver_branch(version: str) -> int | None:
    """Return the branch number of a driver version such as `570.124.06`, or None if there is none."""
    match = re.match(r"\s*(\d{3,4})\.", version)
    return int(match[1]) if match else None


def _fits(row: Row, word: int, branch: int | None) -> bool:
    first = word & row.v1[0] == row.v1[1]
    second = word & row.v2[0] == row.v2[1]
    if branch is None:
        return first or second
    return second if branch >= V2_BRANCH else first


def _by_status(candidates: Iterable[Row], status: int) -> tuple[tuple[Row, ...], int]:
    """Return the rows for a status word, and the bits of it that none of them explains."""
    found = list(candidates)
    exact = tuple(row for row in found if row.status is None or row.status == status)
    if exact:
        return exact, 0
    rest = status
    matched: list[Row] = []
    for row in found:
        single = row.status is not None and row.status.bit_count() == 1
        if single and row.status is not None and status & row.status:
            matched.append(row)
            rest &= ~row.status
    return tuple(matched), rest if matched else status


def by_word(*, fatal: bool, what: str) -> Resolution:
    """Return the resolution of a message that no row explains: Fatal fails closed, Nonfatal is an alert."""
    return Resolution(
        action="gpu_reset" if fatal else "alert",
        basis="message",
        severity="fatal" if fatal else "non_fatal",
        detail=f"{what}: not in the decode table; classified by the word {'Fatal' if fatal else 'Nonfatal'}",
    )


def decode(xid: int, coded: Nvlink5, driver_version: str = "", *, drill: bool = False) -> Decoded:
    """Return the meaning of an Xid 144-150; `resolution` asks for nothing if the event was injected for a test (unless
    `drill`).
    """
    names = frozenset(coded.unit.split("/"))
    reason: int | None = None
    matched: tuple[Row, ...] = ()
    unexplained = 0
    fits: list[Row] = []
    if len(coded.words) >= 2:
        word, status = coded.words[0], coded.words[1]
        branch = driver_branch(driver_version)
        if names & _LINK_UNITS:
            reason = word >> _REASON_SHIFT & _REASON_MASK
        fits = [row for row in table() if row.xid == xid and row.units & names and _fits(row, word, branch)]
        matched, unexplained = _by_status(fits, status)
    verdict = _judge(coded, matched, unexplained, reason)
    if coded.injected and not drill:
        verdict = Resolution(action="none", basis="injected", severity=verdict.severity, detail="injected for a test")
    return Decoded(rows=matched, unexplained=unexplained, reason=reason, resolution=verdict)


def _judge(coded: Nvlink5, matched: tuple[Row, ...], unexplained: int, reason: int | None) -> Resolution:
    text, blames = reasons().get(reason, (f"reason {reason}", "")) if reason is not None else ("", "")
    worst: Resolution | None = None
    for row in matched:
        detail = f"{coded.unit}: {text}" if text else coded.unit
        judged = Resolution(
            action=row.action,
            basis="decode",
            severity=row.severity,
            blames=blames,
            followup=row.followup,
            detail=detail,
        )
        worst = worse(worst, judged)
    if worst is None or unexplained:
        worst = worse(worst, by_word(fatal=coded.severity == "Fatal", what=coded.unit))
    assert worst is not None
    return worst
