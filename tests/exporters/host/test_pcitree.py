"""PCIe ports and the GPUs below them."""

from __future__ import annotations

from pathlib import Path

from gpuheal_exporters.host.pcitree import ports_above


def test_ports_lead_to_the_one_gpu_below_them(tmp_path: Path) -> None:
    """A port above exactly one GPU is its; a switch above two belongs to none; unknown GPUs have no ports."""
    devices = tmp_path / "sys/bus/pci/devices"
    devices.mkdir(parents=True)
    tree = "../../../devices/pci0000:37/0000:37:01.0/0000:38:00.0"
    (devices / "0000:3b:00.0").symlink_to(f"{tree}/0000:39:00.0/0000:3b:00.0")
    (devices / "0000:3c:00.0").symlink_to(f"{tree}/0000:39:01.0/0000:3c:00.0")
    found = ports_above(tmp_path, ["0000:3b:00", "0000:3c:00", "0000:ff:00"])
    assert found == {"0000:39:00": "0000:3b:00", "0000:39:01": "0000:3c:00"}
