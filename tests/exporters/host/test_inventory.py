"""GPUs stay known: over loss, restart and reboot, until replaced or long gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuheal_exporters.host.identity import GpuIdentity
from gpuheal_exporters.host.inventory import FORGET_SECONDS, NAME, NodeInventory
from gpuheal_exporters.nvml.snapshot import Gpu, MigInstance, NvmlSnapshot, NvmlState, ProcGpu, Reading


def gpu(index: int, **changes: object) -> Gpu:
    values: dict[str, object] = {
        "uuid": f"GPU-{index}",
        "pci": f"0000:1{index}:00",
        "serial": f"S{index}",
        "product": "NVIDIA H100 80GB HBM3",
        "slot": f"module {index}",
        "minor": index,
        "observed_at": 1000.0,
    }
    return Gpu(**(values | changes))  # type: ignore[arg-type]


def up(*gpus: Gpu, enumerated: bool = True) -> NvmlSnapshot:
    return NvmlSnapshot(state=NvmlState.OK, enumerated=enumerated, gpus=gpus)


def links(active: int, total: int = 18) -> Reading:
    return Reading(observed_at=1000.0, values={"states": {str(link): int(link < active) for link in range(total)}})


def presence(inventory: NodeInventory) -> dict[str, bool | None]:
    return {record.uuid: record.present for record in inventory.records()}


def open_inventory(folder: Path, *, boot_id: str = "boot-1", now: float = 1000.0) -> NodeInventory:
    return NodeInventory(boot_id=boot_id, path=folder / NAME, root=folder, now=lambda: now)


def test_identity_and_address_lookups() -> None:
    """A GPU is found by its address in the kernel log's form, with all that a technician needs."""
    inventory = NodeInventory(boot_id="b", now=lambda: 1000.0)
    inventory.update(up(gpu(1), gpu(0)))
    first = GpuIdentity(
        gpu_uuid="GPU-0", pci_bus_id="0000:10:00", serial="S0", slot="module 0", product="NVIDIA H100 80GB HBM3"
    )
    assert inventory.by_pci("0000:10:00") == first
    assert inventory.by_pci("0000:99:00") is None
    assert [each.gpu_uuid for each in inventory.gpus()] == ["GPU-0", "GPU-1"]


def test_lost_gpu_is_known_and_absent(tmp_path: Path) -> None:
    """A GPU that NVML calls lost keeps its identity and is not present."""
    inventory = open_inventory(tmp_path)
    inventory.update(up(gpu(0), gpu(1)))
    inventory.update(up(gpu(0), gpu(1, present=False)))
    assert presence(inventory) == {"GPU-0": True, "GPU-1": False}
    assert inventory.by_pci("0000:11:00") is not None


def test_gpu_that_did_not_survive_a_reboot_is_lost(tmp_path: Path) -> None:
    """After restart and reboot a GPU known from the file, missing from a whole enumeration, is not present but
    known.
    """
    open_inventory(tmp_path).update(up(gpu(0), gpu(1)))
    inventory = open_inventory(tmp_path, boot_id="boot-2", now=2000.0)
    assert inventory.problem == ""
    assert presence(inventory) == {"GPU-0": None, "GPU-1": None}
    inventory.update(up(gpu(0, observed_at=2000.0)))
    assert presence(inventory) == {"GPU-0": True, "GPU-1": False}
    assert [each.serial for each in inventory.gpus()] == ["S0", "S1"]
    assert [record.boot_id for record in inventory.records()] == ["boot-2", "boot-1"]


def test_nobody_is_called_lost_on_half_a_list(tmp_path: Path) -> None:
    """While one index is stuck or refuses, a GPU missing from the list is unknown, not lost."""
    open_inventory(tmp_path).update(up(gpu(0), gpu(1)))
    inventory = open_inventory(tmp_path)
    inventory.update(up(gpu(0), enumerated=False))
    assert presence(inventory) == {"GPU-0": True, "GPU-1": None}


@pytest.mark.parametrize("state", [NvmlState.DRIVER_MISSING, NvmlState.LIBRARY_MISSING, NvmlState.VERSION_MISMATCH])
def test_without_nvml_presence_is_unknown(state: NvmlState) -> None:
    """When NVML is away nothing is said about presence, though every GPU stays known."""
    inventory = NodeInventory(boot_id="b", now=lambda: 1000.0)
    inventory.update(up(gpu(0)))
    inventory.update(NvmlSnapshot(state=state, enumerated=True, gpus=(gpu(0),)))
    assert presence(inventory) == {"GPU-0": None}


