"""The hardware half as a whole, on the stub library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.stubs.kubelet import kubelet, pod, response
from tests.stubs.nvml.fixtures import QUICK, until
from tests.stubs.nvml.library import Script
from tests.stubs.samples import only, samples

from gpuheal_exporters.collectors import memory
from gpuheal_exporters.collectors.registry import HARDWARE, metrics
from gpuheal_exporters.metrics.exposition import render
from gpuheal_exporters.monitor import GpuMonitor

Start = Callable[..., GpuMonitor]


def uuid(index: int) -> str:
    return f"GPU-11111111-0000-4000-8000-{index:012x}"


@pytest.fixture
def start(script: Script, tmp_path: Path) -> Iterator[Start]:
    """Starts monitors on the scripted machine, with state and root below the test's folder, and stops them."""
    started: list[GpuMonitor] = []

    def make(boot_id: str = "boot-1", on_reset: Callable[[str, float], object] | None = None) -> GpuMonitor:
        (tmp_path / "levels").mkdir(exist_ok=True)
        monitor = GpuMonitor(
            boot_id=boot_id,
            root=tmp_path / "root",
            state_dir=tmp_path / "levels",
            settings=QUICK,
            env=script.environment(),
        )
        monitor.on_reset = on_reset
        started.append(monitor)
        monitor.start()
        assert monitor.wait_first(20)
        return monitor

    yield make
    for monitor in started:
        assert monitor.stop()


def test_lost_gpu_is_remembered_over_a_restart(start: Start, script: Script) -> None:
    """A GPU present in one run and gone in the next, after a reboot, is in the inventory with 0 for its presence."""
    first = start()
    assert set(only(samples(*first.collectors), "gpuheal_gpu_present").values()) == {1.0}
    assert first.stop()
    script.set(gpu__3__missing=1)
    second = start(boot_id="boot-2")
    present = only(samples(*second.collectors), "gpuheal_gpu_present")
    assert {key for key, value in present.items() if not value} == {(uuid(3), "0000:61:00")}
    known = second.inventory.by_pci("0000:61:00")
    assert known is not None
    assert (known.gpu_uuid, known.serial) == (uuid(3), "1650123000003")


def test_gpu_lost_before_the_first_start_is_named_by_the_kernel(start: Start, script: Script, tmp_path: Path) -> None:
    """NVML cannot say who a lost GPU is; the kernel module's list can. A GPU excluded by its administrator is not
    lost.
    """
    for bus, index, excluded in (("61", 3, "No"), ("77", 9, "Yes")):
        folder = tmp_path / f"root/proc/driver/nvidia/gpus/0000:{bus}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"GPU UUID: \t {uuid(index)}\nGPU Excluded:\t {excluded}\n")
    script.set(gpu__3__lost=1)
    present = only(samples(*start().collectors), "gpuheal_gpu_present")
    assert present[uuid(3), "0000:61:00"] == 0
    assert sorted(present.values()) == [0.0] + [1.0] * 7


def test_return_of_a_lost_gpu_is_a_proven_reset(start: Start, script: Script) -> None:
    """A GPU that NVML called lost and that answers a new child again is reported as reset, once."""
    resets: list[str] = []
    monitor = start(on_reset=lambda gpu_uuid, at: resets.append(gpu_uuid))
    script.set(gpu__3__lost=1)
    until(lambda: only(samples(*monitor.collectors), "gpuheal_gpu_present")[uuid(3), "0000:61:00"] == 0)
    script.set(gpu__3__lost=None)
    monitor.supervisor.recheck()
    until(lambda: resets)
    assert resets == [uuid(3)]


def test_exposition_is_whole_and_unique(start: Start) -> None:
    """The text Prometheus gets parses, names each family once, and uses only metrics and labels of the tables."""
    text = render(*start().collectors).decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    labels = {metric.name: set(metric.labels) for metric in metrics()}
    for family in families:
        for sample in family.samples:
            assert set(sample.labels) == labels[sample.name]


