"""The kernel log as journald keeps it, through `journalctl`: for nodes where /dev/kmsg may not be read."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Sequence as Words
from typing import Any

from gpuheal_exporters.kernel.kmsg import MAX_RECORD, KernelRecord, interesting
from gpuheal_exporters.kernel.source import Cursor, SourceError
from gpuheal_exporters.kernel.tally import Tally

COMMAND = ("journalctl", "--quiet", "--dmesg", "--boot", "--output=json", "--no-pager", "--follow", "--no-tail")
_LINE_MAX = 16 * MAX_RECORD
_FACILITY = 8


def _text(value: object) -> str:
    """Return MESSAGE as text: it is one, or a list of bytes if it is not UTF-8 (systemd, journal JSON format)."""
    if isinstance(value, list):
        return bytes(byte for byte in value if isinstance(byte, int) and 0 <= byte < 256).decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _number(entry: dict[str, Any], key: str, default: int) -> int:
    text = entry.get(key)
    return int(text) if isinstance(text, str) and text.isdigit() else default


def parse_entry(line: bytes) -> tuple[KernelRecord, str] | None:
    """Return the record and cursor of one JSON line, or None if it is not one.

    journald files what user space wrote to /dev/kmsg under the kernel's transport too, with its own facility: a
    missing facility is not taken for the kernel's.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    priority = _number(entry, "SYSLOG_FACILITY", 1) * _FACILITY + _number(entry, "PRIORITY", 6)
    usec = _number(entry, "_SOURCE_MONOTONIC_TIMESTAMP", -1)
    record = KernelRecord(
        text=_text(entry.get("MESSAGE"))[:MAX_RECORD], prio=priority, usec=usec if usec >= 0 else None
    )
    return record, str(entry.get("__CURSOR", ""))


class JournalSource:
    """A running `journalctl --follow`; its cursor is journald's own."""

    name = "journal"
    place = "journal"
    patience = 2.0  # journalctl has to find the boot in a journal that may be large

    def __init__(self, tally: Tally, cursor: Cursor | None = None, *, command: Words[str] = COMMAND) -> None:
        after = (cursor or {}).get("journal")
        self._cursor = after if isinstance(after, str) else ""
        extra = (f"--after-cursor={self._cursor}",) if self._cursor else ()
        try:
            self._process = subprocess.Popen(
                [*command, *extra], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise SourceError(f"{command[0]}: {error.strerror}") from None
        assert self._process.stdout is not None
        self._fd = self._process.stdout.fileno()
        os.set_blocking(self._fd, False)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._tally = tally
        self._buffer = b""
        self.caught_up = False

    def read(self, limit: int) -> list[KernelRecord]:
        """See LogSource; SourceError when journalctl ended."""
        out: list[KernelRecord] = []
        taken = 0
        while taken < limit:
            try:
                chunk = os.read(self._fd, 65536)
            except BlockingIOError:
                self.caught_up = True
                break
            if not chunk and out:
                break  # what it said last counts; the next read finds the end again
            if not chunk:
                raise SourceError(f"journalctl exited with status {self._process.wait(timeout=5)}")
            *lines, rest = (self._buffer + chunk).split(b"\n")
            self._buffer = rest if len(rest) <= _LINE_MAX else b""
            for line in lines:
                self._take(line, out)
            taken += len(lines)
        return out

    def _take(self, line: bytes, out: list[KernelRecord]) -> None:
        entry = parse_entry(line)
        if entry is None:
            return
        self._tally.records += 1
        record, self._cursor = entry[0], entry[1] or self._cursor
        if interesting(record.text.encode("utf-8", "replace")):
            out.append(record)

    def cursor(self) -> Cursor:
        """Return journald's cursor of the last entry read."""
        return {"journal": self._cursor} if self._cursor else {}

    def wait(self, seconds: float) -> bool:
        """See LogSource."""
        return bool(self._poll.poll(seconds * 1000))

    def close(self) -> None:
        """End journalctl."""
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=2)
        assert self._process.stdout is not None
        self._process.stdout.close()
