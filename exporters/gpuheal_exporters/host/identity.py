"""Which GPU sits at which PCI address: the join between kernel log lines and GPU UUIDs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from gpuheal_exporters.errors import ConfigError

_PCI = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?\Z")
_MAX_BYTES = 1 << 20
_MAX_VALUE = 128
_FIELDS = ("gpu_uuid", "pci_bus_id", "serial", "slot", "product")


@lru_cache(maxsize=512)
def normalise_pci(text: str) -> str:
    """Return the address as `dddd:bb:dd` in lower case, without the function digit; ValueError if it is none.

    NVML writes eight domain digits and upper case (`00000000:3B:00.0`), the kernel four and lower case.
    """
    match = _PCI.match(text.strip())
    if match is None:
        raise ValueError(f"not a PCI address: {text!r}")
    domain, bus, device = match.groups()
    return f"{int(domain or '0', 16):04x}:{bus.lower()}:{device.lower()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuIdentity:
    """One physical GPU; fields that are not known are empty strings."""

    gpu_uuid: str
    pci_bus_id: str
    serial: str = ""
    slot: str = ""
    product: str = ""


class Inventory(Protocol):
    """Anything that knows the GPUs of this node, present or lost."""

    def gpus(self) -> Sequence[GpuIdentity]:
        """Return every GPU known, in a stable order."""
        ...

    def by_pci(self, pci_bus_id: str) -> GpuIdentity | None:
        """Return the GPU at a normalised address, or None."""
        ...


class StaticInventory:
    """An inventory that never changes after construction."""

    def __init__(self, gpus: Iterable[GpuIdentity] = ()) -> None:
        self._by_pci = {gpu.pci_bus_id: gpu for gpu in gpus}

    def gpus(self) -> Sequence[GpuIdentity]:
        """Return the GPUs ordered by PCI address."""
        return [self._by_pci[pci] for pci in sorted(self._by_pci)]

    def by_pci(self, pci_bus_id: str) -> GpuIdentity | None:
        """Return the GPU at this address, or None."""
        return self._by_pci.get(pci_bus_id)


class JoinedInventory:
    """Two inventories as one; the first outranks the second where both know an address."""

    def __init__(self, first: Inventory, second: Inventory) -> None:
        self._first, self._second = first, second

    def gpus(self) -> Sequence[GpuIdentity]:
        """Return every GPU either knows; one UUID or address only once."""
        first = list(self._first.gpus())
        taken = {gpu.gpu_uuid for gpu in first} | {gpu.pci_bus_id for gpu in first}
        return first + [gpu for gpu in self._second.gpus() if gpu.gpu_uuid not in taken and gpu.pci_bus_id not in taken]

    def by_pci(self, pci_bus_id: str) -> GpuIdentity | None:
        """Return the GPU at this address, or None."""
        return self._first.by_pci(pci_bus_id) or self._second.by_pci(pci_bus_id)


def _entry(file: str, path: str, raw: object) -> GpuIdentity:
    if not isinstance(raw, Mapping):
        raise ConfigError(file, path, "not a mapping", f"expected keys {', '.join(_FIELDS)}")
    unknown = sorted(set(map(str, raw)) - set(_FIELDS))
    if unknown:
        raise ConfigError(file, path, f"unknown keys {', '.join(unknown)}", f"known are {', '.join(_FIELDS)}")
    values = {}
    for key in _FIELDS:
        value = raw.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise ConfigError(file, f"{path}.{key}", "not a text")
        values[key] = "" if value is None else str(value)
        if not values[key].isprintable():
            raise ConfigError(file, f"{path}.{key}", "contains non-printable characters")
        if len(values[key]) > _MAX_VALUE:
            raise ConfigError(file, f"{path}.{key}", f"longer than the limit of {_MAX_VALUE} characters")
    if not values["gpu_uuid"]:
        raise ConfigError(file, f"{path}.gpu_uuid", "missing")
    try:
        values["pci_bus_id"] = normalise_pci(values["pci_bus_id"])
    except ValueError as error:
        raise ConfigError(file, f"{path}.pci_bus_id", str(error), "for example 0000:3b:00") from None
    return GpuIdentity(**values)


def load_inventory(path: Path) -> StaticInventory:
    """Return the GPUs listed in a JSON or YAML file: a list of mappings with the fields of `GpuIdentity`.

    Raises ConfigError naming the file and the entry. YAML is only imported for files that do not end in `.json`.
    """
    file = str(path)
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(file, "", "not a plain file")
        with path.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(file, "", f"larger than the limit of {_MAX_BYTES} bytes")
    document: Any
    try:
        text = data.decode()
        if path.suffix == ".json":
            document = json.loads(text)
        else:
            import yaml

            try:
                document = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(file, "", f"cannot be parsed: {error}") from None
    if not isinstance(document, list):
        raise ConfigError(file, "", "not a list of GPUs")
    gpus = [_entry(file, f"[{index}]", raw) for index, raw in enumerate(document)]
    seen: dict[str, int] = {}
    for index, gpu in enumerate(gpus):
        if gpu.pci_bus_id in seen:
            raise ConfigError(file, f"[{index}].pci_bus_id", f"{gpu.pci_bus_id} is already at [{seen[gpu.pci_bus_id]}]")
        seen[gpu.pci_bus_id] = index
    return StaticInventory(gpus)
