"""What the simulated exporters say follows from kernel lines, lost GPUs and reboots, and nothing else."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_lab.fleet.spec import fleet
from gpuheal_lab.fleet.telemetry import Telemetry

ONE, TWO = "gpu-node-001", "gpu-node-002"
SECOND = timedelta(seconds=1)
Sample = tuple[dict[str, str], float]


def lab(nodes: int = 2) -> tuple[Simulation, Telemetry]:
    sim = Simulation(fleet(nodes, 8))
    return sim, Telemetry(sim.fleet, sim.schedule, sim.api.nodes)


def samples(text: bytes | None, name: str) -> list[Sample]:
    assert text is not None
    families = text_string_to_metric_families(text.decode())
    return [(s.labels, s.value) for family in families for s in family.samples if s.name == name]


def latched(telemetry: Telemetry, node: str) -> list[tuple[str, str]]:
    found = samples(telemetry.nodes[node].exporter_text(), "gpuheal_xid_latched")
    return [(labels["gpu_uuid"], labels["xid"]) for labels, value in found if value == 1]


def test_kernel_line_is_parsed_and_latched_by_the_real_exporter() -> None:
    """A line that only says a PCI address ends up as a latched Xid of the GPU's UUID with the line's own time."""
    sim, telemetry = lab()
    gpu = sim.specs[ONE].gpus[3]
    sim.fleet[ONE].log(f"NVRM: Xid (PCI:{gpu.kernel_address}): 79, pid=1234, GPU has fallen off the bus.")
    at = sim.now().timestamp()
    sim.advance(5 * SECOND)
    assert latched(telemetry, ONE) == [(gpu.uuid, "79")]
    assert latched(telemetry, TWO) == []
    last = samples(telemetry.nodes[ONE].exporter_text(), "gpuheal_xid_last_timestamp_seconds")
    assert [value for _, value in last] == [at]


def test_text_that_a_process_wrote_is_not_believed() -> None:
    """A line with facility 1 is no Xid."""
    sim, telemetry = lab()
    gpu = sim.specs[ONE].gpus[3]
    sim.fleet[ONE].log(f"NVRM: Xid (PCI:{gpu.kernel_address}): 79, GPU has fallen off the bus.", facility=1)
    assert latched(telemetry, ONE) == []


def test_lost_gpu_has_no_driver_fields_but_a_last_xid() -> None:
    """dcgm-exporter shows seven temperatures and the Xid with err_code; NVML calls the GPU not present."""
    sim, telemetry = lab()
    gpu = sim.specs[ONE].gpus[3]
    sim.break_gpu(ONE, 3, fell_off_bus())
    text = telemetry.nodes[ONE].dcgm_text()
    temperatures = samples(text, "DCGM_FI_DEV_GPU_TEMP")
    assert gpu.uuid not in {labels["UUID"] for labels, _ in temperatures}
    assert len(temperatures) == 7
    xids = {labels["UUID"]: (labels["err_code"], value) for labels, value in samples(text, "DCGM_FI_DEV_XID_ERRORS")}
    assert xids[gpu.uuid] == ("79", 79)
    assert len(xids) == 8
    present = samples(telemetry.nodes[ONE].exporter_text(), "gpuheal_gpu_present")
    assert [labels["gpu_uuid"] for labels, value in present if value == 0] == [gpu.uuid]


def test_dcgm_labels_are_those_of_dcgm_exporter() -> None:
    """Label names and the form of the PCI address are as in releases up to 4.5.3-4.8.2."""
    _, telemetry = lab()
    labels, _ = samples(telemetry.nodes[ONE].dcgm_text(), "DCGM_FI_DEV_GPU_TEMP")[0]
    names = {"gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION"}
    assert labels.keys() == names
    assert labels["pci_bus_id"] == "00000000:19:00.0"


def test_telemetry_goes_with_the_machine_and_comes_back_clean() -> None:
    """A machine that is down answers nothing; our exporter comes back first, DCGM with the driver; no latch is left."""
    sim, telemetry = lab()
    node = telemetry.nodes[ONE]
    sim.break_gpu(ONE, 3, fell_off_bus())
    sim.fleet[ONE].reboot()
    sim.advance(2 * SECOND)
    assert node.exporter_text() is None
    assert node.dcgm_text() is None
    sim.advance(3 * SECOND)
    assert node.exporter_text() is not None
    assert node.dcgm_text() is None
    sim.settle()
    assert latched(telemetry, ONE) == []
    boots = samples(node.exporter_text(), "gpuheal_node_boot_info")
    assert [labels["boot_id"] for labels, _ in boots] == [sim.fleet[ONE].boot_id]
    assert {value for _, value in samples(node.dcgm_text(), "DCGM_FI_DEV_XID_ERRORS")} == {0}
    assert len(samples(node.dcgm_text(), "DCGM_FI_DEV_GPU_TEMP")) == 8


def test_heartbeat_moves_with_time_though_nothing_changes() -> None:
    """Two scrapes of an idle node differ in the heartbeat, so a frozen exporter can be told from an idle one."""
    sim, telemetry = lab()
    name = "gpuheal_exporter_heartbeat_timestamp_seconds"
    first = samples(telemetry.nodes[ONE].exporter_text(), name)
    sim.advance(SECOND)
    second = samples(telemetry.nodes[ONE].exporter_text(), name)
    assert second[0][1] - first[0][1] == 1


def test_kube_state_metrics_tell_what_the_node_objects_say() -> None:
    """Allocatable, Ready, cordon and taints of the raw nodes are on the endpoint."""
    sim, telemetry = lab()
    sim.break_gpu(ONE, 3, fell_off_bus())
    sim.advance(SECOND)
    sim.edit(ONE, lambda raw: raw["spec"].update(unschedulable=True))
    sim.advance(SECOND)
    text = telemetry.kube_state_metrics()
    allocatable = {labels["node"]: value for labels, value in samples(text, "kube_node_status_allocatable")}
    assert allocatable == {ONE: 7, TWO: 8}
    cordoned = {labels["node"]: value for labels, value in samples(text, "kube_node_spec_unschedulable")}
    assert cordoned == {ONE: 1, TWO: 0}
    ready = [
        (labels["node"], labels["status"])
        for labels, value in samples(text, "kube_node_status_condition")
        if labels["condition"] == "Ready" and value == 1
    ]
    assert ready == [(ONE, "true"), (TWO, "true")]
    assert [labels["key"] for labels, _ in samples(text, "kube_node_spec_taint")] == [
        "node.kubernetes.io/unschedulable"
    ]
