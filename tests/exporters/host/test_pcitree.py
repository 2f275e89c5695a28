"""PCIe ports and the GPUs below them."""

from __future__ import annotations

from pathlib import Path

from gpuheal_exporters.host.pcitree import (
    GPU_CLASSES,
    SWITCH_CLASS,
    gpus_for_this_host,
    nvidia_devices,
    ports_above,
)


def test_ports_lead_to_the_one_gpu_below_them(tmp_path: Path) -> None:
    """A port above exactly one GPU is its; one above several leads to GPUs, but to none of them alone."""
    devices = tmp_path / "sys/bus/pci/devices"
    devices.mkdir(parents=True)
    tree = "../../../devices/pci0000:37/0000:37:01.0/0000:38:00.0"
    (devices / "0000:3b:00.0").symlink_to(f"{tree}/0000:39:00.0/0000:3b:00.0")
    (devices / "0000:3c:00.0").symlink_to(f"{tree}/0000:39:01.0/0000:3c:00.0")
    found = ports_above(tmp_path, ["0000:3b:00", "0000:3c:00", "0000:ff:00"])
    assert found == {"0000:39:00": "0000:3b:00", "0000:39:01": "0000:3c:00", "0000:37:01": "", "0000:38:00": ""}


def test_gpus_on_the_bus_are_told_by_vendor_and_class(tmp_path: Path) -> None:
    """A GPU counts whatever driver it has; other cards, audio functions and names that are no address do not."""
    for name, vendor, kind in (
        ("0000:3b:00.0", "0x10de", "0x030200"),
        ("0000:3b:00.1", "0x10de", "0x040300"),
        ("0000:c1:00.0", "0x10de", "0x068000"),
        ("0000:01:00.0", "0x15b3", "0x020700"),
        ("not-an-address", "0x10de", "0x030200"),
    ):
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")
    assert nvidia_devices(tmp_path, GPU_CLASSES) == ["0000:3b:00"]
    assert nvidia_devices(tmp_path, (SWITCH_CLASS,)) == ["0000:c1:00"]


def test_gpus_of_guests_are_not_the_hosts(tmp_path: Path) -> None:
    """A GPU bound to a driver that passes it on and a virtual function are left out; one without a driver is not."""
    drivers = {
        "3b": "nvidia",
        "3c": "vfio-pci",
        "3d": "nvgrace-gpu-vfio-pci",
        "3e": "",
        "3f": "nvidia",
        "40": "pci-stub",
    }
    for slot, driver in drivers.items():
        device = tmp_path / f"sys/bus/pci/devices/0000:{slot}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
        if driver:
            (device / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")
    (tmp_path / "sys/bus/pci/devices/0000:3f:00.0/physfn").symlink_to("../0000:3b:00.0")
    assert gpus_for_this_host(tmp_path) == ["0000:3b:00", "0000:3e:00"]