def test_stuck_nvml_keeps_the_last_presence() -> None:
    """While a probe hangs, or NVML is released for a reset, presence is what was last known."""
    inventory = NodeInventory(boot_id="b", now=lambda: 1000.0)
    inventory.update(up(gpu(0), gpu(1, present=False)))
    for state in (NvmlState.STUCK, NvmlState.RELEASED):
        inventory.update(NvmlSnapshot(state=state, gpus=(gpu(0), gpu(1, present=False))))
        assert presence(inventory) == {"GPU-0": True, "GPU-1": False}


def test_replaced_board_is_forgotten(tmp_path: Path) -> None:
    """Another GPU at the address takes the place of the one that was there."""
    open_inventory(tmp_path).update(up(gpu(0), gpu(1)))
    inventory = open_inventory(tmp_path, boot_id="boot-2")
    inventory.update(up(gpu(0), gpu(1, uuid="GPU-new", serial="S9")))
    assert presence(inventory) == {"GPU-0": True, "GPU-new": True}


def test_long_gone_gpu_is_forgotten(tmp_path: Path) -> None:
    """A GPU not seen for thirty days is forgotten, one a second short of that is not."""
    open_inventory(tmp_path).update(up(gpu(0), gpu(1)))
    late = open_inventory(tmp_path, now=1000.0 + FORGET_SECONDS)
    late.update(up(gpu(0)))
    assert presence(late) == {"GPU-0": True, "GPU-1": False}
    later = open_inventory(tmp_path, now=1001.0 + FORGET_SECONDS)
    later.update(up(gpu(0)))
    assert presence(later) == {"GPU-0": True}


def test_kernel_module_alone_makes_an_inventory() -> None:
    """Without NVML the GPUs that /proc/driver/nvidia names are known by address, their presence is not."""
    inventory = NodeInventory(boot_id="b", now=lambda: 1000.0)
    proc = (ProcGpu(pci="0000:1b:00", uuid="GPU-7", product="NVIDIA H100 80GB HBM3"), ProcGpu(pci="0000:43:00"))
    inventory.update(NvmlSnapshot(state=NvmlState.LIBRARY_MISSING, proc_gpus=proc))
    assert presence(inventory) == {"GPU-7": None}
    found = inventory.by_pci("0000:1b:00")
    assert found is not None
    assert found.product == "NVIDIA H100 80GB HBM3"


def test_damaged_file_is_set_aside(tmp_path: Path) -> None:
    """An unusable file stops nothing: it is named, kept as .bad, and a new one is written."""
    for text in ("{", "[]", '{"schema": 2, "gpus": []}', '{"schema": 1, "gpus": [{"uuid": 1}]}'):
        (tmp_path / NAME).write_text(text)
        inventory = open_inventory(tmp_path)
        assert str(tmp_path / NAME) in inventory.problem
        assert (tmp_path / f"{NAME}.bad").read_text() == text
        inventory.update(up(gpu(0)))
        assert json.loads((tmp_path / NAME).read_text())["gpus"][0]["uuid"] == "GPU-0"


def test_file_is_written_only_for_news(tmp_path: Path) -> None:
    """A poll that tells nothing new does not touch the disk, except once an hour for the time the GPUs were seen."""
    now = [1000.0]
    inventory = NodeInventory(boot_id="b", path=tmp_path / NAME, root=tmp_path, now=lambda: now[0])
    inventory.update(up(gpu(0)))
    (tmp_path / NAME).unlink()
    now[0] = 1500.0
    inventory.update(up(gpu(0, observed_at=1500.0)))
    assert not (tmp_path / NAME).exists()
    now[0] = 1000.0 + 3600.0
    inventory.update(up(gpu(0, observed_at=4600.0)))
    assert json.loads((tmp_path / NAME).read_text())["gpus"][0]["seen_at"] == 4600.0


