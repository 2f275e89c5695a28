"""Lines about a GPU that carry no Xid: identity, a lost GPU, failed initialisation, PCIe errors.

Sources: NVRM messages of the open kernel modules; drivers/pci/pcie/aer.c and drivers/pci/hotplug/pciehp_ctrl.c of the
kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuheal_exporters.host.identity import normalise_pci

_ADDRESS = r"([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?"
_UUID = re.compile(rf"NVRM: GPU at PCI:{_ADDRESS}: (GPU-[0-9a-fA-F-]{{8,40}})")
_BOARD_SERIAL = re.compile(r"NVRM: GPU Board Serial Number: (\S{1,64})")
_GPU = re.compile(rf"NVRM: GPU {_ADDRESS}: (.*)", re.DOTALL)
_GPU_SERIAL = re.compile(r"GPU serial number is (\S{1,64}?)\.?\s*\Z")
_INIT_FAILED = re.compile(r"(?:RmInitAdapter|rm_init_adapter) failed")
_INIT_FAILED_MINOR = re.compile(r"NVRM: rm_init_adapter failed for device bearing minor number (\d{1,6})")
_LOST = re.compile(
    rf"NVRM: The NVIDIA GPU {_ADDRESS}(?P<tail>\s+NVRM: \(PCI ID: [^)]{{1,40}}\) installed in this system has"
    r"\s+NVRM: fallen off the bus)?"
)
_LOST_TAIL = "NVRM: fallen off the bus and is not responding"
_GSP_LIMITED = re.compile(rf"NVRM: Rate limiting GSP RPC error prints for GPU at PCI:{_ADDRESS}")
_UVM_FATAL = re.compile(r"NVRM: (?:[\w ]{0,40}: ){0,2}uvm encountered global fatal error")
_RXDET = re.compile(r"NVRM: knvlinkDiscoverPostRxDetLinks\w*: .*failed")
_SEVERITY = r"(?:Corrected|Correctable|Uncorrect(?:ed|able)(?: \((?:Fatal|Non-Fatal)\))?)"
_DEVICE = rf"(?P<driver>\w[\w-]{{0,30}}) {_ADDRESS.replace('(', '(?P<pci>', 1)}: "
_AER_REPORT = re.compile(
    rf"{_DEVICE}AER: (?:Multiple )?(?P<severity>{_SEVERITY}) error (?:message )?received(?: from|:) "
    rf"(?:id=\w+|{_ADDRESS.replace('(', '(?P<source>', 1)})",
    re.IGNORECASE,
)
_AER_ERROR = re.compile(rf"{_DEVICE}(?:AER: )?PCIe Bus Error: severity=(?P<severity>{_SEVERITY})", re.IGNORECASE)
_LINK_DOWN = re.compile(rf"(?P<driver>pcieport) {_ADDRESS}: (?:pciehp: )?Slot\([\w-]{{1,16}}\): Link Down")
GPU_DRIVER = "nvidia"  # as the kernel prefixes its lines about a device: the name of the driver bound to it

# What of this is a fault, kept as a level; the rest names or belongs to one.
FAULT_KINDS = (
    "gpu_lost",
    "init_failed",
    "gsp_rate_limited",
    "uvm_fatal",
    "nvlink_rxdet_failed",
    "aer",
    "pcie_link_down",
)
BUS_KINDS = frozenset(("aer", "pcie_link_down"))  # told of any device of the bus: a fault only where it is a GPU's


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverLine:
    """A known line; `kind` is a fault kind, or gpu_uuid, board_serial, gpu_serial, gpu_lost_head, gpu_lost_tail.

    Of PCIe lines `driver` is the one bound to the device that the line begins with, `reporter` the port that told.
    """

    kind: str
    text: str
    pci: str | None = None
    uuid: str | None = None
    serial: str | None = None
    minor: int | None = None
    reporter: str | None = None
    severity: str | None = None
    driver: str | None = None


def _severity(words: str) -> str:
    lower = words.lower()
    if lower.startswith("correct"):
        return "corrected"
    return "fatal" if "(fatal" in lower else "non_fatal"


def _nvrm(message: str) -> DriverLine | None:
    if match := _UUID.match(message):
        return DriverLine(kind="gpu_uuid", text=message, pci=normalise_pci(match[1]), uuid=match[2])
    if match := _GPU.match(message):
        pci, rest = normalise_pci(match[1]), match[2]
        if rest.startswith("GPU has fallen off the bus"):
            return DriverLine(kind="gpu_lost", text=message, pci=pci)
        if serial := _GPU_SERIAL.match(rest):
            return DriverLine(kind="gpu_serial", text=message, pci=pci, serial=serial[1])
        return DriverLine(kind="init_failed", text=message, pci=pci) if _INIT_FAILED.match(rest) else None
    if match := _LOST.match(message):
        kind = "gpu_lost" if match["tail"] else "gpu_lost_head"
        return DriverLine(kind=kind, text=message, pci=normalise_pci(match[1]))
    if message.startswith(_LOST_TAIL):
        return DriverLine(kind="gpu_lost_tail", text=message)
    if match := _BOARD_SERIAL.match(message):
        return DriverLine(kind="board_serial", text=message, serial=match[1])
    if match := _INIT_FAILED_MINOR.match(message):
        return DriverLine(kind="init_failed", text=message, minor=int(match[1]))
    if match := _GSP_LIMITED.match(message):
        return DriverLine(kind="gsp_rate_limited", text=message, pci=normalise_pci(match[1]))
    if _UVM_FATAL.match(message):
        return DriverLine(kind="uvm_fatal", text=message)
    if _RXDET.match(message):
        return DriverLine(kind="nvlink_rxdet_failed", text=message)
    return None


def _pcie(message: str) -> DriverLine | None:
    if match := _AER_REPORT.match(message):
        reporter, source = normalise_pci(match["pci"]), match["source"]
        return DriverLine(
            kind="aer",
            text=message,
            pci=normalise_pci(source) if source else reporter,
            reporter=reporter,
            severity=_severity(match["severity"]),
            driver=match["driver"],
        )
    if match := _AER_ERROR.match(message):
        pci, severity = normalise_pci(match["pci"]), _severity(match["severity"])
        return DriverLine(kind="aer", text=message, pci=pci, severity=severity, driver=match["driver"])
    if match := _LINK_DOWN.match(message):
        return DriverLine(kind="pcie_link_down", text=message, pci=normalise_pci(match[2]), driver=match["driver"])
    return None


def parse_driver_line(message: str) -> DriverLine | None:
    """Return the line's meaning in a message whose log prefix was taken off, or None; never raises."""
    return _nvrm(message) if message.startswith("NVRM: ") else _pcie(message)
