"""Kernel log records: the raw form of /dev/kmsg, and the text forms of dmesg, syslog and the journal.

Record format: Documentation/ABI/testing/dev-kmsg in the kernel source: `PRIO,SEQ,USEC,FLAGS[,caller=…];TEXT`, then
dictionary lines that begin with a blank. Unprintable bytes and the backslash are written as `\\xNN`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Any line the parsers recognise contains one of these; a cheap test that keeps ordinary traffic away from the regexes.
TOKENS = (b"NVRM:", b"SXid", b"AER:", b"PCIe Bus Error:", b": Link Down")
# Facility 0 is the kernel (include/linux/syslog.h numbering); user-space writes to /dev/kmsg get facility 1 or higher.
_FACILITY_SHIFT = 3
_HEADER = re.compile(rb"(\d{1,5}),(\d{1,20}),(\d{1,20}),([^,;]{0,8})(?:,([^;]{0,200}))?;")
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
# dmesg (seconds or date, thread id), syslog with the kernel's tag, journal: everything that may stand before the
# message.
_PREFIX = re.compile(
    r"\s*(?:<\d{1,3}>)?"
    r"(?:(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S{8,30}) \S{1,255} (?=kernel: ))?"
    r"(?:kernel: )?"
    r"(?P<brackets>(?:\[[^\]]{1,40}\] ?){0,3})"
)
_SECONDS = re.compile(r"\[ *(\d{1,12})\.(\d{6})\]")
MAX_RECORD = 8192  # bytes; the kernel's own limit for one formatted record (CONSOLE_EXT_LOG_MAX)
MAX_FRAGMENTS = 8


class KernelRecord(NamedTuple):
    """One log message. `prio`, `seq` and `usec` (microseconds since boot) are None for text that did not carry them.

    A named tuple, because a flood makes tens of thousands of them a second.
    """

    text: str
    prio: int | None = None
    seq: int | None = None
    usec: int | None = None
    flags: str = ""
    caller: str = ""

    @property
    def from_kernel(self) -> bool:
        """True if the kernel itself wrote it; text without a priority is trusted as its source is."""
        return self.prio is None or self.prio >> _FACILITY_SHIFT == 0


def interesting(raw: bytes) -> bool:
    """False only if no parser can recognise the line."""
    for token in TOKENS:  # noqa: SIM110 - any() with a generator costs three times as much on this hot path
        if token in raw:
            return True
    return False


def unescape(raw: bytes) -> str:
    """The text with `\\xNN` resolved; bytes that are not UTF-8 become U+FFFD, NUL becomes a blank."""
    if b"\\x" in raw:
        raw = _ESCAPE.sub(lambda m: bytes((int(m[1], 16),)), raw)
    return raw.decode("utf-8", "replace").replace("\0", " ")


def parse_raw(raw: bytes) -> KernelRecord | None:
    """The record of one read() from /dev/kmsg (dictionary lines are dropped), or None if it has no such header."""
    match = _HEADER.match(raw)
    if match is None:
        return None
    prio, seq, usec, flags, extra = match.groups()
    body = raw[match.end() : match.end() + MAX_RECORD].partition(b"\n")[0]
    text = unescape(body)
    if extra is None and flags == b"-":
        return KernelRecord(text, int(prio), int(seq), int(usec))
    caller = ""
    if extra and b"caller=" in extra:
        caller = extra.split(b"caller=", 1)[1].split(b",", 1)[0].decode("ascii", "replace")
    return KernelRecord(
        text=text,
        prio=int(prio),
        seq=int(seq),
        usec=int(usec),
        flags=flags.decode("ascii", "replace"),
        caller=caller,
    )


def parse_line(line: str) -> KernelRecord:
    """The record in a line of any supported form; a line of unknown form is a record whose text is the whole line."""
    line = line.rstrip("\r\n")[:MAX_RECORD]
    record = parse_raw(line.encode("utf-8", "replace")) if line[:1].isdigit() else None
    if record is not None:
        return record
    if line[:1] == " " and "=" in line.partition(":")[0]:
        return KernelRecord(text="")  # dictionary line of a raw record, never a message
    match = _PREFIX.match(line)
    if match is None:
        return KernelRecord(text=line)
    seconds = _SECONDS.search(match["brackets"])
    usec = int(seconds[1]) * 1_000_000 + int(seconds[2]) if seconds else None
    return KernelRecord(text=line[match.end() :], usec=usec)


class Assembler:
    """Joins fragments of one message: `+` (kernels before 4.9), or `c` on text that begins no message of its own.

    One record at most is held back; whoever feeds it calls `flush` when nothing more is waiting to be read.
    """

    def __init__(self) -> None:
        self._held: KernelRecord | None = None
        self._fragments = 0

    @property
    def holding(self) -> bool:
        """True while a record waits for its fragments."""
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
