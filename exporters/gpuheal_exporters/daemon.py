"""Builds the exporter from its options, starts it and stops it; no logic of its own."""

from __future__ import annotations

import argparse
import functools
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gpuheal_exporters.bootinfo import read_boot, read_driver_version
from gpuheal_exporters.collector import InventoryCollector, KernelCollector
from gpuheal_exporters.follower import Follower, OpenSource
from gpuheal_exporters.identity import Inventory, StaticInventory, load_inventory
from gpuheal_exporters.journal import JournalSource
from gpuheal_exporters.metrics import Collectors, family, render, single
from gpuheal_exporters.node import NodeExporterState
from gpuheal_exporters.persist import NAME
from gpuheal_exporters.server import App, serve
from gpuheal_exporters.source import Cursor, FileSource, KmsgSource, LogSource
from gpuheal_exporters.tally import Tally

log = logging.getLogger(__name__)

HEARTBEAT_LIMIT_SECONDS = 30.0  # /healthz: the loop turns at least once a second


def _version() -> str:
    try:
        return version("gpuheal")
    except PackageNotFoundError:
        return "unknown"


class SelfCollector(Collector):
    """The exporter's own condition: log source, heartbeat, state file, acknowledgements."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._version = _version()
        self.outcomes: dict[str, int] = {}

    def collect(self) -> Iterable[Metric]:
        """One consistent enough look; no locks."""
        follower, tally = self._follower, self._follower.tally
        yield single("gpuheal_kmsg_up", float(tally.up))
        yield single("gpuheal_kmsg_source_info", 1.0, tally.source)
        yield single("gpuheal_kmsg_records_total", tally.records)
        yield single("gpuheal_kmsg_overruns_total", tally.overruns)
        yield single("gpuheal_kmsg_sequence_gaps_total", tally.gaps)
        yield single("gpuheal_kmsg_lost_records_total", tally.lost)
        if tally.last_record_at:
            yield single("gpuheal_kmsg_last_record_timestamp_seconds", tally.last_record_at)
        if follower.heartbeat_at:
            yield single("gpuheal_exporter_heartbeat_timestamp_seconds", follower.heartbeat_at)
        yield single("gpuheal_exporter_build_info", 1.0, self._version)
        yield single("gpuheal_state_write_errors_total", follower.write_errors)
        yield single("gpuheal_state_load_errors_total", follower.load_errors)
        outcomes = family("gpuheal_acknowledge_requests_total")
        for outcome, count in self.outcomes.items():
            outcomes.add_metric((outcome,), count)
        yield outcomes


def _open_path(path: Path, tally: Tally, cursor: Cursor) -> LogSource:
    """A device gives one record per read; anything else is a file or FIFO of lines."""
    if path.is_char_device():
        return KmsgSource(path, tally, cursor)
    return FileSource(path, tally, cursor, sleep=time.sleep)


def _open_file(path: Path, tally: Tally, cursor: Cursor) -> LogSource:
    return FileSource(path, tally, cursor, sleep=time.sleep)


def openers(options: argparse.Namespace) -> list[OpenSource]:
    """The sources to try, in order."""
    kmsg = options.kmsg or options.root / "dev/kmsg"
    log_file = options.log_file or options.root / "var/log/kern.log"
    ways: dict[str, OpenSource] = {
        "kmsg": functools.partial(_open_path, kmsg),
        "journal": JournalSource,
        "file": functools.partial(_open_file, log_file),
    }
    if options.source != "auto":
        return [ways[options.source]]
    # journalctl reads the journal of the system it runs in: of no use for another root.
    order = ("kmsg", "journal", "file") if options.root == Path("/") and options.kmsg is None else ("kmsg", "file")
    return [ways[name] for name in order]


def _time_base(options: argparse.Namespace, boot_time: float) -> float:
    """Unix time of the kernel log's zero: exact for this machine's own clock, the boot time otherwise."""
    if options.root == Path("/") and options.kmsg is None:
        return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    return boot_time


def run(options: argparse.Namespace) -> int:
    """The exporter ran until a signal ended it (or once, with --once); the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    inventory: Inventory = load_inventory(options.inventory) if options.inventory else StaticInventory()
    boot = read_boot(options.root)
    state = NodeExporterState(
        inventory=inventory,
        boot_id=boot.boot_id,
        boot_time=boot.boot_time,
        clock=time.time,
        driver_version=read_driver_version(options.root),
        drill=options.drill,
    )
    follower = Follower(
        state=state,
        openers=openers(options),
        state_file=None if options.once else options.state_dir / NAME,
        clock=time.time,
        time_base=_time_base(options, boot.boot_time),
        read_boot=functools.partial(read_boot, options.root),
    )
    own = SelfCollector(follower)
    parts: list[Collector] = [KernelCollector(state), InventoryCollector(state), own]
    if options.once:
        return _once(follower, parts)
    return _serve(options, follower, own, parts)


def _once(follower: Follower, parts: list[Collector]) -> int:
    deadline = time.monotonic() + 10.0
    follower.heartbeat_at = time.time()
    while follower.drain() and time.monotonic() < deadline:
        pass
    sys.stdout.write(render(*parts).decode())
    follower.close()
    return 0


def _serve(options: argparse.Namespace, follower: Follower, own: SelfCollector, parts: list[Collector]) -> int:
    options.state_dir.mkdir(parents=True, exist_ok=True)
    follower.load()
    parts.append(ProcessCollector(registry=None))

    def healthy() -> bool:
        return time.time() - follower.heartbeat_at < HEARTBEAT_LIMIT_SECONDS

    app = App(
        state=follower.state,
        collector=Collectors(parts),
        token_file=options.token_file,
        persist=follower.persist,
        healthy=healthy,
    )
    own.outcomes = app.outcomes
    try:
        server = serve(app, options.host, options.port)
    except OSError as error:
        print(f"gpuheal exporter: {options.listen_address}: {error.strerror}", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    web = threading.Thread(target=server.serve_forever, name="web", daemon=True)
    web.start()
    log.info("serving on http://%s:%d/metrics", options.host, server.server_port)
    follower.run(stop)
    server.shutdown()
    server.server_close()
    return 0
