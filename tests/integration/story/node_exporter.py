"""The real exporter as a process on one simulated machine: it reads this machine's /dev/kmsg, as a drill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.integration.story.play import GPUHEAL

from gpuheal_exporters.host.identity import GpuIdentity
from gpuheal_lab.fleet.machine import Machine, Watcher
from gpuheal_lab.fleet.spec import NodeSpec
from gpuheal_lab.servers.process import Child, free_ports

KMSG = Path("/dev/kmsg")
MOST_RECORD = 8192
"""Linux' PRINTKRB_RECORD_MAX and more: a read with too small a buffer fails."""
DAYS = 3 * 86400.0
"""A machine that has just booted is left alone for half an hour."""
BOOT_ID = "proc/sys/kernel/random/boot_id"


@dataclass(slots=True)
class NodeExporter(Watcher):
    """`gpuheal exporter --drill --kmsg /dev/kmsg`; still while its machine is down, then in a new boot.

    A real boot would begin with an empty kernel log; this machine's log goes on, and so does the process that reads it.
    """

    folder: Path
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_ports(1)[0]}")
    child: Child | None = None
    lines: int = 0
    """What the kernel log held before the exporter began; levels of older drills among them are acknowledged."""

    def start(self, spec: NodeSpec) -> str:
        """The exporter answers, without levels from older drills in the kernel log; returns host:port."""
        self._boot(spec.boot_id(1), time.time() - DAYS)
        (self.folder / "token").write_text("drill", encoding="utf-8")
        gpus = [
            GpuIdentity(gpu_uuid=g.uuid, pci_bus_id=g.pci_bus_id, serial=g.serial, slot=g.slot, product=g.product)
            for g in spec.gpus
        ]
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps([asdict(gpu) for gpu in gpus]), encoding="utf-8")
        argv = [str(GPUHEAL), "exporter", "--drill", "--no-nvml", f"--kmsg={KMSG}", f"--inventory={inventory}"]
        argv += [f"--listen-address={self.address}", f"--root={self.folder}", f"--state-dir={self.folder / 'state'}"]
        argv += [f"--token-file={self.folder / 'token'}"]
        self.lines = _lines()
        self.child = Child("exporter", argv, log_path=self.folder / "exporter.log", ready=self._unready)
        self.child.start()
        self._acknowledge()
        return self.address

    def went_down(self, _machine: Machine, /) -> None:
        """Nobody answers any more."""
        assert self.child is not None
        self.child.freeze()

    def came_up(self, machine: Machine, /) -> None:
        """The exporter runs in the new boot; it sees the boot id within ten seconds."""
        assert self.child is not None
        self._boot(machine.boot_id, machine.booted_at.timestamp())
        self.child.thaw()

    def metrics(self) -> str:
        """What Prometheus would get."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=3) as answer:
            return str(answer.read().decode())

    def latched(self) -> list[str]:
        """The levels that hold, as lines of the exposition."""
        lines = self.metrics().splitlines()
        return [line for line in lines if line.startswith("gpuheal_xid_latched{") and line.split()[-1] in ("1", "1.0")]

    def _boot(self, boot_id: str, at: float) -> None:
        for name, text in {BOOT_ID: f"{boot_id}\n", "proc/stat": f"btime {int(at)}\n"}.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def _acknowledge(self) -> None:
        body = json.dumps({"until": time.time() + 1}).encode()
        headers = {"Authorization": "Bearer drill", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://{self.address}/v1/acknowledge", data=body, headers=headers)
        with urllib.request.urlopen(asked, timeout=5):
            pass

    def _unready(self) -> str | None:
        try:
            found = self.metrics()
        except OSError as problem:
            return str(problem)
        if "gpuheal_kmsg_up 1" not in found:
            return "the kernel log is not read"
        read = re.search(r"^gpuheal_kmsg_records_total (\S+)$", found, re.MULTILINE)
        assert read, found
        return None if float(read[1]) >= self.lines else f"{read[1]} of {self.lines} older records are read"


def _lines() -> int:
    """How many records the kernel log holds."""
    count = 0
    log = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            with contextlib.suppress(BrokenPipeError):  # the oldest was overwritten; the next read goes on behind it
                os.read(log, MOST_RECORD)
                count += 1
    except BlockingIOError:
        return count
    finally:
        os.close(log)
