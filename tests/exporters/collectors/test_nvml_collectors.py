"""From a snapshot to series: presence, memory, links, fabric, PCIe, heat."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.stubs.samples import only, samples

from gpuheal_exporters.collectors.link import LinkCollector, fabric_problems
from gpuheal_exporters.collectors.memory import MemoryCollector
from gpuheal_exporters.collectors.pcie import PcieCollector
from gpuheal_exporters.collectors.presence import PresenceCollector, SourceCollector
from gpuheal_exporters.collectors.thermal import ThermalCollector
from gpuheal_exporters.host.inventory import NodeInventory
from gpuheal_exporters.nvml.schedule import PROBES
from gpuheal_exporters.nvml.snapshot import (
    Gpu,
    GroupHealth,
    MigInstance,
    NvmlSnapshot,
    NvmlState,
    Reading,
    StuckProbe,
)
from gpuheal_exporters.nvml.state import under_load


def gpu(index: int = 0, **readings: dict[str, object]) -> Gpu:
    made = {group: Reading(observed_at=1000.0, values=values) for group, values in readings.items()}
    return Gpu(uuid=f"GPU-{index}", pci=f"0000:1{index}:00", observed_at=1000.0, readings=made)


def shown(*gpus: Gpu, state: NvmlState = NvmlState.OK) -> Callable[[], NvmlSnapshot]:
    snapshot = NvmlSnapshot(state=state, enumerated=True, device_count=len(gpus), observed_at=1000.0, gpus=gpus)
    return lambda: snapshot


def known(*gpus: Gpu) -> NodeInventory:
    inventory = NodeInventory(boot_id="b", now=lambda: 1000.0)
    inventory.update(shown(*gpus)())
    return inventory


def lost(index: int) -> Gpu:
    values: dict[str, object] = {"temperature": 40, "action": 0, "ecc": 1, "width": 16, "states": {"0": 1}}
    made = gpu(index, **dict.fromkeys(("thermal", "recovery", "memory", "pcie", "nvlink"), values))
    return Gpu(uuid=made.uuid, pci=made.pci, present=False, readings=made.readings)


def test_lost_gpu_shows_its_absence_and_nothing_else() -> None:
    """A lost GPU has gpuheal_gpu_present 0; none of its old values is shown as if it were one of now."""
    inventory, snapshot = known(gpu(0), gpu(1)), shown(gpu(0), lost(1))
    inventory.update(snapshot())
    found = samples(
        PresenceCollector(snapshot, inventory),
        MemoryCollector(snapshot),
        LinkCollector(snapshot, inventory),
        PcieCollector(snapshot),
        ThermalCollector(snapshot),
    )
    assert only(found, "gpuheal_gpu_present") == {("GPU-0", "0000:10:00"): 1, ("GPU-1", "0000:11:00"): 0}
    assert {name for name, labels in found if ("gpu_uuid", "GPU-1") in labels} == {"gpuheal_gpu_present"}


@pytest.mark.parametrize("state", [NvmlState.DRIVER_MISSING, NvmlState.VERSION_MISMATCH, NvmlState.STOPPED])
def test_without_nvml_nothing_is_said_of_gpus(state: NvmlState) -> None:
    """While NVML is away no GPU is present or absent and no value is shown; why it is away is."""
    inventory, snapshot = known(gpu(0)), shown(gpu(0, thermal={"temperature": 40}), state=state)
    found = samples(SourceCollector(snapshot), PresenceCollector(snapshot, inventory), ThermalCollector(snapshot))
    assert not [labels for _, labels in found if any(name == "gpu_uuid" for name, _ in labels)]
    assert only(found, "gpuheal_nvml_up") == {(): 0}
    assert only(found, "gpuheal_nvml_state_info") == {(state.value,): 1}
    assert ("gpuheal_nvml_devices", ()) not in found


def test_stuck_nvml_serves_what_was_known() -> None:
    """While a probe hangs the last values are served, with the time they were observed and the probe's name."""
    snapshot = NvmlSnapshot(
        state=NvmlState.STUCK,
        observed_at=1030.0,
        gpus=(gpu(0, thermal={"temperature": 40}),),
        stuck=(StuckProbe(group="memory", gpu_uuid="GPU-0", since=1020.0), StuckProbe(group="start", since=1025.0)),
        groups={"memory": GroupHealth(observed_at=1010.0, duration_seconds=0.25, errors={999: 3})},
        restarts=2,
        abandoned=1,
    )
    found = samples(
        SourceCollector(lambda: snapshot),
        PresenceCollector(lambda: snapshot, known(gpu(0))),
        ThermalCollector(lambda: snapshot),
    )
    assert only(found, "gpuheal_nvml_up") == {(): 0}
    assert only(found, "gpuheal_gpu_temperature_celsius") == {("GPU-0",): 40}
    assert only(found, "gpuheal_gpu_observed_timestamp_seconds") == {("GPU-0",): 1000}
    assert only(found, "gpuheal_probe_stuck") == {(group,): float(group in ("memory", "start")) for group in PROBES}
    assert only(found, "gpuheal_gpu_probe_stuck") == {("GPU-0", "memory"): 1}
    assert only(found, "gpuheal_probe_errors_total") == {("999", "memory"): 3}
    assert only(found, "gpuheal_probe_duration_seconds") == {("memory",): 0.25}
    assert only(found, "gpuheal_probe_last_round_timestamp_seconds") == {("memory",): 1010}
    assert only(found, "gpuheal_nvml_restarts_total") == {(): 2}
    assert only(found, "gpuheal_nvml_abandoned_children") == {(): 1}


