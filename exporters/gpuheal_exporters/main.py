"""`gpuheal exporter`: one command that follows the kernel log, asks NVML and serves what both say."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gpuheal_exporters.options import parse_options


def _parse(path: str, *, drill: bool) -> int:
    from gpuheal_exporters.parse import print_parsed

    if path == "-":
        print_parsed(sys.stdin, sys.stdout, drill=drill)
        return 0
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            print_parsed(lines, sys.stdout, drill=drill)
    except OSError as error:
        print(f"gpuheal exporter: {path}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def main(argv: Sequence[str]) -> int:
    """Runs the command; 0 after a clean end, 2 if an option or file is wrong, 1 if the address is taken."""
    options = parse_options(argv)
    if options.parse is not None:
        return _parse(options.parse, drill=options.drill)
    from gpuheal_exporters.daemon import run
    from gpuheal_exporters.errors import ConfigError

    try:
        return run(options)
    except ConfigError as error:
        print(f"gpuheal exporter: {error}", file=sys.stderr)
        return 2
