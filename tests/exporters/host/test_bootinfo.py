"""Boot and driver as /proc and /sys tell them."""

from __future__ import annotations

from pathlib import Path

from gpuheal_exporters.host.bootinfo import BootInfo, read_boot, read_driver_version


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_boot_is_read_below_the_root(tmp_path: Path) -> None:
    """Boot id and boot time of the kernel whose /proc is mounted there."""
    write(tmp_path, "proc/sys/kernel/random/boot_id", "0b5e-1\n")
    write(tmp_path, "proc/stat", "cpu  1 2 3\nintr 5" + " 0" * 100_000 + "\nbtime 1700000000\n")
    assert read_boot(tmp_path) == BootInfo(boot_id="0b5e-1", boot_time=1.7e9)


def test_without_proc_nothing_is_made_up(tmp_path: Path) -> None:
    """Missing files are an empty boot and no driver."""
    assert read_boot(tmp_path) == BootInfo(boot_id="", boot_time=0.0)
    assert read_driver_version(tmp_path) == ""


def test_the_driver_version_comes_from_the_loaded_module(tmp_path: Path) -> None:
    """/sys/module is asked first; the banner in /proc serves where it is missing, for both kinds of kernel modules."""
    banner = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.45.04  Release Build\nGCC version: 13.2.0\n"
    write(tmp_path, "proc/driver/nvidia/version", banner)
    assert read_driver_version(tmp_path) == "595.45.04"
    old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.223.02  Sat Oct  7 15:39:11 UTC 2023\n"
    write(tmp_path, "proc/driver/nvidia/version", old)
    assert read_driver_version(tmp_path) == "470.223.02"
    write(tmp_path, "sys/module/nvidia/version", "570.133.20\n")
    assert read_driver_version(tmp_path) == "570.133.20"
