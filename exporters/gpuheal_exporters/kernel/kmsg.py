"""Kernel log records: the raw form of /dev/kmsg, and lines of text in any wrapping (`wrapper`).

Record format: Documentation/ABI/testing/dev-kmsg in the kernel source: `PRIO,SEQ,USEC,FLAGS[,caller=…];TEXT`, then
dictionary lines that begin with a blank. Unprintable bytes and the backslash are written as `\\xNN`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gpuheal_exporters.kernel.wrapper import unwrap

# Any line the parsers recognise contains one of these; a cheap test that keeps ordinary traffic away from the regexes.
TOKENS = (b"NVRM:", b"SXid", b"AER:", b"PCIe Bus Error:", b": Link Down")
# Facility 0 is the kernel (include/linux/syslog.h numbering); user-space writes to /dev/kmsg get facility 1 or higher.
_FACILITY_SHIFT = 3
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
MAX_RECORD = 8192  # bytes; the kernel's own limit for one formatted record (CONSOLE_EXT_LOG_MAX)
MAX_FRAGMENTS = 8
_MAX_HEAD = 260  # four numbers and flags, and what a later kernel may add


class KernelRecord(NamedTuple):
    """One log message. `prio`, `seq`, `usec` (microseconds since boot) and `at` (unix seconds) are None for text that
    did not carry them; `known` is False if what stands around a driver's message was not understood.

    A named tuple, because a flood makes tens of thousands of them a second.
    """

    text: str
    prio: int | None = None
    seq: int | None = None
    usec: int | None = None
    flags: str = ""
    caller: str = ""
    at: float | None = None
    known: bool = True

    @property
    def from_kernel(self) -> bool:
        """Return whether the kernel itself wrote it; text without a priority is trusted as its source is."""
        return self.prio is None or self.prio >> _FACILITY_SHIFT == 0


def interesting(raw: bytes) -> bool:
    """Return False only if no parser can recognise the line."""
    for token in TOKENS:  # noqa: SIM110 - any() with a generator costs three times as much on this hot path
        if token in raw:
            return True
    return False


def unescape(raw: bytes) -> str:
    """Return the text with `\\xNN` resolved; bytes that are not UTF-8 become U+FFFD, NUL becomes a blank."""
    if b"\\x" in raw:
        raw = _ESCAPE.sub(lambda m: bytes((int(m[1], 16),)), raw)
    text = raw.decode("utf-8", "replace")
    return text.replace("\0", " ") if "\0" in text else text


def parse_raw(raw: bytes) -> KernelRecord | None:
    """Return the record of one read() from /dev/kmsg (dictionary lines are dropped), or None if it has no such header.

    Split by hand: half the time of a regular expression, and a flood brings hundreds of thousands of these a second.
    """
    head, separator, body = raw.partition(b";")
    fields = head.split(b",", 4)
    try:
        prio, seq, usec, flags = fields
        extra = b""
    except ValueError:
        if len(fields) < 4 or len(head) > _MAX_HEAD:
            return None
        prio, seq, usec, flags, extra = fields
    if not (prio.isdigit() and seq.isdigit() and usec.isdigit() and separator) or len(prio) > 5 or len(flags) > 8:
        return None
    end = body.find(b"\n")
    text = unescape(body[: MAX_RECORD if end < 0 or end > MAX_RECORD else end])
    if flags == b"-" and not extra:
        return KernelRecord(text, int(prio), int(seq), int(usec))
    caller = extra.split(b"caller=", 1)[1].split(b",", 1)[0] if b"caller=" in extra else b""
    return KernelRecord(
        text, int(prio), int(seq), int(usec), flags.decode("ascii", "replace"), caller.decode("ascii", "replace")
    )


def parse_line(line: str) -> KernelRecord:
    """Return the record in a line of any supported form; a line of unknown form is a record of the whole line."""
    line = line.lstrip("\ufeff").rstrip("\r\n")[:MAX_RECORD]
    record = parse_raw(line.encode("utf-8", "replace")) if line[:1].isdigit() else None
    if record is not None:
        return record
    if line[:1] == " " and "=" in line.partition(":")[0]:
        return KernelRecord(text="")  # dictionary line of a raw record, never a message
    found = unwrap(line)
    return KernelRecord(text=found.text, prio=found.prio, usec=found.usec, at=found.at, known=found.known)


class Assembler:
    """Joins fragments of one message: `+` (kernels before 4.9), or `c` on text that begins no message of its own.

    One record at most is held back; whoever feeds it calls `flush` when nothing more is waiting to be read.
    """

    def __init__(self) -> None:
        self._held: KernelRecord | None = None
        self._fragments = 0

    @property
    def holding(self) -> bool:
        """Return True while a record waits for its fragments."""
        return self._held is not None

    def push(self, record: KernelRecord) -> KernelRecord | None:
        """Take one record and return the one that became complete by it, if any."""
        held = self._held
        fragment = "+" in record.flags or ("c" in record.flags and not _starts_message(record.text))
        if fragment and held is not None and held.caller == record.caller and self._fragments < MAX_FRAGMENTS:
            self._fragments += 1
            self._held = held._replace(text=(held.text + record.text)[:MAX_RECORD])
            return None
        self._held = record
        self._fragments = 0
        return held

    def flush(self) -> KernelRecord | None:
        """Return and forget the record held back."""
        held, self._held = self._held, None
        return held


def _starts_message(text: str) -> bool:
    return text.startswith(("NVRM: ", "nvidia", "pcieport "))
