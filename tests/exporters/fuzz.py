"""Everything of the exporter that a stranger, a driver or a broken disk can reach, fed with damaged input.

`python -m tests.exporters.fuzz 1000000` runs so many cases from a random seed and prints the figure; the suite runs
10,000. A case fails if anything but the documented errors is raised, or if what was read cannot be used afterwards.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuheal_exporters.collectors.inventory import InventoryCollector
from gpuheal_exporters.collectors.kernel import KernelCollector
from gpuheal_exporters.collectors.rdma import RdmaCollector
from gpuheal_exporters.errors import ConfigError
from gpuheal_exporters.host.bootinfo import read_boot, read_driver_version
from gpuheal_exporters.host.identity import GpuIdentity, StaticInventory, load_inventory
from gpuheal_exporters.host.inventory import NodeInventory
from gpuheal_exporters.host.pcitree import GPU_CLASSES, nvidia_devices, ports_above
from gpuheal_exporters.host.persist import read_state, write_atomic
from gpuheal_exporters.kernel.journal import parse_entry
from gpuheal_exporters.kernel.kmsg import Assembler, parse_line, parse_raw
from gpuheal_exporters.kernel.parse import print_parsed
from gpuheal_exporters.metrics.exposition import render
from gpuheal_exporters.node.state import NodeExporterState
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot, NvmlState
from gpuheal_exporters.nvml.state import NvmlLearned
from gpuheal_exporters.pods.attribution import parse_cgroup
from gpuheal_exporters.pods.podresources import PodResourcesError, decode_list
from gpuheal_exporters.server import Refused, parse_acknowledgement

KERNEL = Path(__file__).parent / "kernel/data/samples.jsonl"
LINES = [json.loads(line)["line"] for line in KERNEL.read_text().splitlines()]
GPU = GpuIdentity(gpu_uuid="GPU-1", pci_bus_id="0000:3b:00", serial="9", slot="3", product="H100")
JUNK: tuple[Any, ...] = (
    None, "x", -1, 1e308, [], {}, True, "9" * 400, float("nan"), float("inf"), 2**70, [[]], {"a": 1},
    "0000:3b:00", "\ud800",
)  # fmt: skip
PREFIXES = (
    "", "[12.345678] ", "<3>", "kern  :err   : ", "Jul 31 23:14:18 node01 kernel: ", "2024-07-31T23:14:18Z stdout F ",
    '{"log":"', "4,1,1,c;", "\x1b[31m", "10.0.0.1: kern: ",
)  # fmt: skip


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    below = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    found = [deeper for key, value in below for deeper in leaves(value, (*path, key))]
    return found or [path]


class Fuzz:
    """One run; `folder` holds the files that are damaged."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.state = self._state()
        for line in LINES:
            self.state.feed_line(line, 1.0)
        self.dumped = json.loads(json.dumps(self.state.dump()))
        self.inventory = folder / "inventory.json"
        learned = NvmlLearned()
        learned.started({"count": 1})
        learned.answered("identity", 0, {"uuid": "GPU-1", "pci": "0000:3b:00", "instances": [{"uuid": "MIG-1"}]}, 1.0)
        learned.state = NvmlState.OK
        self._inventory().update(learned.snapshot(complete=True, abandoned=0, at=1.0))
        self.known = json.loads(self.inventory.read_text())
        # The first kinds cost microseconds, the later ones a file or a whole page each.
        self.kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (80, self.line), (40, self.raw), (30, self.journal), (12, self.file_of_lines), (12, self.acknowledgement),
            (10, self.protobuf), (6, self.cgroup), (3, self.state_file), (3, self.inventory_file), (1, self.config),
            (1, self.host_files), (2, self.nvml_answer),
        )  # fmt: skip

    def run(self, cases: int) -> None:
        """So many cases have gone through without a surprise."""
        weights = [weight for weight, _ in self.kinds]
        for _, kind in zip(
            range(cases), iter(lambda: self.random.choices(self.kinds, weights)[0][1], None), strict=False
        ):
            kind()
            self.counts[kind.__name__] += 1

    def _state(self) -> NodeExporterState:
        return NodeExporterState(
            inventory=StaticInventory([GPU]), boot_id="b", clock=lambda: 1.0, driver_version="570.1"
        )

    def _inventory(self) -> NodeInventory:
        return NodeInventory(boot_id="b", path=self.inventory, now=lambda: 1.0)

    def noise(self) -> str:
        """A few characters of any kind."""
        return "".join(
            chr(self.random.choice((self.random.randint(0, 127), self.random.randint(0, 0xD7FF)))) for _ in range(4)
        )

    def shuffled(self) -> str:
        """A line whose parts are cut, doubled, swapped with another's or replaced, behind any prefix."""
        line: str = self.random.choice(PREFIXES) + self.random.choice(LINES)
        for _ in range(self.random.randint(0, 4)):
            start = self.random.randint(0, len(line))
            end = min(len(line), start + self.random.randint(0, 20))
            other = self.random.choice(LINES)
            cut = self.random.randint(0, len(other))
            insert = self.random.choice(
                (self.random.choice(PREFIXES), line[start:end] * 2, other[cut : cut + 15], self.noise(), "")
            )
            line = line[:start] + insert + line[end:]
        return line

    def damaged(self, data: bytes) -> bytes:
        """Bytes with some flipped, cut or repeated."""
        found = bytearray(data)
        for _ in range(self.random.randint(1, 6)):
            if not found:
                break
            at = self.random.randrange(len(found))
            action = self.random.randrange(3)
            if action == 0:
                found[at] = self.random.randrange(256)
            elif action == 1:
                del found[at : at + self.random.randint(1, 9)]
            else:
                found[at:at] = found[at : at + self.random.randint(1, 9)]
        return bytes(found)

    def altered(self, document: Any) -> Any:
        """The document with one or two of its values replaced by junk."""
        made = copy.deepcopy(document)
        for _ in range(self.random.choice((1, 1, 2))):
            path = self.random.choice(leaves(made))
            at = made
            for key in path[:-1]:
                at = at[key]
            if path:
                at[path[-1]] = copy.deepcopy(self.random.choice(JUNK))
        return made

    def bytes_of(self, document: Any) -> bytes:
        """The document with junk in it, or with its bytes damaged, or other bytes altogether."""
        text = json.dumps(self.altered(document)).encode()
        return self.random.choice((text, text, self.damaged(text), b"[" * self.random.choice((1, 3_000)), b""))

    # --- the kinds of cases

    def line(self) -> None:
        """A line of text into a state."""
        self.state.feed(parse_line(self.shuffled()), 1.0)

    def raw(self) -> None:
        """Bytes of /dev/kmsg, and fragments."""
        assembler = Assembler()
        for head in (b"", b"4,1,1,c;", b"4,2,1,+;"):
            if (record := parse_raw(head + self.damaged(self.shuffled().encode("utf-8", "surrogatepass")))) is not None:
                assembler.push(record)
        if (held := assembler.flush()) is not None:
            self.state.feed(held, 1.0)

    def journal(self) -> None:
        """A line of `journalctl -o json`."""
        entry = {"MESSAGE": self.shuffled(), "SYSLOG_FACILITY": "0", "PRIORITY": "3", "__CURSOR": "s=1"}
        parse_entry(self.bytes_of(entry))
        parse_line(json.dumps(self.altered({"log": entry, "time": "2024-07-31T23:14:18Z"})))

    def file_of_lines(self) -> None:
        """Several lines through --parse."""
        print_parsed([self.shuffled() + "\n" for _ in range(5)], io.StringIO())

    def acknowledgement(self) -> None:
        """The body of POST /v1/acknowledge."""
        body = self.bytes_of({"until": 1.0, "gpu_uuid": "GPU-1", "xid": 79})
        with contextlib.suppress(Refused):
            self.state.acknowledge(**parse_acknowledgement(body, 1.0))

    def protobuf(self) -> None:
        """The kubelet's answer."""
        with contextlib.suppress(PodResourcesError):
            decode_list(self.damaged(LISTED) if self.random.random() < 0.8 else self.random.randbytes(40))

    def cgroup(self) -> None:
        """A /proc/PID/cgroup file."""
        uid = "11111111-2222-3333-4444-555555555555"
        text = f"0::/kubepods.slice/kubepods-pod{uid.replace('-', '_')}.slice/cri-containerd-{'a' * 64}.scope"
        parse_cgroup(self.damaged(text.encode()).decode("utf-8", "replace"))

    def state_file(self) -> None:
        """kernel.json, and the use of what was loaded."""
        path = self.folder / "kernel.json"
        path.write_bytes(self.bytes_of(self.dumped))
        state = self._state()
        if not read_state(path, state.load):
            write_atomic(path, state.dump())
        state.feed_line(self.random.choice(LINES), 2.0)
        assert render(KernelCollector(state), InventoryCollector(state))

    def inventory_file(self) -> None:
        """inventory.json, and the use of what was loaded."""
        self.inventory.write_bytes(self.bytes_of(self.known))
        inventory = self._inventory()
        inventory.update(NvmlSnapshot())
        assert inventory.gpus() is not None
        assert inventory.by_device_id("GPU-1") in ("", "GPU-1")

    def config(self) -> None:
        """The file of --inventory, in both forms."""
        path = self.folder / self.random.choice(("gpus.json", "gpus.yaml"))
        path.write_bytes(self.bytes_of([{"gpu_uuid": "GPU-1", "pci_bus_id": "0000:3b:00", "serial": "9"}]))
        with contextlib.suppress(ConfigError):
            assert load_inventory(path).gpus() is not None

    def host_files(self) -> None:
        """Files of /proc and /sys."""
        root = self.folder / "root"
        for name, text in HOST.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(self.damaged(text))
        read_boot(root)
        read_driver_version(root)
        nvidia_devices(root, GPU_CLASSES)
        ports_above(root, ["0000:3b:00", self.noise().replace("\0", "")])
        assert render(RdmaCollector(root)) is not None

    def nvml_answer(self) -> None:
        """What the child says of a GPU."""
        learned = NvmlLearned()
        learned.started(self.altered({"driver": "570.1", "nvml": "12", "cuda": 12080, "count": 2}))
        answer = {"uuid": "GPU-1", "pci": "0000:3b:00", "minor": 0, "mig": 1, "instances": [{"uuid": "MIG-1", "gi": 1}]}
        learned.answered("identity", 0, self.altered(answer), 1.0)
        learned.proc(self.altered({"gpus": [{"pci": "0000:3b:00", "uuid": "GPU-1", "product": "x"}]}))
        learned.snapshot(complete=True, abandoned=0, at=1.0)


