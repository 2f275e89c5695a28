"""One entry for every kernel message this exporter understands."""

from __future__ import annotations

from gpuheal_exporters.kernel.driverline import DriverLine, parse_driver_line
from gpuheal_exporters.kernel.sxid import Sxid, SxidDetail, parse_sxid
from gpuheal_exporters.kernel.xid import Xid, parse_xid

Message = Xid | Sxid | SxidDetail | DriverLine


def parse_message(text: str) -> Message | None:
    """Return the meaning of a message whose log prefix was taken off, or None; never raises, whatever the text."""
    if text.startswith("NVRM: Xid "):
        return parse_xid(text)
    if text.startswith("nvidia-nvswitch"):
        return parse_sxid(text) or parse_driver_line(text)
    return parse_driver_line(text)


def looks_like_driver(text: str) -> str:
    """Return why a text that `parse_message` does not know looks like the driver's, or an empty text.

    `headline` is an Xid or SXid of a new shape, which nobody should miss; `message` any other line of the driver, most
    of which say nothing about health.
    """
    if text.startswith(("NVRM: Xid", "nvidia-nvswitch")):
        return "headline" if "Xid" in text else "message"
    return "message" if text.startswith("NVRM:") else ""
