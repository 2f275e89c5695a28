"""`gpuheal exporter`: one command that follows the kernel log, asks NVML and serves what both say."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gpuheal_exporters.options import parse_options

NOT_TEXT = {
    b"\x1f\x8b": "gzip; give what zcat prints",
    b"BZh": "bzip2; give what bzcat prints",
    b"\xfd7zXZ": "xz; give what xzcat prints",
    b"\x28\xb5\x2f\xfd": "zstd; give what zstdcat prints",
    b"LPKSHHRH": "a journal; give what journalctl --dmesg --file=FILE prints",
    b"\xff\xfe": "UTF-16; convert it with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it with iconv -f UTF-16 -t UTF-8",
}
"""How files begin that hold a log and are no text, and what to do with them."""


def _parse(path: str, *, drill: bool) -> int:
    from gpuheal_exporters.kernel.entries import lines_of
    from gpuheal_exporters.kernel.parse import Leftover, print_parsed

    left = Leftover()
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as raw:
            if refused := _not_text(raw.peek(8)[:8]):
                print(f"gpuheal exporter: {path}: this is {refused}", file=sys.stderr)
                return 2
            print_parsed(lines_of(raw), sys.stdout, drill=drill, left=left)
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


def _not_text(start: bytes) -> str:
    """Return what a file is that begins with these bytes, if it is no text, and what to do; else an empty text."""
    if b"\0" in start[:2]:
        return NOT_TEXT[b"\xff\xfe"]
    return next((what for mark, what in NOT_TEXT.items() if start.startswith(mark)), "")


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