def test_verdict_and_mig() -> None:
    """Recovery action, refusal until reset, and MIG devices with their parent are shown."""
    instance = MigInstance(uuid="MIG-a", gpu_instance=3, compute_instance=1)
    base = gpu(0, recovery={"action": 4, "pstate": 2, "reset_required": True}, thermal={"persistence": 0})
    one = Gpu(uuid="GPU-0", pci=base.pci, mig=True, instances=(instance,), readings=base.readings)
    found = samples(PresenceCollector(shown(one), known(one)))
    assert only(found, "gpuheal_gpu_recovery_action") == {("GPU-0",): 4}
    assert only(found, "gpuheal_gpu_reset_required") == {("GPU-0",): 1}
    assert only(found, "gpuheal_gpu_persistence_mode") == {("GPU-0",): 0}
    assert only(found, "gpuheal_gpu_mig_enabled") == {("GPU-0",): 1}
    assert only(found, "gpuheal_mig_device_info") == {("1", "3", "GPU-0", "MIG-a"): 1}


def test_memory_series() -> None:
    """ECC by severity, counter and location; rows, banks, pages and repairs each have their series."""
    values: dict[str, object] = {
        "ecc": 1,
        "errors": {"uncorrected/volatile/sram": 2, "corrected/aggregate/dram": 9},
        "sram_exceeded": 1,
        "sram_kinds": {"parity": 1},
        "sram_units": {"l2": 1},
        "rows_correctable": 3,
        "rows_uncorrectable": 4,
        "rows_pending": 1,
        "rows_failed": 0,
        "banks": {"low": 2, "none": 1},
        "pages": {"double_bit": 5},
        "pages_pending": 1,
        "unrepairable": 1,
        "channel_repair": 1,
        "tpc_repair": 0,
    }
    found = samples(MemoryCollector(shown(gpu(0, memory=values))))
    assert only(found, "gpuheal_gpu_ecc_errors_total") == {
        ("volatile", "GPU-0", "sram", "uncorrected"): 2,
        ("aggregate", "GPU-0", "dram", "corrected"): 9,
    }
    assert only(found, "gpuheal_gpu_sram_threshold_exceeded") == {("GPU-0",): 1}
    assert only(found, "gpuheal_gpu_remapped_rows_total") == {
        ("correctable", "GPU-0"): 3,
        ("uncorrectable", "GPU-0"): 4,
    }
    assert only(found, "gpuheal_gpu_row_remap_pending") == {("GPU-0",): 1}
    assert only(found, "gpuheal_gpu_row_remap_failed") == {("GPU-0",): 0}
    assert only(found, "gpuheal_gpu_row_remap_banks") == {("GPU-0", "low"): 2, ("GPU-0", "none"): 1}
    assert only(found, "gpuheal_gpu_retired_pages") == {("double_bit", "GPU-0"): 5}
    assert only(found, "gpuheal_gpu_retired_pages_pending") == {("GPU-0",): 1}
    assert only(found, "gpuheal_gpu_memory_unrepairable") == {("GPU-0",): 1}
    assert only(found, "gpuheal_gpu_repair_pending") == {("GPU-0", "channel"): 1, ("GPU-0", "tpc"): 0}