def _field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2, len(value))) + value


_HELD = _field(1, b"nvidia.com/gpu") + _field(2, b"GPU-1")
LISTED = _field(1, _field(1, b"train-0") + _field(2, b"team-a") + _field(3, _field(1, b"main") + _field(2, _HELD)))
HOST = {
    "proc/stat": b"cpu 1 2 3\nbtime 1700000000\n",
    "proc/sys/kernel/random/boot_id": b"11111111-2222-3333-4444-555555555555\n",
    "proc/driver/nvidia/version": b"NVRM version: NVIDIA UNIX Open Kernel Module  570.133.20  x\n",
    "sys/bus/pci/devices/0000:3b:00.0/vendor": b"0x10de\n",
    "sys/bus/pci/devices/0000:3b:00.0/class": b"0x030200\n",
    "sys/class/infiniband/mlx5_0/ports/1/state": b"4: ACTIVE\n",
    "sys/class/infiniband/mlx5_0/ports/1/rate": b"400 Gb/sec (4X NDR)\n",
    "sys/class/infiniband/mlx5_0/ports/1/counters/link_downed": b"0\n",
}


def main() -> int:
    """Runs the cases; prints the figure."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(seed, Path(folder))
        fuzz.run(cases)
    print(f"{cases} cases in {time.monotonic() - began:.0f} s: {dict(fuzz.counts.most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