TROUBLE: dict[str, object] = {
    "gpu__0__field__173": 3,
    "gpu__0__field__82": 50,
    "gpu__0__field__207__scope__4": 12,
    "gpu__0__field__222__scope__1": "0x50c",
    "gpu__0__fabric_mask": "0x5a9",
    "gpu__0__link__7": 0,
    "gpu__0__pages_dbe": 1,
    "gpu__0__rc__nvmlDeviceGetPowerUsage": 999,
    "volta": 1,
}


def test_every_metric_is_given_by_some_machine(start: Start, script: Script, tmp_path: Path) -> None:
    """Each metric of the table appears on a rack node with a bit of everything, or on one with MIG: none is only
    documentation.
    """
    root = tmp_path / "root"
    for path, text in {
        "proc/modules": "nvidia 1 0 - Live 0x0\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  x\n",
        "proc/2/comm": "kthreadd\n",
        "sys/bus/pci/devices/0000:1b:00.0/vendor": "0x10de\n",
        "sys/module/ib_core/parameters/netns_mode": "Y\n",
        "sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE\n",
        "sys/class/infiniband/mlx5_0/ports/1/phys_state": "5: LinkUp\n",
        "sys/class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)\n",
        "sys/class/infiniband/mlx5_0/ports/1/counters/link_downed": "0\n",
        "sys/class/infiniband/mlx5_0/ports/1/counters/symbol_error": "0\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    socket = root / "var/lib/kubelet/pod-resources/kubelet.sock"
    socket.parent.mkdir(parents=True)
    short = tmp_path / "k.sock"
    socket.symlink_to(short)
    found: set[str] = set()
    held = pod("team-a", "train-0", "main", resource="nvidia.com/gpu", devices=[uuid(0)])
    for profile in ("gb200", "mig"):
        script.set(profile=profile, **TROUBLE)
        with kubelet(short, lambda _: response(held)):
            monitor = start()
        script.set(gpu__1__hang__nvmlDeviceGetEccMode=1)
        until(lambda: monitor.supervisor.snapshot().stuck)  # noqa: B023 - called at once
        found |= {name for name, _ in samples(*monitor.collectors)}
        script.set(gpu__1__hang__nvmlDeviceGetEccMode=None)
        assert monitor.stop()
    assert {metric.name for each in HARDWARE for metric in each.metrics} - found == set()


def test_name_outside_the_tables_is_a_mistake() -> None:
    """A collector can't give a metric that is not documented."""
    with pytest.raises(KeyError):
        memory.METRICS.families().add("gpuheal_undocumented", 1)


@pytest.mark.parametrize(("profile", "gpus"), [("h100", 8), ("a100", 8), ("gb200", 4), ("mig", 2)])
def test_command_prints_both_halves_once(script: Script, tmp_path: Path, profile: str, gpus: int) -> None:
    """`gpuheal exporter --once` on each machine prints the kernel log's levels and what NVML says, joined by GPU
    UUID.
    """
    script.set(profile=profile)
    pci = "0008:01:00" if profile == "gb200" else "0000:1b:00"
    log = tmp_path / "kern.log"
    log.write_text(f"[ 1.0] NVRM: Xid (PCI:{pci}): 79, GPU has fallen off the bus.\n")
    command = [sys.executable, "-m", "gpuheal_exporters", "--once", "--root", str(tmp_path), "--kmsg", str(log)]
    environment = script.environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(done.stdout):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    assert len(found["gpuheal_gpu_present"]) == gpus
    assert len(found["gpuheal_gpu_temperature_celsius"]) == gpus
    assert found["gpuheal_xid_latched"] == [{"gpu_uuid": uuid(0), "pci_bus_id": pci, "xid": "79"}]
    assert [call.split()[0] for call in script.calls()] == ["init", "shutdown"]


def test_inventory_file_has_no_secrets_and_one_schema(start: Start, tmp_path: Path) -> None:
    """The file on disk is the documented JSON, readable by its owner alone."""
    start()
    path = tmp_path / "levels/inventory.json"
    document = json.loads(path.read_text())
    assert document["schema"] == 1
    assert set(document["gpus"][0]) == {
        "uuid", "pci", "serial", "slot", "product", "minor", "boot_id", "seen_at", "links", "instances",
    }  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600
