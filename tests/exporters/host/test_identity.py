"""PCI addresses and inventory files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuheal_exporters.errors import ConfigError
from gpuheal_exporters.host.identity import (
    GpuIdentity,
    JoinedInventory,
    StaticInventory,
    load_inventory,
    normalise_pci,
)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0000:3b:00", "0000:3b:00"),
        ("00000000:3B:00.0", "0000:3b:00"),
        ("0008:01:00.0", "0008:01:00"),
        ("3b:00.0", "0000:3b:00"),
        ("00010000:3b:00.0", "10000:3b:00"),
    ],
)
def test_every_form_of_an_address_is_one_text(text: str, want: str) -> None:
    """NVML's and the kernel's ways to write an address lead to the same label value."""
    assert normalise_pci(text) == want


@pytest.mark.parametrize("text", ["", "3b", "0000:3b:00.0.1", "zz:00.0", "GPU-1"])
def test_other_texts_are_no_address(text: str) -> None:
    """What is no address is refused, not guessed."""
    with pytest.raises(ValueError, match="not a PCI address"):
        normalise_pci(text)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gpus.json", '[{"gpu_uuid": "GPU-1", "pci_bus_id": "00000000:3B:00.0", "serial": 165, "slot": "3"}]'),
        ("gpus.yaml", "- {gpu_uuid: GPU-1, pci_bus_id: '0000:3b:00', serial: 165, slot: 3}\n"),
    ],
)
def test_json_and_yaml_inventories_are_read(tmp_path: Path, name: str, content: str) -> None:
    """Both forms give the same GPUs; addresses are normalised, numbers become text."""
    (tmp_path / name).write_text(content)
    inventory = load_inventory(tmp_path / name)
    gpu = GpuIdentity(gpu_uuid="GPU-1", pci_bus_id="0000:3b:00", serial="165", slot="3")
    assert inventory.gpus() == [gpu]
    assert inventory.by_pci("0000:3b:00") == gpu
    assert inventory.by_pci("0000:3c:00") is None


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", "{", "cannot be parsed"),
        ("a.yaml", "a: [", "cannot be parsed"),
        ("a.json", "{}", "not a list"),
        ("a.json", "[3]", "[0]: not a mapping"),
        ("a.json", '[{"gpu_uuid": "GPU-1", "bus": "3b"}]', "[0]: unknown keys bus"),
        ("a.json", '[{"pci_bus_id": "3b:00.0"}]', "[0].gpu_uuid: missing"),
        ("a.json", '[{"gpu_uuid": "GPU-1", "pci_bus_id": "x"}]', "[0].pci_bus_id: not a PCI address"),
        (
            "a.json",
            '[{"gpu_uuid": "a", "pci_bus_id": "3b:00.0"}, {"gpu_uuid": "b", "pci_bus_id": "0000:3b:00"}]',
            "[1].pci_bus_id: 0000:3b:00 is already at [0]",
        ),
    ],
)
def test_a_bad_inventory_names_file_and_place(tmp_path: Path, name: str, content: str, problem: str) -> None:
    """The error says which file, which entry and what is wrong."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_inventory(tmp_path / name)
    assert problem in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_inventory_is_a_config_error(tmp_path: Path) -> None:
    """A path that does not exist is named."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_inventory(tmp_path / "none.json")


def test_gpus_come_in_address_order() -> None:
    """The order does not depend on that of the file."""
    gpus = [GpuIdentity(gpu_uuid=f"GPU-{n}", pci_bus_id=f"0000:{n}b:00") for n in (9, 1, 5)]
    assert [gpu.gpu_uuid for gpu in StaticInventory(gpus).gpus()] == ["GPU-1", "GPU-5", "GPU-9"]


def test_two_inventories_are_one() -> None:
    """The first outranks the second where both know a UUID or an address; the rest of the second is added."""
    mine = GpuIdentity(gpu_uuid="GPU-1", pci_bus_id="0000:1b:00", slot="1")
    same = GpuIdentity(gpu_uuid="GPU-1", pci_bus_id="0000:9b:00")
    other = GpuIdentity(gpu_uuid="GPU-2", pci_bus_id="0000:2b:00")
    joined = JoinedInventory(StaticInventory([mine]), StaticInventory([same, other]))
    assert joined.gpus() == [mine, other]
    assert joined.by_pci("0000:1b:00") == mine
    assert joined.by_pci("0000:2b:00") == other
    assert joined.by_pci("0000:3b:00") is None
