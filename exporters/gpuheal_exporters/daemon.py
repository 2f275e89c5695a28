"""Builds the exporter from its options, starts it and stops it; no logic of its own."""

from __future__ import annotations

import argparse
import functools
import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import ProcessCollector
from prometheus_client.registry import Collector

from gpuheal_exporters.collectors.definition import KernelLog, build
from gpuheal_exporters.collectors.presence import NoNvml
from gpuheal_exporters.collectors.registry import KERNEL_LOG
from gpuheal_exporters.errors import ConfigError
from gpuheal_exporters.host.bootinfo import BootInfo, read_boot, read_boot_id, read_driver_version
from gpuheal_exporters.host.identity import Inventory, JoinedInventory, StaticInventory, load_inventory
from gpuheal_exporters.host.pcitree import GPU_CLASSES, nvidia_devices, ports_above
from gpuheal_exporters.host.persist import NAME
from gpuheal_exporters.kernel.source import Cursor, FileSource, KmsgSource, LogSource, SourceError
from gpuheal_exporters.kernel.tally import Tally
from gpuheal_exporters.metrics.exposition import Collectors, render
from gpuheal_exporters.node.follower import Follower, OpenSource
from gpuheal_exporters.node.state import NodeExporterState
from gpuheal_exporters.server import App, serve

if TYPE_CHECKING:
    from gpuheal_exporters.monitor import GpuMonitor

log = logging.getLogger(__name__)

HEARTBEAT_LIMIT_SECONDS = 30.0  # /healthz: the loop turns at least once a second
FIRST_NVML_SECONDS = 5.0  # so long the log waits for NVML to name the GPUs, so that levels begin under their UUID
ONCE_SECONDS = 10.0
BUS_SECONDS = 60.0  # two small files of sysfs for each PCI device


