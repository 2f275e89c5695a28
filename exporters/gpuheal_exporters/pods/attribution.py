"""Whose work an event hit: process -> cgroup -> pod, and GPU -> containers that hold it.

What comes out is text for events and one info series; it is never a label that identifies a fault.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuheal_exporters.host.inventory import NodeInventory
from gpuheal_exporters.host.procfs import host_pids_visible, read_text
from gpuheal_exporters.pods.podresources import SOCKET, HeldDevice, PodResourcesError, list_devices

_UID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_POD = re.compile(rf"(?:^|[/-])pod({_UID})(?:\.slice|/|$|:)")
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?:/|$)")
MAX_TEXT = 65536
MAX_CACHED = 512
PROCESS_SECONDS = 5.0
"""How long the answer for a pid is kept: short against the reuse of pids, long against a flood of events of one
process.
"""
ENDED_SECONDS = 30.0
LOGS_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupOwner:
    """The pod (and container, if told) a cgroup belongs to. `pod_uid` of static pods is a hash without dashes."""

    pod_uid: str
    container_id: str = ""


def parse_cgroup(text: str) -> CgroupOwner | None:
    """Return the pod named in a /proc/<pid>/cgroup file, or None for a process outside pods.

    Knows cgroup v1 and v2, the systemd driver (`…-pod1234_….slice/cri-containerd-….scope`), the cgroupfs driver
    (`/kubepods/burstable/pod1234-…/…`), CRI-O, Docker and nested kubelets (the innermost pod counts). KEP-2570;
    kubelet pkg/kubelet/cm.
    """
    best: CgroupOwner | None = None
    for line in text[:MAX_TEXT].splitlines():
        path = line.split(":", 2)[-1]
        if "kubepods" not in path and "/pod" not in path:
            continue
        pods = list(_POD.finditer(path))
        if not pods:
            continue
        containers = _CONTAINER.findall(path, pods[-1].end(1))
        uid = pods[-1][1]
        owner = CgroupOwner(
            pod_uid=uid if len(uid) == 32 else uid.replace("_", "-"),
            container_id=containers[-1] if containers else "",
        )
        if best is None or (owner.container_id and not best.container_id):
            best = owner
    return best


def process_owner(root: Path, pid: int) -> CgroupOwner | None:
    """Return the pod of a running process; None when it is gone, in no pod, or pids here are not the kernel log's."""
    if not host_pids_visible(root):
        return None
    return parse_cgroup(read_text(root / "proc" / str(pid) / "cgroup", MAX_TEXT))


def pod_names(root: Path) -> dict[str, tuple[str, str]]:
    """Return pod UID -> (namespace, name) of the pods of this node, from the kubelet's log folders
    `<namespace>_<name>_<uid>`.
    """
    found = {}
    try:
        names = [entry.name for entry in (root / "var/log/pods").iterdir()]
    except OSError:
        return {}
    for name in names:
        parts = name.split("_")
        if len(parts) == 3:
            found[parts[2]] = (parts[0], parts[1])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """Who holds which GPU: rows of (gpu_uuid, namespace, pod, container); `up` is None where there is no kubelet."""

    up: bool | None
    observed_at: float
    rows: tuple[tuple[str, str, str, str], ...]


class NodeAttribution:
    """Knows whose work an event hit, and who holds which GPU. Thread-safe.

    `refresh` (called every few seconds by its own thread) asks the kubelet; `holders` and `view` give the
    last answer, so that a pod that died with its GPU is still found at event time.
    """

    def __init__(
        self,
        inventory: NodeInventory,
        *,
        root: Path = Path("/"),
        socket_path: Path | None = None,
        timeout_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._inventory = inventory
        self._root = root
        self._socket = socket_path or root / SOCKET
        self._timeout = timeout_seconds
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._held: tuple[HeldDevice, ...] = ()
        self._held_at = 0.0
        self._up: bool | None = None
        self.problem = ""
        """Why the kubelet's last answer is missing."""
        self._processes: OrderedDict[int, tuple[float, CgroupOwner | None]] = OrderedDict()
        self._names: tuple[float, dict[str, tuple[str, str]]] = (float("-inf"), {})

    def refresh(self) -> bool:
        """Ask the kubelet; return whether it answered. Without its socket there is no kubelet to ask."""
        if not self._socket.exists():
            self._up = None
            return False
        try:
            held = list_devices(self._socket, self._timeout)
        except PodResourcesError as error:
            self._up, self.problem = False, str(error)
            return False
        with self._lock:
            self._held, self._held_at = held, self._now()
        self._up, self.problem = True, ""
        return True

    def holders(self, gpu_uuid: str) -> tuple[HeldDevice, ...]:
        """Return the containers that held the GPU, whole or in part, when the kubelet last answered."""
        with self._lock:
            held = self._held
        return tuple(each for each in held if gpu_uuid and self._inventory.by_device_id(each.device_id) == gpu_uuid)

    def __call__(self, *, pid: int | None, gpu_uuid: str, pci_bus_id: str) -> Mapping[str, str]:
        """Return namespace, pod, container, pod_uid, container_id of the event's owner, and `by` (process or device).

        The process outranks the device: several pods may share a GPU. With several holders their names are joined by
        commas.
        """
        owner = self._owner(pid) if pid else None
        if owner is not None:
            namespace, pod = self._pod_names().get(owner.pod_uid, ("", ""))
            said = {"namespace": namespace, "pod": pod, "pod_uid": owner.pod_uid, "container_id": owner.container_id}
            return {key: value for key, value in said.items() if value} | {"by": "process"}
        if not gpu_uuid:
            known = self._inventory.by_pci(pci_bus_id)
            gpu_uuid = known.gpu_uuid if known else ""
        held = self.holders(gpu_uuid)
        if not held:
            return {}
        return {
            "namespace": _joined(each.namespace for each in held),
            "pod": _joined(each.pod for each in held),
            "container": _joined(each.container for each in held),
            "by": "device",
        }

    def view(self) -> Holders:
        """Return what the kubelet's last answer was."""
        with self._lock:
            held, held_at = self._held, self._held_at
        rows = {
            (self._inventory.by_device_id(each.device_id), each.namespace, each.pod, each.container) for each in held
        }
        return Holders(up=self._up, observed_at=held_at, rows=tuple(sorted(row for row in rows if row[0])))

    def _owner(self, pid: int) -> CgroupOwner | None:
        with self._lock:
            at, owner = self._processes.get(pid, (float("-inf"), None))
        if self._clock() - at < PROCESS_SECONDS:
            return owner
        fresh = process_owner(self._root, pid)
        if fresh is not None or self._clock() - at >= ENDED_SECONDS:
            owner = fresh  # a process that ended meanwhile keeps its owner for a while
        with self._lock:
            self._processes[pid] = (self._clock(), owner)
            self._processes.move_to_end(pid)
            while len(self._processes) > MAX_CACHED:
                self._processes.popitem(last=False)
        return owner

    def _pod_names(self) -> Mapping[str, tuple[str, str]]:
        at, names = self._names
        if self._clock() - at >= LOGS_SECONDS:
            names = pod_names(self._root)
            self._names = (self._clock(), names)
        return names


def _joined(texts: Iterable[str]) -> str:
    return ",".join(sorted(set(texts)))
