"""Command line of the exporter."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

_EPILOG = """examples:
  gpuheal exporter                                       serve on 127.0.0.1:9845
  gpuheal exporter --once                                print the metrics of this moment and exit
  dmesg | gpuheal exporter --parse -                     one JSON object per line that says something about a GPU
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; every option has a default that suits a node."""
    parser = argparse.ArgumentParser(
        prog="gpuheal exporter",
        description="Keep what the kernel log and NVML say about this node's GPUs as levels, for Prometheus.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--listen-address",
        default="127.0.0.1:9845",
        metavar="HOST:PORT",
        help="address of /metrics (default %(default)s)",
    )
    add(
        "--kmsg",
        type=Path,
        default=None,
        metavar="PATH",
        help="kernel log device, or a file or FIFO of records (default ROOT/dev/kmsg)",
    )
    add(
        "--source",
        choices=("auto", "kmsg", "journal", "file"),
        default="auto",
        help="where to read the kernel log (default %(default)s)",
    )
    add(
        "--log-file",
        type=Path,
        default=None,
        metavar="PATH",
        help="kernel log file of the fallback (default ROOT/var/log/kern.log)",
    )
    add(
        "--inventory",
        type=Path,
        default=None,
        metavar="FILE",
        help="JSON or YAML list of GPUs, if NVML is not to be asked",
    )
    add(
        "--state-dir",
        type=Path,
        default=Path("/var/lib/gpuheal"),
        metavar="DIR",
        help="where levels are kept (default %(default)s)",
    )
    add("--token-file", type=Path, default=None, metavar="FILE", help="bearer token for /v1/acknowledge and /events")
    add(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="root of everything read from the host (default %(default)s)",
    )
    add("--no-nvml", action="store_true", help="do not ask NVML")
    add(
        "--drill",
        action="store_true",
        help="believe records that user space wrote to the kernel log: for drills, never production",
    )
    add("--once", action="store_true", help="print the metrics and exit; the state directory is not touched")
    add(
        "--parse",
        metavar="FILE",
        default=None,
        help="print what each line of a log means, as JSON lines (- is standard input)",
    )
    return parser


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options, with `host` and `port` split; SystemExit(2) with a clear text if one is wrong."""
    parser = build_parser()
    options = parser.parse_args(list(argv))
    host, separator, port = options.listen_address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        parser.error(
            f"--listen-address {options.listen_address}: expected HOST:PORT, such as 127.0.0.1:9845 or [::]:9845"
        )
    options.host, options.port = host.strip("[]"), int(port)
    return options
