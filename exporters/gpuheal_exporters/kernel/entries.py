"""Lines of a log file, with the entries that take several lines made one.

`journalctl -o export` and `-o verbose` write a field per line, `-o json-pretty` an object over several, `-o json-seq`
and `-o json-sse` an object behind a mark. Such an entry comes out as one line of JSON, under the number of its first.
What a program wrote may hold line breaks; it stays in its entry, or its second line would pass for the kernel's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

MAX_FIELDS = 256
MAX_OBJECT_LINES = 512
_FIELD = re.compile(r"(?P<indent> {4})?(?P<name>[A-Z_][A-Z0-9_]{0,63})=(?P<value>.*)", re.DOTALL)
_CONTINUED = " " * 6  # journalctl -o verbose indents fields by four, their further lines to the value's column
_OPENS = b"__CURSOR="  # first field of an entry of the journal export format
_NAME = re.compile(rb"[A-Z_][A-Z0-9_]{0,63}\n")
_LENGTH_BYTES = 8
MAX_LINE = 1 << 20
MAX_FIELD = 1 << 26
_MARK = re.compile(r"(?:\x1e|data: )(?=\{)")


class _Entry:
    """The fields, or the lines of an object, that were seen of an entry so far."""

    def __init__(self) -> None:
        self.first = 0
        self.fields: dict[str, str] = {}
        self.last = ""
        self.lines: list[str] = []

    def take(self) -> Iterator[tuple[int, str]]:
        """Yield the entry, if one was begun, and forget it."""
        if "MESSAGE" in self.fields:
            yield self.first, json.dumps(self.fields)
        if self.lines:
            yield self.first, " ".join(self.lines)
        self.first, self.fields, self.lines = 0, {}, []


def entries(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line from 1, text) of every entry, in order."""
    entry = _Entry()
    for number, raw in enumerate(lines, 1):
        line = _MARK.sub("", raw.rstrip("\r\n"), count=1)
        if entry.lines or line == "{":
            entry.first = entry.first or number
            entry.lines.append(line.strip())
            if line == "}" or len(entry.lines) >= MAX_OBJECT_LINES:
                yield from entry.take()
            continue
        field = _FIELD.match(line)
        if field is not None and len(entry.fields) < MAX_FIELDS:
            entry.first = entry.first or number
            entry.fields[field["name"]] = field["value"]
            entry.last = field["name"]
            continue
        if entry.fields and line.startswith(_CONTINUED):
            entry.fields[entry.last] += " " + line.strip()
            continue
        yield from entry.take()
        yield number, line
    yield from entry.take()


def lines_of(raw: BinaryIO) -> Iterator[str]:
    """Yield the lines of a file of any bytes; of a line beyond all measure only its start.

    A field with line breaks is binary in the journal export format: its name alone, its length in eight bytes (little
    endian), its value. It comes out as one line.
    """
    opened, whole = False, True
    while piece := raw.readline(MAX_LINE):
        started, whole = whole, piece.endswith(b"\n")
        if not started:
            continue
        opened = piece.startswith(_OPENS) or (opened and piece != b"\n")
        if opened and _NAME.fullmatch(piece):
            piece = piece[:-1] + b"=" + _value(raw).replace(b"\n", b" ")
        yield piece.decode("utf-8", "replace")


def _value(raw: BinaryIO) -> bytes:
    length = int.from_bytes(raw.read(_LENGTH_BYTES), "little")
    if length > MAX_FIELD:
        return b""
    return raw.read(length + 1)[:MAX_LINE]
