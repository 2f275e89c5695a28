"""Lines of a log file, with the entries that take several lines made one.

`journalctl -o export` and `-o verbose` write a field per line, `-o json-pretty` an object over several, `-o json-seq`
and `-o json-sse` an object behind a mark. Such an entry comes out as one line of JSON, under the number of its first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

MAX_FIELDS = 256
MAX_OBJECT_LINES = 512
_FIELD = re.compile(r"(?P<indent> {4})?(?P<name>[A-Z_][A-Z0-9_]{0,63})=(?P<value>.*)", re.DOTALL)
_MARK = re.compile(r"(?:\x1e|data: )(?=\{)")


class _Entry:
    """The fields, or the lines of an object, that were seen of an entry so far."""

    def __init__(self) -> None:
        self.first = 0
        self.fields: dict[str, str] = {}
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
            continue
        yield from entry.take()
        yield number, line
    yield from entry.take()
