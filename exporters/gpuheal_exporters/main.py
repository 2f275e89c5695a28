"""`gpuheal exporter`: one command that follows the kernel log, asks NVML and serves what both say."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gpuheal_exporters.options import parse_options

MAX_LINE = 1 << 20


def _parse(path: str, *, drill: bool) -> int:
    from gpuheal_exporters.kernel.parse import Leftover, print_parsed

    left = Leftover()
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as raw:
            start = raw.peek(4)[:4]
            if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[1:2] == b"\0":
                hint = "convert it with iconv -f UTF-16 -t UTF-8"
                print(f"gpuheal exporter: {path}: this is UTF-16 ({hint})", file=sys.stderr)
                return 2
            # Kernel logs hold process names, which may be any bytes; a line without an end must not fill the memory.
            pieces = iter(lambda: raw.readline(MAX_LINE), b"")
            print_parsed((piece.decode("utf-8", "replace") for piece in pieces), sys.stdout, drill=drill, left=left)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, grep -q) has seen enough; nothing is left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"gpuheal exporter: {path}: {error.strerror}", file=sys.stderr)
        return 2
    for sentence in left.told():
        print(f"gpuheal exporter: {path}: {sentence}", file=sys.stderr)
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the command; return 0 after a clean end, 2 if an option or file is wrong, 1 if the address is taken."""
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
