"""Lines about a GPU without an Xid: what the samples do not cover."""

from __future__ import annotations

import pytest

from gpuheal_exporters.kernel.driverline import parse_driver_line

PORT, GPU = "0000:3a:00", "0000:3b:00"


@pytest.mark.parametrize(
    ("text", "pci", "severity"),
    [
        (f"pcieport {PORT}.0: AER: Corrected error received: {GPU}.0", GPU, "corrected"),
        (f"pcieport {PORT}.0: AER: Multiple Corrected error received: {GPU}.0", GPU, "corrected"),
        (f"pcieport {PORT}.0: AER: Correctable error message received from {GPU}.0", GPU, "corrected"),
        (f"pcieport {PORT}.0: AER: Uncorrected (Fatal) error received: {GPU}.0", GPU, "fatal"),
        (f"pcieport {PORT}.0: AER: Uncorrectable (Non-Fatal) error message received from {GPU}.0", GPU, "non_fatal"),
        (f"pcieport {PORT}.0: AER: Corrected error received: id=0018", PORT, "corrected"),
        (f"nvidia {GPU}.0: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Data Link Layer", GPU, "fatal"),
        (f"nvidia {GPU}.0: AER: PCIe Bus Error: severity=Correctable, type=Physical Layer", GPU, "corrected"),
    ],
)
def test_pcie_errors_of_old_and_new_kernels_are_read(text: str, pci: str, severity: str) -> None:
    """The words changed between kernels; the address is that of the device with the error, else of the reporter."""
    line = parse_driver_line(text)
    assert line is not None
    assert (line.kind, line.pci, line.severity) == ("aer", pci, severity)


@pytest.mark.parametrize(
    "text",
    [
        f"NVRM: GPU {GPU}.0: Something else entirely",
        "NVRM: API mismatch: the client has the version 570.1",
        f"pcieport {PORT}.0: pciehp: Slot(12): Link Up",
        f"mlx5_core {GPU}.0: Link down",
        "AER: Corrected error received",
    ],
)
def test_other_lines_of_the_same_drivers_are_nothing(text: str) -> None:
    """A tag alone does not make a fault."""
    assert parse_driver_line(text) is None
