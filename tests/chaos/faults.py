"""What breaks: GPU faults by short names, with who would witness each of them on a real site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuheal_lab.fleet.machine import GpuFault
from gpuheal_responder.core.sighting import WitnessClass

LINE = "NVRM: Xid (PCI:{{pci}}): {xid}, pid='<unknown>', name=<unknown>, a line of the simulated driver."
XID = re.compile(r"Xid \(PCI:(?P<pci>[0-9a-f:.]+)\): (?P<xid>\d+),")
EVALUATION = timedelta(seconds=5)
"""Time between two evaluations of the rules."""
REBOOT = frozenset({"reboot"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault of the catalogue as this suite plays it."""

    slug: str
    classes: tuple[WitnessClass, ...]
    xid: int | None = None
    lost: bool = False
    severity: str = "critical"


BUS = Kind(slug="gpu-fell-off-bus", xid=79, lost=True, classes=(WitnessClass.KERNEL, WitnessClass.NVML))
GSP = Kind(slug="gpu-gsp-timeout", xid=119, classes=(WitnessClass.KERNEL, WitnessClass.DCGM))
MEMORY = Kind(slug="gpu-memory-uncontained", xid=95, classes=(WitnessClass.KERNEL, WitnessClass.DRIVER))
FAINT = Kind(slug="gpu-suspect-repeat", severity="warning", classes=(WitnessClass.KUBERNETES,))
KINDS: Mapping[str, Kind] = {k.slug: k for k in (BUS, GSP, MEMORY, FAINT)}
BY_XID: Mapping[int, Kind] = {k.xid: k for k in KINDS.values() if k.xid is not None}


def _fault(kind: Kind, *, cured: bool = True, relapse: timedelta | None = None) -> GpuFault:
    return GpuFault(
        slug=kind.slug,
        kernel_lines=() if kind.xid is None else (LINE.format(xid=kind.xid),),
        xid=kind.xid,
        lost=kind.lost,
        unhealthy=kind is not FAINT,
        cured_by=REBOOT if cured else frozenset(),
        relapse_after=relapse,
    )


FAULTS: Mapping[str, GpuFault] = {
    "bus": _fault(BUS),
    "gsp": _fault(GSP),
    "memory": _fault(MEMORY),
    "dead": _fault(BUS, cured=False),
    "relapse": _fault(GSP, relapse=timedelta(seconds=90)),
    "faint": _fault(FAINT),
}
"""By the name that schedules use: `dead` is cured by nothing, `relapse` comes back, `faint` has one weak witness."""


def evaluated(now: datetime) -> datetime:
    """Return when the rules were last evaluated; what happened since then nobody knows yet."""
    return now - timedelta(seconds=now.timestamp() % EVALUATION.total_seconds())
