"""Every GPU this node is known to have, by UUID, kept on disk: a lost GPU stays known, also after a reboot it did not
survive.

File `inventory.json`: {"schema": 1, "gpus": [{uuid, pci, serial, slot, product, minor, boot_id, seen_at, links,
instances}]}. Delete an entry (or the file) to make the exporter forget a GPU at once; by itself it forgets one that
another GPU replaced at its address, and one not seen for FORGET_SECONDS.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpuheal_exporters.host import shape
from gpuheal_exporters.host.identity import GpuIdentity, normalise_pci
from gpuheal_exporters.host.persist import read_state, write_atomic
from gpuheal_exporters.nvml.snapshot import Gpu, MigInstance, NvmlSnapshot

NAME = "inventory.json"
SCHEMA = 1
FORGET_SECONDS = 30 * 86400.0
REWRITE_SECONDS = 3600.0
"""`seen_at` alone makes the file be written this often at most."""
MAX_GPUS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRecord:
    """One GPU. `seen_at` is unix seconds, `links` the most NVLinks ever seen up, `present` None while nobody can
    tell.
    """

    uuid: str
    pci: str
    serial: str = ""
    slot: str = ""
    product: str = ""
    minor: int | None = None
    boot_id: str = ""
    seen_at: float = 0.0
    links: int = 0
    instances: tuple[MigInstance, ...] = ()
    present: bool | None = None

    def identity(self) -> GpuIdentity:
        return GpuIdentity(
            gpu_uuid=self.uuid, pci_bus_id=self.pci, serial=self.serial, slot=self.slot, product=self.product
        )


_INSTANCE: Mapping[str, Callable[[object], Any]] = {
    "uuid": shape.text,
    "gpu_instance": shape.whole,
    "compute_instance": shape.whole,
}
_RECORD: Mapping[str, Callable[[object], Any]] = {
    **dict.fromkeys(("uuid", "pci", "serial", "slot", "product", "boot_id"), shape.text),
    "minor": shape.optional(shape.whole),
    "seen_at": shape.number,
    "links": shape.whole,
}


def active_links(gpu: Gpu) -> int:
    """Return the number of NVLinks that are up now."""
    return sum(state > 0 for state in gpu.reading("nvlink").table("states").values())


def sysfs_slot(root: Path, pci: str) -> str:
    """Return `slot NAME` of the physical slot whose address this is (/sys/bus/pci/slots), or an empty text."""
    for address in sorted((root / "sys/bus/pci/slots").glob("*/address"))[:MAX_GPUS]:
        try:
            if address.read_text(encoding="ascii", errors="replace").strip() == pci:
                return f"slot {address.parent.name}"
        except OSError:
            continue
    return ""


class NodeInventory:
    """The GPUs of one node. Thread-safe; without a path it lives in memory only."""

    def __init__(
        self,
        *,
        boot_id: str,
        path: Path | None = None,
        root: Path = Path("/"),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._boot_id = boot_id
        self._path = path
        self._root = root
        self._now = now
        self._lock = threading.Lock()
        self._records: dict[str, GpuRecord] = {}
        self._at: dict[str, GpuIdentity] = {}
        self._written: tuple[GpuRecord, ...] = ()
        self._written_at = 0.0
        self.write_errors = 0
        self.problem = read_state(path, self._load) if path is not None else ""
        """What was wrong with the file at the start; it was then set aside as NAME.bad."""

    def gpus(self) -> Sequence[GpuIdentity]:
        """Return every GPU known, present or lost, ordered by address."""
        return [record.identity() for record in self.records()]

    def records(self) -> Sequence[GpuRecord]:
        """Return the same with all that is known."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: (record.pci, record.uuid))

    def by_pci(self, pci_bus_id: str) -> GpuIdentity | None:
        """Return the GPU at a normalised address (dddd:bb:dd), or None; of two, the one seen last."""
        return self._at.get(pci_bus_id)

    def by_device_id(self, device_id: str) -> str:
        """Return the UUID of the GPU that a device plugin or DRA driver means, or an empty text.

        Known forms: GPU UUID, MIG UUID (its parent), both with `::N` of time slicing, `nvidiaN` and `nvidiaN/giM`
        (GKE), `gpu-N` and `gpu-N-mig-…` (NVIDIA's DRA driver), where N is the device minor.
        """
        name = device_id.split("::", 1)[0]
        with self._lock:
            if name in self._records:
                return name
            for record in self._records.values():
                if any(instance.uuid == name for instance in record.instances):
                    return record.uuid
                if record.minor is not None and _minor(name) == record.minor:
                    return record.uuid
        return ""

    def expected_links(self, gpu: Gpu) -> int | None:
        """Return how many NVLinks of this GPU should be up; None if it has none.

        With a fabric (NVSwitch) all it has. Otherwise the most ever seen up on it; and where one was, or the GPU is
        soldered to a board (SXM), the most seen on a sibling, since those are wired alike. A card that never had a
        bridge expects none, whatever its siblings have.
        """
        states = gpu.reading("nvlink").table("states")
        if not states:
            return None
        if gpu.reading("fabric").number("state"):
            return len(states)
        with self._lock:
            own = self._records.get(gpu.uuid)
            most = max(active_links(gpu), own.links if own else 0)
            if most or "SXM" in gpu.product:
                most = max([most, *(each.links for each in self._records.values() if each.product == gpu.product)])
        return most

    def update(self, snapshot: NvmlSnapshot) -> None:
        """Merge in what NVML and the kernel module name; write it if it changed (a full disk is only counted)."""
        with self._lock:
            self._merge(snapshot)
            self._forget()
            self._index()
            self._write()

    def _index(self) -> None:
        """Note who is where, for `by_pci`, which every line of a flood asks."""
        ordered = sorted(self._records.values(), key=lambda record: record.seen_at)
        self._at = {record.pci: record.identity() for record in ordered}

    def _merge(self, snapshot: NvmlSnapshot) -> None:
        seen = {gpu.uuid: gpu for gpu in snapshot.gpus}
        for gpu in snapshot.gpus:
            if gpu.present or gpu.uuid not in self._records:
                self._seen(gpu)
        for proc in snapshot.proc_gpus:
            if proc.uuid and proc.pci:
                known = self._records.get(proc.uuid) or GpuRecord(uuid=proc.uuid, pci=proc.pci, product=proc.product)
                self._records[proc.uuid] = replace(known, pci=proc.pci, boot_id=self._boot_id, seen_at=self._now())
        for uuid, record in self._records.items():
            present: bool | None = None
            if snapshot.serving:
                gpu_seen = seen.get(uuid)
                present = gpu_seen.present if gpu_seen else False if snapshot.enumerated else record.present
            self._records[uuid] = replace(record, present=present)

    def _seen(self, gpu: Gpu) -> None:
        for other in [other for other in self._records.values() if other.pci == gpu.pci and other.uuid != gpu.uuid]:
            del self._records[other.uuid]  # a new board at the old one's address
        known = self._records.get(gpu.uuid) or GpuRecord(uuid=gpu.uuid, pci=gpu.pci)
        if len(self._records) >= MAX_GPUS and gpu.uuid not in self._records:
            return
        self._records[gpu.uuid] = replace(
            known,
            pci=gpu.pci or known.pci,
            serial=gpu.serial or known.serial,
            slot=gpu.slot or known.slot or sysfs_slot(self._root, gpu.pci),
            product=gpu.product or known.product,
            minor=known.minor if gpu.minor is None else gpu.minor,
            boot_id=self._boot_id,
            seen_at=max(known.seen_at, gpu.observed_at),
            links=max(known.links, active_links(gpu)),
            instances=gpu.instances,
        )

    def _forget(self) -> None:
        limit = self._now() - FORGET_SECONDS
        self._records = {
            uuid: record for uuid, record in self._records.items() if record.seen_at >= limit or record.present
        }

    def _write(self) -> None:
        if self._path is None:
            return
        wanted = tuple(replace(record, seen_at=0.0, present=None) for record in self._records.values())
        if wanted == self._written and self._now() - self._written_at < REWRITE_SECONDS:
            return
        entries = [asdict(record) for record in self._records.values()]
        for entry in entries:
            del entry["present"]
        try:
            write_atomic(self._path, {"schema": SCHEMA, "gpus": entries})
        except OSError:
            self.write_errors += 1
            return
        self._written, self._written_at = wanted, self._now()

    def _load(self, document: Mapping[str, Any]) -> None:
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {str(document['schema'])[:40]} is not {SCHEMA}")
        records = {}
        for entry in shape.items(document["gpus"], MAX_GPUS):
            instances = [MigInstance(**shape.fields(each, _INSTANCE)) for each in shape.items(entry["instances"], 64)]
            record = GpuRecord(**shape.fields(entry, _RECORD), instances=tuple(instances))
            if not record.uuid or (record.pci and normalise_pci(record.pci) != record.pci):
                raise ValueError(f"no GPU: {record.uuid!r} at {record.pci!r}")
            records[record.uuid] = record
        self._records = records
        self._index()


def _minor(name: str) -> int | None:
    """Return N of `nvidiaN`, `nvidiaN/giM`, `gpu-N`, `gpu-N-mig-…`; None for other names."""
    for prefix, end in (("nvidia", "/"), ("gpu-", "-")):
        digits = name.removeprefix(prefix).split(end, 1)[0]
        if name.startswith(prefix) and digits.isdigit():
            return int(digits)
    return None
