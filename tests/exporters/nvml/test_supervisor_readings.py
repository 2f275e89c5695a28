"""What a supervisor reads from each kind of machine, through the real pynvml on the stub library."""

from __future__ import annotations

from pathlib import Path

from tests.stubs.nvml.fixtures import Watch
from tests.stubs.nvml.library import Script

from gpuheal_exporters.nvml.schedule import GROUPS
from gpuheal_exporters.nvml.snapshot import Gpu, MigInstance, NvmlSnapshot, NvmlState


def uuid(index: int) -> str:
    return f"GPU-11111111-0000-4000-8000-{index:012x}"


def first(snapshot: NvmlSnapshot) -> Gpu:
    return next(gpu for gpu in snapshot.gpus if gpu.uuid == uuid(0))


def test_healthy_machine_is_seen_whole(watch: Watch) -> None:
    """Eight H100 are present, identified and answered by every group in the first picture."""
    snapshot = watch().wait_complete(20)
    assert snapshot.state is NvmlState.OK
    assert snapshot.up
    assert snapshot.enumerated
    assert (snapshot.driver_version, snapshot.cuda_version, snapshot.device_count) == ("570.133.20", "12.8", 8)
    assert [gpu.pci for gpu in snapshot.gpus] == [
        f"0000:{bus}:00" for bus in ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
    ]
    assert all(gpu.present and set(gpu.readings) == set(GROUPS) - {"identity"} for gpu in snapshot.gpus)
    gpu = first(snapshot)
    assert (gpu.serial, gpu.product, gpu.slot, gpu.minor) == ("1650123000000", "NVIDIA H100 80GB HBM3", "module 1", 0)
    assert gpu.mig is False
    assert snapshot.stuck == ()
    assert all(not health.errors for health in snapshot.groups.values())


def test_values_come_with_their_sign_and_unit(watch: Watch, script: Script) -> None:
    """Each kind of value arrives as NVML gave it: signed margins by value type, ns and mW untouched, tables by name."""
    script.set(gpu__0__field__269=1500000000, gpu__0__margin=17, gpu__0__rows_pending=1, gpu__0__banks_low=3)
    gpu = first(watch().wait_complete(20))
    thermal = gpu.reading("thermal")
    assert thermal.table("margins") == {"shutdown": -8, "slowdown": -2, "memory": 0, "gpu_max": 0}
    assert thermal.table("limits") == {"shutdown": 92, "slowdown": 89, "memory": 95, "gpu_max": 85}
    assert (thermal.number("margin"), thermal.number("power_mw")) == (17, 312500)
    assert thermal.table("throttled_ns")["sw_thermal"] == 1500000000
    assert gpu.reading("memory").number("rows_pending") == 1
    assert gpu.reading("memory").table("banks") == {"max": 2557, "high": 0, "partial": 0, "low": 3, "none": 0}
    assert gpu.reading("recovery").number("action") == 0


def test_nvlink_counters_of_hopper_by_call(watch: Watch, script: Script) -> None:
    """Up to NVLink4 the error counters are asked per link, and only those that are not zero are told."""
    script.set(gpu__0__link__5__crc_flit=7, gpu__0__link__17=0)
    reading = first(watch().wait_complete(20)).reading("nvlink")
    assert reading.table("states") == {str(link): float(link != 17) for link in range(18)}
    assert reading.tables("errors") == {"5": {"crc_flit": 7}}
    assert reading.text("version") == "4.0"


def test_nvl72_by_fields(watch: Watch, script: Script) -> None:
    """On NVLink5 counters come by field and link, ratios are unpacked, and the domain and the place in the rack are
    known.
    """
    script.set(profile="gb200", gpu__0__field__207__scope__4=12, gpu__0__field__222__scope__1="0x50c")
    snapshot = watch().wait_complete(20)
    assert [gpu.pci for gpu in snapshot.gpus] == ["0008:01:00", "0010:01:00", "0018:01:00", "0020:01:00"]
    gpu = first(snapshot)
    assert gpu.slot == "chassis 1820025000123 slot 7 tray 3 module 1"
    assert gpu.mig is None
    reading = gpu.reading("nvlink")
    assert (reading.tables("errors"), reading.text("version")) == ({"4": {"buffer_overrun": 12}}, "5.0")
    assert reading.tables("ratios") == {"1": {"symbol": 5e-12}}
    fabric = gpu.reading("fabric")
    assert (fabric.number("state"), fabric.number("mask"), fabric.number("clique")) == (3, 0x51AA, 32766)
    assert fabric.text("cluster") == "ab" * 16


