"""Command line of the exporter."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

_EPILOG = """examples:
  gpuheal exporter                                       serve on 127.0.0.1:9845
  gpuheal exporter --once                                print the current metrics once and exit
  dmesg | gpuheal exporter --parse -                     print one JSON object per GPU-related line
"""


_PATHS = (
    ("--kmsg", None, "PATH", "kernel log device, or a file or FIFO with kmsg records (default: ROOT/dev/kmsg)"),
    ("--log-file", None, "PATH", "fallback kernel log file (default: ROOT/var/log/kern.log)"),
    ("--inventory", None, "FILE", "JSON or YAML list of GPUs; takes precedence over NVML"),
    ("--state-dir", Path("/var/lib/gpuheal"), "DIR", "directory for latched state (default: %(default)s)"),
    ("--token-file", None, "FILE", "file with the bearer token for /v1/acknowledge and /events"),
    ("--root", Path("/"), "DIR", "root directory of the host's file system (default: %(default)s)"),
)
_FLAGS = (
    ("--no-nvml", "do not query NVML, the kubelet or other software on the node"),
    ("--drill", "accept records that user space wrote to the kernel log (for drills only, never in production)"),
    ("--once", "print the metrics once and exit, without touching the state directory"),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; every option has a default that suits a node."""
    parser = argparse.ArgumentParser(
        prog="gpuheal exporter",
        description="Export GPU faults from this node's kernel log and NVML as Prometheus metrics.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--listen-address",
        default="127.0.0.1:9845",
        metavar="HOST:PORT",
        help="address to listen on (default: %(default)s)",
    )
    sources = ("auto", "kmsg", "journal", "file")
    add("--source", choices=sources, default="auto", help="kernel log source (default: %(default)s)")
    for name, default, metavar, text in _PATHS:
        add(name, type=Path, default=default, metavar=metavar, help=text)
    for name, text in _FLAGS:
        add(name, action="store_true", help=text)
    add(
        "--parse",
        metavar="FILE",
        help="parse a log file, print one JSON object per GPU-related line, and exit (- reads standard input)",
    )
    return parser


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, with `host` and `port` split; SystemExit(2) with a clear text if one is wrong."""
    parser = build_parser()
    options = parser.parse_args(list(argv))
    host, separator, port = options.listen_address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        parser.error(
            f"--listen-address {options.listen_address}: expected HOST:PORT, such as 127.0.0.1:9845 or [::]:9845"
        )
    options.host, options.port = host.strip("[]"), int(port)
    return options
