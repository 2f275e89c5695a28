"""The kernel module and the GPUs on the bus, from file trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.stubs.samples import only, samples

from gpuheal_exporters.collectors.driver import DriverCollector, VersionCollector
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot, NvmlState

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (dvs)\nGCC version:  gcc\n"
MODULES = "nvidia_peermem 16384 0 - Live 0x0\nnvidia 54321 3 nvidia_peermem, Live 0x0 (OE)\nib_core 1 0\n"
CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.247.01  Mon Mar 31 00:00:00 UTC 2025\nGCC version:  gcc 12\n"
)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def away(state: NvmlState = NvmlState.LIBRARY_MISSING, driver: str = "") -> NvmlSnapshot:
    return NvmlSnapshot(state=state, driver_version=driver)


@pytest.mark.parametrize(
    ("text", "version", "kind"), [(OPEN, "570.133.20", "open"), (CLOSED, "535.247.01", "proprietary")]
)
def test_loaded_module(tmp_path: Path, text: str, version: str, kind: str) -> None:
    """Both kinds of kernel module are told with their version; a required module that is missing is 0, an optional one
    no series.
    """
    write(
        tmp_path,
        "proc/modules",
        MODULES,
    )
    write(tmp_path, "proc/driver/nvidia/version", text)
    found = samples(DriverCollector(tmp_path))
    assert only(found, "gpuheal_driver_module_loaded") == {("nvidia",): 1, ("nvidia_peermem",): 1, ("nvidia_uvm",): 0}
    assert only(found, "gpuheal_driver_kernel_info") == {(kind, version): 1}


def test_unreadable_proc_says_nothing(tmp_path: Path) -> None:
    """Where /proc is not there, no module is called missing."""
    assert samples(DriverCollector(tmp_path)) == {}


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (away(NvmlState.OK, "570.133.20"), {(): 0.0}),
        (away(NvmlState.OK, "580.65.06"), {(): 1.0}),
        (away(NvmlState.VERSION_MISMATCH), {(): 1.0}),
        (away(NvmlState.LIBRARY_MISSING), {}),
    ],
)
def test_library_and_module_of_different_versions(
    tmp_path: Path, snapshot: NvmlSnapshot, expected: dict[tuple[str, ...], float]
) -> None:
    """An update of the user-space library without a reload of the module is told; without NVML nothing is known."""
    write(tmp_path, "proc/driver/nvidia/version", OPEN)
    found = samples(VersionCollector(tmp_path, lambda: snapshot))
    assert only(found, "gpuheal_driver_version_mismatch") == expected


def test_gpus_on_the_bus_are_counted(tmp_path: Path) -> None:
    """NVIDIA display and 3D controllers count; its switches, audio functions and other vendors' devices do not."""
    devices = {
        "0000:1b:00.0": ("0x10de", "0x030200"),
        "0000:43:00.0": ("0x10de", "0x030000"),
        "0000:43:00.1": ("0x10de", "0x040300"),
        "0000:07:00.0": ("0x10de", "0x068000"),
        "0000:03:00.0": ("0x1a03", "0x030000"),
    }
    for address, (vendor, kind) in devices.items():
        write(tmp_path, f"sys/bus/pci/devices/{address}/vendor", f"{vendor}\n")
        write(tmp_path, f"sys/bus/pci/devices/{address}/class", f"{kind}\n")
    assert only(samples(DriverCollector(tmp_path)), "gpuheal_driver_pci_gpus") == {(): 2}