def test_unsupported_values_have_no_series() -> None:
    """A GPU that answered nothing of a group has no series of it: missing is not zero."""
    snapshot = shown(gpu(0, memory={}, nvlink={}, fabric={}, pcie={}, thermal={}))
    inventory = known(snapshot().gpus[0])
    assert (
        samples(
            MemoryCollector(snapshot),
            LinkCollector(snapshot, inventory),
            PcieCollector(snapshot),
            ThermalCollector(snapshot),
        )
        == {}
    )


def test_links_down_are_named_only_when_expected() -> None:
    """A link that is down while more are expected is named; a card that never had a link up names none."""
    states: dict[str, object] = {"states": {"0": 1, "1": 0, "2": 1}, "version": "4.0"}
    errors: dict[str, object] = {"errors": {"2": {"replay": 8}}, "ratios": {"0": {"symbol": 5e-12}}}
    board = gpu(0, nvlink=states | errors, fabric={"state": 3, "mask": 0x1AA, "status": 0, "summary": 1})
    bare = gpu(1, nvlink={"states": {"0": 0, "1": 0}})
    inventory = known(board, bare)
    bare = Gpu(uuid=bare.uuid, pci=bare.pci, product="NVIDIA H100 PCIe", readings=bare.readings)
    found = samples(LinkCollector(shown(board, bare), inventory))
    assert only(found, "gpuheal_gpu_nvlinks_active") == {("GPU-0",): 2, ("GPU-1",): 0}
    assert only(found, "gpuheal_gpu_nvlinks_expected") == {("GPU-0",): 3, ("GPU-1",): 0}
    assert only(found, "gpuheal_gpu_nvlink_down") == {("GPU-0", "1"): 1}
    assert only(found, "gpuheal_gpu_nvlink_errors_total") == {("GPU-0", "replay", "2"): 8}
    assert only(found, "gpuheal_gpu_nvlink_bit_error_ratio") == {("GPU-0", "symbol", "0"): 5e-12}
    assert only(found, "gpuheal_gpu_nvlink_info") == {("GPU-0", "4.0"): 1}


@pytest.mark.parametrize(
    ("mask", "bad", "reason"),
    [
        (0x00, set(), ""),
        (0xAA, set(), ""),
        (0x1AA, set(), ""),
        (0x51AA, set(), ""),
        (0xA9, {"degraded_bandwidth"}, ""),
        (0xA6, {"route_recovery"}, ""),
        (0x9A, {"route_unhealthy"}, ""),
        (0x6A, {"access_timeout"}, ""),
        (0x5AA, {"incorrect_configuration"}, "insufficient_nvlinks"),
        (0xFAA, {"incorrect_configuration"}, "15"),
        (0x61AA, {"partition_unassigned"}, ""),
        (0x91AA, {"manager_disconnected"}, ""),
        (0x55, {"degraded_bandwidth", "route_recovery", "route_unhealthy", "access_timeout"}, ""),
    ],
)
def test_fabric_mask_is_read_field_by_field(mask: int, bad: set[str], reason: str) -> None:
    """Each field has its own width and sense: 0xaa, 0x1aa and 0x51aa are healthy, and 1 is good in the two newest
    fields.
    """
    problems, why = fabric_problems(mask)
    assert {name for name, exists in problems.items() if exists} == bad
    assert why == reason


