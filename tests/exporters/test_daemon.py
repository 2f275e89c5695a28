"""Both halves in one process: the kernel log and NVML (the stub library under the real pynvml)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.exporters.test_main import REPOSITORY, Host, Running
from tests.stubs.nvml.fixtures import nvml_library, script
from tests.stubs.nvml.library import Script

__all__ = ["nvml_library", "script"]

PCI, UUID = "0000:61:00", "GPU-11111111-0000-4000-8000-000000000003"  # the stub's GPU 3
HEAD = f"NVRM: Xid (PCI:{PCI}): "


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "host").mkdir()
    return Host(tmp_path / "host")


def arguments(host: Host, *more: str) -> list[str]:
    """The command line of an exporter that asks NVML for the inventory."""
    root = str(host.root)
    return ["--root", root, "--kmsg", str(host.log), "--state-dir", f"{root}/levels", *more]


def environment(script: Script) -> dict[str, str]:
    return {**script.environment(), "PYTHONPATH": str(REPOSITORY / "exporters")}


def once(host: Host, script: Script) -> list[str]:
    command = [sys.executable, "-m", "gpuheal_exporters", *arguments(host, "--once")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(script))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def start(host: Host, script: Script) -> Iterator[Callable[[], Running]]:
    started: list[Running] = []

    def begin() -> Running:
        started.append(Running(arguments(host), environment(script)))
        return started[-1]

    yield begin
    for running in started:
        assert running.stop() == 0


def test_nvml_names_the_gpu_and_the_driver_of_a_kernel_line(host: Host, script: Script) -> None:
    """The address of a line leads to NVML's UUID, and NVML's driver version selects the NVLink form."""
    line = HEAD + "145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040)"
    host.write(line)
    labels = f'basis="decode",blames="",gpu_uuid="{UUID}",pci_bus_id="{PCI}",severity="fatal",xid="145"'
    wanted = f'gpuheal_xid_resolution_info{{action="gpu_reset",{labels}}} 1.0'
    assert wanted in once(host, script)
    script.set(driver="580.65.06")
    assert wanted not in once(host, script)


def test_each_series_appears_once(host: Host, script: Script) -> None:
    """No series and no metric comes from both halves."""
    host.write(HEAD + "79, GPU has fallen off the bus.")
    lines = once(host, script)
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    types = [line for line in lines if line.startswith("# TYPE ")]
    assert "gpuheal_nvml_up" in series
    assert len(series) == len(set(series))
    assert len(types) == len(set(types))


def test_a_hanging_driver_does_not_hide_a_kernel_line(host: Host, script: Script, start: Callable[[], Running]) -> None:
    """While NVML does not return, new Xids are latched and served, and the exporter still ends cleanly."""
    running = start()
    assert running.value("gpuheal_nvml_up") == 1
    script.set(hang__nvmlDeviceGetPerformanceState=1)
    running.until(lambda: running.value('gpuheal_probe_stuck{group="recovery"}') == 1, seconds=60)
    host.write(HEAD + "79, GPU has fallen off the bus.")
    latched = f'gpuheal_xid_latched{{gpu_uuid="{UUID}",pci_bus_id="{PCI}",xid="79"}}'
    running.until(lambda: running.value(latched) == 1)
    script.set(hang__nvmlDeviceGetPerformanceState=None)


def test_a_reset_that_nvml_proves_ends_the_levels(host: Host, script: Script, start: Callable[[], Running]) -> None:
    """When the driver's recovery action goes back to none, what was latched before is over."""
    script.set(gpu__3__field__230=1)
    running = start()
    action = f'gpuheal_gpu_recovery_action{{gpu_uuid="{UUID}"}}'
    running.until(lambda: running.value(action) == 1)
    host.write(HEAD + "48, DBE")
    latched = f'gpuheal_xid_latched{{gpu_uuid="{UUID}",pci_bus_id="{PCI}",xid="48"}}'
    running.until(lambda: running.value(latched) == 1)
    script.set(gpu__3__field__230=0)
    running.until(lambda: running.value(latched) == 0, seconds=60)
    assert running.value('gpuheal_latch_cleared_total{reason="reset"}') == 1


def test_without_the_kernel_log_nvml_goes_on(host: Host, script: Script) -> None:
    """No right to read the log: it is down as a metric, and everything NVML says is there."""
    host.log.unlink()
    lines = once(host, script)
    assert "gpuheal_kmsg_up 0.0" in lines
    assert "gpuheal_nvml_up 1.0" in lines
    assert f'gpuheal_gpu_present{{gpu_uuid="{UUID}",pci_bus_id="{PCI}"}} 1.0' in lines
