"""NVSwitch SXid lines: the headline of an event and its follow-up lines (open kernel modules, nvswitch error
reporting).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuheal_exporters.host.identity import normalise_pci

_HEAD = re.compile(
    r"nvidia-nvswitch(?P<switch>\d{1,3}): SXid "
    r"\(PCI:(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?\): "
    r"(?P<sxid>\d{1,6})\b[, ]*(?P<rest>.*)",
    re.DOTALL,
)
_SEVERITY = re.compile(r"(Fatal|Non-fatal|Correctable)\b[, ]*")
_LINK = re.compile(r"Link (\d{1,3})\b")
_DETAIL = re.compile(r"(?:Severity \d+ Engine instance|Data \{)")
_SEVERITIES = {"Fatal": "fatal", "Non-fatal": "non_fatal", "Correctable": "correctable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sxid:
    """The headline of a switch event; `severity` is fatal, non_fatal, correctable or None where the driver prints no
    word.
    """

    switch: int
    pci: str
    sxid: int
    text: str
    severity: str | None = None
    link: int | None = None
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SxidDetail:
    """A follow-up line of an event: belongs to the headline of the same switch and code, never an own event."""

    switch: int
    pci: str
    sxid: int
    text: str


def parse_sxid(message: str) -> Sxid | SxidDetail | None:
    """Return the switch line in a message whose log prefix was taken off, or None; never raises."""
    head = _HEAD.match(message)
    if head is None:
        return None
    switch, pci, sxid = int(head["switch"]), normalise_pci(head["pci"]), int(head["sxid"])
    rest = head["rest"].rstrip()
    if _DETAIL.match(rest):
        return SxidDetail(switch=switch, pci=pci, sxid=sxid, text=rest)
    word = _SEVERITY.match(rest)
    text = rest[word.end() :] if word else rest
    link = _LINK.match(text)
    return Sxid(
        switch=switch,
        pci=pci,
        sxid=sxid,
        text=text,
        severity=_SEVERITIES[word[1]] if word else None,
        link=int(link[1]) if link else None,
        first=text.endswith("(First)"),
    )