class Exporter:
    """Every part of one running exporter, built and wired but not started."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.state_dir: Path | None = None if options.once else options.state_dir
        boot = read_boot(options.root)
        self.monitor = None if options.no_nvml else _monitor(options, boot, self.state_dir)
        inventory: Inventory = load_inventory(options.inventory) if options.inventory else StaticInventory()
        if self.monitor is not None:
            inventory = JoinedInventory(inventory, self.monitor.inventory)
        self.state = NodeExporterState(
            inventory=inventory,
            boot_id=boot.boot_id,
            boot_time=boot.boot_time,
            clock=time.time,
            drill=options.drill,
            attribution=self.monitor.attribution if self.monitor else None,
        )
        self.follower = Follower(
            state=self.state,
            openers=[opener for _, opener in ways(options)],
            state_file=self.state_dir / NAME if self.state_dir else None,
            clock=time.time,
            time_base=_time_base(options, boot),
            refresh=self.refresh,
        )
        self._bus_due = 0.0
        self.outcomes = {"accepted": 0, "unauthorized": 0, "invalid": 0}
        side = KernelLog(state=self.state, follower=self.follower, outcomes=self.outcomes)
        self.collectors: list[Collector] = [
            *build(KERNEL_LOG, side),
            *(self.monitor.collectors if self.monitor else (NoNvml(),)),
        ]

    def start_monitor(self, wait_seconds: float) -> None:
        """Begin to ask NVML and the other sources; return when each has answered once, at the latest after the wait."""
        if self.monitor is not None:
            self.monitor.on_reset = self.state.reset_proven
            self.monitor.start()
            self.monitor.supervisor.wait_complete(wait_seconds)
        self.refresh()

    def refresh(self) -> None:
        """Read again what may change in the meantime: boot, driver version, GPUs on the bus and ports above them."""
        root = self.options.root
        if read_boot_id(root) not in ("", self.state.boot_id):  # a process that was frozen and woken in another boot
            boot = read_boot(root)
            self.state.reboot(boot.boot_id, boot.boot_time)
        told = self.monitor.supervisor.snapshot().driver_version if self.monitor else ""
        self.state.situation.driver_version = told or read_driver_version(root)
        addresses = self.state.addresses
        if time.monotonic() >= self._bus_due:
            self._bus_due = time.monotonic() + BUS_SECONDS
            addresses.on_bus = frozenset(nvidia_devices(root, GPU_CLASSES))
        known = {gpu.pci_bus_id for gpu in addresses.inventory.gpus()}
        addresses.upstream = ports_above(root, sorted(known | addresses.on_bus))

    def healthy(self) -> bool:
        """Return whether the loop turned within the last half minute."""
        return time.time() - self.follower.heartbeat_at < HEARTBEAT_LIMIT_SECONDS

    def stop_monitor(self) -> None:
        """Shut NVML down cleanly."""
        if self.monitor is not None:
            self.monitor.stop()


def _monitor(options: argparse.Namespace, boot: BootInfo, state_dir: Path | None) -> GpuMonitor:
    from gpuheal_exporters.monitor import GpuMonitor

    return GpuMonitor(boot_id=boot.boot_id, root=options.root, state_dir=state_dir)


def _open_path(path: Path, tally: Tally, cursor: Cursor) -> LogSource:
    """Return a source of single records for a device, of lines for a file or FIFO."""
    try:
        device = path.is_char_device()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if device:
        return KmsgSource.open(path, tally, cursor)
    return FileSource(path, tally, cursor, sleep=time.sleep)


def _open_file(path: Path, tally: Tally, cursor: Cursor) -> LogSource:
    return FileSource(path, tally, cursor, sleep=time.sleep)


def _open_journal(tally: Tally, cursor: Cursor) -> LogSource:
    from gpuheal_exporters.kernel.journal import JournalSource

    return JournalSource(tally, cursor)


def ways(options: argparse.Namespace) -> list[tuple[str, OpenSource]]:
    """Return the sources to try by name, in order."""
    log_file = options.log_file or options.root / "var/log/kern.log"
    known: dict[str, OpenSource] = {
        "kmsg": functools.partial(_open_path, _kmsg(options)),
        "journal": _open_journal,
        "file": functools.partial(_open_file, log_file),
    }
    if options.source != "auto":
        return [(options.source, known[options.source])]
    # journalctl reads the journal of the system it runs in: of no use for another root.
    own = options.root == Path("/") and options.kmsg is None
    return [(name, opener) for name, opener in known.items() if own or name != "journal"]


def _kmsg(options: argparse.Namespace) -> Path:
    path: Path = options.kmsg or options.root / "dev/kmsg"
    return path


def _time_base(options: argparse.Namespace, boot: BootInfo) -> float:
    """Return Unix time of the kernel log's zero: by this machine's own clock for its own device, else the boot time."""
    try:
        own = _kmsg(options).is_char_device()
    except OSError:
        own = False
    return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) if own else boot.boot_time


def run(options: argparse.Namespace) -> int:
    """Run until a signal ends it (or once, with --once); return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if not options.once:
        try:
            options.state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                str(options.state_dir), "", f"cannot be created: {error.strerror}", "--state-dir"
            ) from None
    exporter = Exporter(options)
    return _once(exporter) if options.once else _serve(exporter)


def _once(exporter: Exporter) -> int:
    until = time.monotonic() + ONCE_SECONDS
    exporter.start_monitor(ONCE_SECONDS)
    if exporter.monitor is not None:
        exporter.monitor.wait_first(max(until - time.monotonic(), 0.1))
    exporter.follower.heartbeat_at = time.time()
    exporter.follower.catch_up(time.time() + ONCE_SECONDS)
    sys.stdout.write(render(*exporter.collectors).decode())
    exporter.stop_monitor()
    exporter.follower.close()
    return 0


def _serve(exporter: Exporter) -> int:
    options, follower = exporter.options, exporter.follower
    follower.load()
    app = App(
        state=exporter.state,
        collector=Collectors([*exporter.collectors, ProcessCollector(registry=None)]),
        token_file=options.token_file,
        persist=follower.persist,
        healthy=exporter.healthy,
        outcomes=exporter.outcomes,
    )
    try:
        server = serve(app, options.host, options.port)
    except OSError as error:
        print(f"gpuheal exporter: {options.listen_address}: {error.strerror}", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    exporter.start_monitor(FIRST_NVML_SECONDS)
    web = threading.Thread(target=_web, args=(server, stop), name="web", daemon=True)
    web.start()
    log.info("serving on http://%s:%d/metrics", options.host, server.server_port)
    follower.run(stop)
    ended_by_itself = not web.is_alive()
    server.shutdown()
    server.server_close()
    exporter.stop_monitor()
    return 1 if ended_by_itself else 0


def _web(server: WSGIServer, stop: threading.Event) -> None:
    """Serve until shut down; if that ends by itself nobody can scrape any more, so the process ends too."""
    try:
        server.serve_forever()
    finally:
        stop.set()
