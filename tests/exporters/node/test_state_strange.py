"""One node's state fed with lines that are nobody's, everybody's or of no known shape, and with files of any shape."""

from __future__ import annotations

import json

import pytest
from tests.exporters.node.test_state import PCI, UUID, make, xid

from gpuheal_exporters.node.latch import FaultKey


def test_pcie_errors_of_other_cards_are_no_gpus_fault() -> None:
    """Errors of a network card, a root port and a switch make no level and no phantom GPU; they are counted."""
    state = make()
    for line in (
        "pcieport 0000:00:00.0: AER: Uncorrectable (Fatal) error message received from 0000:00:00.0",
        "mlx5_core 0000:01:00.0: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Transaction Layer",
        "nvidia-nvswitch 0000:c1:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer",
        "pcieport 0000:02:00.0: pciehp: Slot(3): Link Down",
    ):
        state.feed_line(line, 1.0)
    assert (len(state.levels.faults), len(state.events), state.counts.other_devices) == (0, 0, 4)


def test_pcie_errors_of_a_gpu_are_its_whoever_drives_it() -> None:
    """The driver's name, the inventory, the bus, or a port above several GPUs make an error a GPU's."""
    state = make()
    state.addresses.on_bus = frozenset(("0000:77:00",))
    state.addresses.upstream = {"0000:37:01": ""}
    error = "PCIe Bus Error: severity=Corrected, type=Physical Layer"
    for driver, pci in (
        ("nvidia", "0000:99:00"),
        ("vfio-pci", PCI),
        ("pcieport", "0000:37:01"),
        ("vfio-pci", "0000:77:00"),
    ):
        state.feed_line(f"{driver} {pci}.0: {error}", 1.0)
    addresses = {key.pci_bus_id: key.gpu_uuid for key, _ in state.levels.faults.items()}
    assert addresses == {"0000:99:00": "", PCI: UUID, "0000:37:01": "", "0000:77:00": ""}


def test_lines_that_look_like_the_drivers_are_counted_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown wrapping and a headline of a new shape are counted and said once; chatter is only counted."""
    state = make()
    for _ in range(2):
        state.feed_line("@@ NVRM: Xid (PCI:0000:3b:00): 79, gone", 1.0)
        state.feed_line("NVRM: Xid <0000:3b:00> 79", 1.0)
        state.feed_line("NVRM: loading NVIDIA UNIX Open Kernel Module", 1.0)
        state.feed_line("Jul 31 23:14:18 node01 app[7]: NVRM: Xid (PCI:0000:3b:00): 79, gone", 1.0)
    assert state.counts.not_understood == {"wrapping": 2, "headline": 2, "message": 2}
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "driver line not parsed (wrapping)",
        "driver line not parsed (headline)",
    ]
    assert len(state.levels.xids) == 0


def test_a_global_fatal_error_of_uvm_is_the_nodes() -> None:
    """It names no GPU: one level without an address, until the reboot it asks for."""
    state = make()
    text = "NVRM: nvGpuOpsReportFatalError: uvm encountered global fatal error 0x60, requiring os reboot to recover."
    state.feed_line(text, 1.0)
    assert [key for key, _ in state.levels.faults.items()] == [FaultKey("", "", "uvm_fatal", "")]
    state.reboot("boot-2")
    assert len(state.levels.faults) == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("xids", 0, "total"), "many"),
        (("xids", 0, "first"), float("nan")),
        (("xids", 0, "key"), ["", PCI, "x"]),
        (("xids", 0, "resolution", "action"), "unheard_of"),
        (("sxids", 0, "key"), ["3"]),
        (("events", 0, "at"), None),
        (("events", 0, "text"), "\ud800"),
        (("recovery",), []),
        (("learned",), {"nowhere": UUID}),
        (("cursor", "seq"), -1),
        (("boot_id",), 7),
    ],
)
def test_a_state_of_wrong_shape_is_refused_whole(path: tuple[str | int, ...], value: object) -> None:
    """JSON that is not what was written changes nothing: no half of it is loaded, and what was there still works."""
    full = make()
    xid(full, "79, gone", 1.0)
    xid(full, "154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", 1.0)
    full.feed_line("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 x", 1.0)
    full.feed_line(f"NVRM: GPU at PCI:0000:5a:00: {UUID}", 1.0)
    full.cursor = {"seq": 77}
    document = json.loads(json.dumps(full.dump()))
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    state = make()
    xid(state, "48, DBE", 2.0)
    before = state.dump()
    with pytest.raises((KeyError, ValueError)):
        state.load(document)
    assert state.dump() == before