def test_fabric_speaks_only_when_registered() -> None:
    """Before the registration is completed status, mask and membership are unset and not shown; the state is."""
    cluster = {"mask": 0x55, "status": 0, "summary": 2, "cluster": "ab" * 16, "clique": 5}
    waiting, done = gpu(0, fabric={"state": 2, **cluster}), gpu(1, fabric={"state": 3, **cluster})
    found = samples(LinkCollector(shown(waiting, done), known(waiting, done)))
    assert only(found, "gpuheal_gpu_fabric_state") == {("GPU-0",): 2, ("GPU-1",): 3}
    assert only(found, "gpuheal_gpu_fabric_info") == {("5", "ab" * 16, "GPU-1"): 1}
    assert only(found, "gpuheal_gpu_fabric_health") == {("GPU-1",): 2}
    assert only(found, "gpuheal_gpu_fabric_problem")[("GPU-1", "route_unhealthy")] == 1
    assert not [
        labels for name, labels in found if name == "gpuheal_gpu_fabric_problem" and ("gpu_uuid", "GPU-0") in labels
    ]


def test_pcie_generation_is_judged_under_load() -> None:
    """An idle GPU's lower generation is kept apart from the one seen under load, which stays until the next load."""
    idle = {"utilization": 0, "generation": 1}
    assert under_load(idle, Reading(observed_at=0))["generation_under_load"] is None
    busy = Reading(observed_at=1, values=under_load({"utilization": 10, "generation": 3}, Reading(observed_at=0)))
    assert busy.number("generation_under_load") == 3
    assert under_load(idle, busy)["generation_under_load"] == 3
    assert under_load({"generation": 5}, busy)["generation_under_load"] == 3, "MIG: load unknown"
    values = {
        **under_load(idle, busy),
        "width": 8,
        "width_max": 16,
        "generation_max": 5,
        "replays": 4,
        "errors": {"fatal": 1},
    }
    found = samples(PcieCollector(shown(gpu(0, pcie=values))))
    assert {name: value for (name, _), value in found.items()} == {
        "gpuheal_gpu_pcie_link_width": 8,
        "gpuheal_gpu_pcie_link_width_max": 16,
        "gpuheal_gpu_pcie_link_generation": 1,
        "gpuheal_gpu_pcie_link_generation_max": 5,
        "gpuheal_gpu_pcie_link_generation_under_load": 3,
        "gpuheal_gpu_pcie_replays_total": 4,
        "gpuheal_gpu_pcie_errors_total": 1,
    }


def test_thermal_units() -> None:
    """Milliwatts become watts, nanoseconds seconds, the reason mask one series per reason that matters."""
    values: dict[str, object] = {
        "temperature": 88,
        "margin": -1,
        "limits": {"slowdown": 89},
        "margins": {"slowdown": -2},
        "power_mw": 650500,
        "reasons": 0x1 | 0x8 | 0x40,
        "throttled_ns": {"hw_thermal": 2500000000},
    }
    found = samples(ThermalCollector(shown(gpu(0, thermal=values))))
    assert only(found, "gpuheal_gpu_power_watts") == {("GPU-0",): 650.5}
    assert only(found, "gpuheal_gpu_throttled_seconds_total") == {("GPU-0", "hw_thermal"): 2.5}
    assert only(found, "gpuheal_gpu_temperature_margin_celsius") == {("GPU-0",): -1}
    assert only(found, "gpuheal_gpu_temperature_limit_celsius") == {("GPU-0", "slowdown"): 89}
    assert only(found, "gpuheal_gpu_temperature_limit_margin_celsius") == {("GPU-0", "slowdown"): -2}
    held = {reason for (_, reason), value in only(found, "gpuheal_gpu_clocks_event").items() if value}
    assert held == {"hw_slowdown", "hw_thermal"}