def test_a100_has_no_fabric_and_no_margins(watch: Watch, script: Script) -> None:
    """What a GPU does not support is missing, not zero, and is no error."""
    script.set(profile="a100")
    snapshot = watch().wait_complete(20)
    gpu = first(snapshot)
    assert gpu.reading("fabric").values == {}
    assert gpu.reading("thermal").table("margins") == {}
    assert gpu.reading("thermal").number("margin") is None
    assert len(gpu.reading("nvlink").table("states")) == 12
    assert all(not health.errors for health in snapshot.groups.values())


def test_mig_devices_belong_to_their_gpu(watch: Watch, script: Script) -> None:
    """MIG devices are listed under the parent; row remapping, refused while instances exist, is missing."""
    script.set(profile="mig")
    gpu = first(watch().wait_complete(20))
    assert gpu.mig is True
    assert gpu.instances == (
        MigInstance(uuid="MIG-00000030-0000-4000-8000-000000000000", gpu_instance=1, compute_instance=0),
        MigInstance(uuid="MIG-00000031-0000-4000-8000-000000000000", gpu_instance=2, compute_instance=0),
    )
    assert gpu.reading("memory").number("rows_pending") is None


def test_old_driver_is_asked_the_old_way(watch: Watch, script: Script) -> None:
    """A driver that refuses the newest fabric struct and has no recovery action still answers with the older struct."""
    script.set(old_driver=1, rc__nvmlDeviceGetMarginTemperature=13)
    gpu = first(watch().wait_complete(20))
    assert gpu.reading("fabric").number("mask") == 0x1AA
    assert gpu.reading("fabric").number("summary") is None
    assert gpu.reading("recovery").number("action") is None
    assert gpu.reading("thermal").number("margin") is None


def test_volta_tells_retired_pages(watch: Watch, script: Script) -> None:
    """Page retirement of older GPUs is counted by cause."""
    script.set(volta=1, gpu__0__pages_dbe=2, gpu__0__pages_pending=1)
    memory = first(watch().wait_complete(20)).reading("memory")
    assert memory.table("pages") == {"single_bit": 0, "double_bit": 2}
    assert memory.number("pages_pending") == 1


def test_failing_call_costs_only_its_value(watch: Watch, script: Script) -> None:
    """An unknown error of one call is counted under its group and code; the group's other values stay."""
    script.set(gpu__0__rc__nvmlDeviceGetPowerUsage=999)
    snapshot = watch().wait_complete(20)
    thermal = first(snapshot).reading("thermal")
    assert thermal.number("power_mw") is None
    assert thermal.number("temperature") == 45
    assert snapshot.groups["thermal"].errors[999] >= 1


def test_reset_required_is_kept(watch: Watch, script: Script) -> None:
    """A call answered with NVML_ERROR_RESET_REQUIRED is told beside the recovery action."""
    script.set(gpu__0__rc__nvmlDeviceGetPerformanceState=16)
    assert first(watch().wait_complete(20)).reading("recovery").number("reset_required") == 1


def test_kernel_module_names_gpus_without_nvml(watch: Watch, script: Script, tmp_path: Path) -> None:
    """With NVML refused, /proc/driver/nvidia/gpus still gives address, UUID and product; an unreadable UUID is left
    empty.
    """
    folder = tmp_path / "proc/driver/nvidia/gpus"
    for bus, text in (("1b", uuid(0)), ("43", "GPU-????????-????-????-????-????????????")):
        (folder / f"0000:{bus}:00.0").mkdir(parents=True)
        information = f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 64\nGPU UUID: \t {text}\n"
        (folder / f"0000:{bus}:00.0" / "information").write_text(information)
    script.set(rc__nvmlInitWithFlags=9)
    snapshot = watch(root=str(tmp_path)).wait_complete(20)
    assert snapshot.state is NvmlState.DRIVER_MISSING
    assert [(gpu.pci, gpu.uuid, gpu.product) for gpu in snapshot.proc_gpus] == [
        ("0000:1b:00", uuid(0), "NVIDIA H100 80GB HBM3"),
        ("0000:43:00", "", "NVIDIA H100 80GB HBM3"),
    ]
