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


_PATHS = (
    ("--kmsg", None, "PATH", "kernel log device, or a file or FIFO of records (default ROOT/dev/kmsg)"),
    ("--log-file", None, "PATH", "kernel log file of the fallback (default ROOT/var/log/kern.log)"),
    ("--inventory", None, "FILE", "JSON or YAML list of GPUs; outranks what NVML says"),
    ("--state-dir", Path("/var/lib/gpuheal"), "DIR", "where levels are kept (default %(default)s)"),
    ("--token-file", None, "FILE", "bearer token for /v1/acknowledge and /events"),
    ("--root", Path("/"), "DIR", "root of everything read from the host (default %(default)s)"),
)
_FLAGS = (
    ("--no-nvml", "do not ask NVML, the kubelet and other software of the node"),
    ("--drill", "believe records that user space wrote to the kernel log: for drills, never production"),
    ("--once", "print the metrics and exit; the state directory is not touched"),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; every option has a default that suits a node."""
    parser = argparse.ArgumentParser(
        prog="gpuheal exporter",
        description="Keep what the kernel log and NVML say about this node's GPUs as levels, for Prometheus.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--listen-address", default="127.0.0.1:9845", metavar="HOST:PORT", help="address to serve (default %(default)s)"
    )
    sources = ("auto", "kmsg", "journal", "file")
    add("--source", choices=sources, default="auto", help="where to read the kernel log (default %(default)s)")
    for name, default, metavar, text in _PATHS:
        add(name, type=Path, default=default, metavar=metavar, help=text)
    for name, text in _FLAGS:
        add(name, action="store_true", help=text)
    add("--parse", metavar="FILE", help="print what each line of a log means, as JSON lines (- is standard input)")
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