def test_unwritable_disk_is_counted_not_raised(tmp_path: Path) -> None:
    """When the file can't be written the inventory works on, and tries again at the next update."""
    inventory = NodeInventory(boot_id="b", path=tmp_path / "none" / NAME, now=lambda: 1000.0)
    inventory.update(up(gpu(0)))
    inventory.update(up(gpu(0)))
    assert inventory.write_errors == 2
    assert presence(inventory) == {"GPU-0": True}


@pytest.mark.parametrize(
    ("device_id", "uuid"),
    [
        ("GPU-1", "GPU-1"),
        ("GPU-1::3", "GPU-1"),
        ("MIG-a", "GPU-0"),
        ("MIG-a::0", "GPU-0"),
        ("nvidia1", "GPU-1"),
        ("nvidia1/gi3", "GPU-1"),
        ("gpu-0", "GPU-0"),
        ("gpu-1-mig-19-4-1", "GPU-1"),
        ("gpu-7", ""),
        ("nvidiactl", ""),
        ("", ""),
    ],
)
def test_device_ids_of_plugins_and_drivers(device_id: str, uuid: str) -> None:
    """Every way a device plugin or DRA driver names a device leads to the physical GPU, or nowhere."""
    inventory = NodeInventory(boot_id="b", now=lambda: 1000.0)
    mig = MigInstance(uuid="MIG-a", gpu_instance=1, compute_instance=0)
    inventory.update(up(gpu(0, instances=(mig,)), gpu(1)))
    assert inventory.by_device_id(device_id) == uuid


def test_slot_from_the_machine_when_nvml_has_none(tmp_path: Path) -> None:
    """A PCIe card's physical slot comes from /sys/bus/pci/slots."""
    for name, address in (("3", "0000:10:00"), ("4-1", "0000:11:00")):
        (tmp_path / "sys/bus/pci/slots" / name).mkdir(parents=True)
        (tmp_path / "sys/bus/pci/slots" / name / "address").write_text(f"{address}\n")
    inventory = open_inventory(tmp_path)
    inventory.update(up(gpu(0, slot=""), gpu(1, slot=""), gpu(2, slot="")))
    assert [each.slot for each in inventory.gpus()] == ["slot 3", "slot 4-1", ""]


def test_links_expected_on_a_board_come_from_siblings(tmp_path: Path) -> None:
    """A GPU whose link is down since the start is expected to have as many as its siblings of the same board."""
    inventory = open_inventory(tmp_path)
    short = gpu(1, readings={"nvlink": links(17)})
    inventory.update(up(gpu(0, readings={"nvlink": links(18)}), short))
    assert inventory.expected_links(short) == 18


def test_links_expected_on_a_board_whose_links_are_all_down(tmp_path: Path) -> None:
    """A soldered GPU that never had a link up is expected to have what its siblings have."""
    board = {"product": "NVIDIA A100-SXM4-40GB"}
    dark = gpu(1, **board, readings={"nvlink": links(0)})
    inventory = open_inventory(tmp_path)
    inventory.update(up(gpu(0, **board, readings={"nvlink": links(12)}), dark))
    assert inventory.expected_links(dark) == 12


@pytest.mark.parametrize("product", ["NVIDIA H100 NVL", "NVIDIA A100-PCIE-40GB", "NVIDIA RTX A6000", "NVIDIA L40S"])
def test_links_expected_on_cards_come_from_their_own_past(tmp_path: Path, product: str) -> None:
    """A PCIe card without a bridge expects no link; one that had a bridge expects it still, also after a restart."""
    card = {"product": product}
    bridged = gpu(0, **card, readings={"nvlink": links(12)})
    bare = gpu(1, **card, readings={"nvlink": links(0)})
    open_inventory(tmp_path).update(up(bridged, bare))
    inventory = open_inventory(tmp_path)
    assert inventory.expected_links(bare) == 0
    assert inventory.expected_links(gpu(0, **card, readings={"nvlink": links(0)})) == 12
    assert inventory.expected_links(gpu(2)) is None, "a GPU without NVLink"


def test_links_expected_with_a_fabric_are_all() -> None:
    """Behind NVSwitches every link is expected, also when none was ever up."""
    inventory = NodeInventory(boot_id="b", now=lambda: 1000.0)
    fabric = Reading(observed_at=1000.0, values={"state": 2})
    assert inventory.expected_links(gpu(0, readings={"nvlink": links(0), "fabric": fabric})) == 18
