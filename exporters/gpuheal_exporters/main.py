"""`gpuheal exporter`: one command that follows the kernel log, asks NVML and serves what both say."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gpuheal_exporters.options import parse_options


def _parse(path: str, *, drill: bool) -> int:
    from gpuheal_exporters.kernel.parse import print_parsed

    try:
        # Kernel logs hold process names, which may be any bytes.
        with open(0 if path == "-" else path, encoding="utf-8", errors="replace", closefd=path != "-") as lines:
            print_parsed(lines, sys.stdout, drill=drill)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, grep -q) has seen enough; nothing is left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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
