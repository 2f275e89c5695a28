"""The hardware half of the exporter in one object: NVML, inventory, software health, attribution, and their collectors.

    monitor = GpuMonitor(root=Path("/"), boot_id=boot.boot_id, state_dir=Path("/var/lib/gpuheal"))
    state = NodeExporterState(inventory=monitor.inventory, attribution=monitor.attribution, ...)
    monitor.start()                    # threads; returns at once
    monitor.wait_first(10)             # for --once: every source was asked once, or the time is over
    parts += monitor.collectors        # those of collectors.registry.HARDWARE
    monitor.on_reset = state.reset_proven   # before start: called in NVML's thread with (gpu_uuid, unix seconds)
    monitor.stop()                     # NVML is shut down cleanly

`monitor.supervisor` has `recheck()`, `release(seconds)` and `resume()` for the time around a GPU reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from gpuheal_exporters.collectors.definition import Hardware, build
from gpuheal_exporters.collectors.polled import Polled
from gpuheal_exporters.collectors.registry import HARDWARE
from gpuheal_exporters.host.inventory import NAME, NodeInventory
from gpuheal_exporters.nvml.reset import ResetWatch
from gpuheal_exporters.nvml.schedule import NvmlSettings
from gpuheal_exporters.nvml.snapshot import NvmlSnapshot
from gpuheal_exporters.nvml.supervisor import NvmlSupervisor
from gpuheal_exporters.pods.attribution import NodeAttribution


class GpuMonitor:
    """See the module. Without a state directory the inventory lives in memory only."""

    def __init__(
        self,
        *,
        boot_id: str,
        root: Path = Path("/"),
        state_dir: Path | None = None,
        pod_resources: Path | None = None,
        settings: NvmlSettings | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        path = None if state_dir is None else state_dir / NAME
        self.inventory = NodeInventory(boot_id=boot_id, path=path, root=root)
        self.on_reset: Callable[[str, float], object] | None = None
        self._resets = ResetWatch()
        self.supervisor = NvmlSupervisor(settings, root=str(root), env=env, listener=self._observed)
        self.attribution = NodeAttribution(self.inventory, root=root, socket_path=pod_resources)
        hardware = Hardware(
            root=root,
            snapshot=self.supervisor.snapshot,
            inventory=self.inventory,
            attribution=self.attribution,
            polled=lambda: self.polled,
        )
        self.collectors = build(HARDWARE, hardware)
        self.polled = tuple(each for each in self.collectors if isinstance(each, Polled))

    def _observed(self, snapshot: NvmlSnapshot) -> None:
        self.inventory.update(snapshot)
        for gpu_uuid in self._resets.update(snapshot):
            if self.on_reset is not None:
                self.on_reset(gpu_uuid, snapshot.observed_at)

    def start(self) -> None:
        """Ask NVML and the other sources from now on, each by a thread of its own."""
        self.supervisor.start()
        for polled in self.polled:
            polled.start()

    def wait_first(self, timeout_seconds: float) -> bool:
        """Return when every source was asked once or found unusable; False when the time was over first."""
        until = time.monotonic() + timeout_seconds
        complete = self.supervisor.wait_complete(timeout_seconds).complete
        done = [polled.wait_first(max(until - time.monotonic(), 0.0)) for polled in self.polled]
        return complete and all(done)

    def stop(self) -> bool:
        """Let go of the GPUs; return False if a probe was stuck and left behind."""
        stopped = [self.supervisor.stop(), *(polled.stop() for polled in self.polled)]
        return all(stopped)
