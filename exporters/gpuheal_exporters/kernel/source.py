"""Where the kernel log is read: /dev/kmsg first, the journal or a log file where that is not allowed.

Every source gives records that may say something about a GPU (`kmsg.interesting`), counts the rest, and names a cursor
from which a later process goes on without losing or repeating a record.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from gpuheal_exporters.kernel.kmsg import MAX_RECORD, Assembler, KernelRecord, interesting, parse_line, parse_raw
from gpuheal_exporters.kernel.tally import GapCounter, Tally

Cursor = Mapping[str, object]
_LINE_MAX = 2 * MAX_RECORD  # a longer line in a file is cut here, never buffered without bound
_CHUNK = 65536
BACKLOG_BYTES = 8 * 2**20  # some 50,000 records: a burst of half a second at the rate the kernel can write
_OBJECT_BYTES = 64  # what a record takes in memory beside its bytes
MAX_SKIPPED = 1024
_BOOT_BANNER = b"Linux version "  # first line of every boot (init/version.c of the kernel)


class SourceError(Exception):
    """The source cannot be read (any more); the text says why."""


class LogSource(Protocol):
    """One way to the kernel log."""

    name: str
    place: str  # the key of its cursor that says where to go on
    patience: float  # seconds within which what is there already may take to come
    caught_up: bool

    def read(self, limit: int) -> list[KernelRecord]:
        """Return at most about `limit` waiting records, without blocking; SourceError if there is no reading on."""
        ...

    def cursor(self) -> Cursor:
        """Return the place after everything `read` gave."""
        ...

    def wait(self, seconds: float) -> bool:
        """Return when something is waiting (True), or after `seconds`."""
        ...

    def close(self) -> None:
        """Release the source."""
        ...


class _Intake:
    """Takes raw records or lines: counts, drops what was counted before, joins fragments."""

    def __init__(self, tally: Tally, cursor: Cursor, *, numbered: bool) -> None:
        seq = cursor.get("seq")
        self.sequence = GapCounter(tally, seq if isinstance(seq, int) else None)
        self._tally = tally
        self._assembler = Assembler()
        self._numbered = numbered

    def push(self, raw: bytes, out: list[KernelRecord]) -> None:
        """Append to `out` whatever became complete by this record or line."""
        self._tally.records += 1
        head = raw[:48].split(b",", 2)
        if len(head) == 3 and head[1].isdigit() and head[0].isdigit():
            if not self.sequence.is_new(int(head[1])):
                return
        elif self._numbered:
            return
        else:
            head = []
        if not self._assembler.holding and not interesting(raw):
            return
        record = parse_raw(raw) if head else None
        if record is None and not self._numbered:
            record = parse_line(raw.decode("utf-8", "replace"))
        if record is not None and (done := self._assembler.push(record)) is not None:
            out.append(done)

    def flush(self, out: list[KernelRecord]) -> None:
        """Append the record held back for a fragment to `out`."""
        if (held := self._assembler.flush()) is not None:
            out.append(held)


class KmsgSource:
    """/dev/kmsg: one record per read, EPIPE when the ring overtook the reader (Documentation/ABI/testing/dev-kmsg).

    The ring is emptied first, into a backlog with a bound, and a batch of that is parsed: a record is lost if the ring
    wraps before it is read, and a read costs a tenth of what parsing and latching do. A thread of its own would not
    help: each read lets go of the interpreter's lock, and takes it again only when the parser has had its turn.
    """

    name = "kmsg"
    place = "seq"
    patience = 0.0

    def __init__(
        self, fd: int, tally: Tally, cursor: Cursor | None = None, *, read: Callable[[int, int], bytes] = os.read
    ) -> None:
        """Read from an open, non-blocking descriptor that gives one record per `read`; `close` closes it."""
        self._fd, self._tally, self._read = fd, tally, read
        self.caught_up = False
        self._backlog: deque[bytes] = deque()
        self._room = BACKLOG_BYTES
        self._empty = False
        self._intake = _Intake(tally, cursor or {}, numbered=True)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    @classmethod
    def open(cls, path: Path, tally: Tally, cursor: Cursor | None = None) -> KmsgSource:
        """Return the source of a device such as /dev/kmsg; SourceError if it may not be read."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from None
        return cls(fd, tally, cursor)

    def read(self, limit: int) -> list[KernelRecord]:
        """See LogSource; an overrun is counted and reading goes on with the oldest record left."""
        ended = self._fill()
        out: list[KernelRecord] = []
        backlog, push = self._backlog, self._intake.push
        for _ in range(min(limit, len(backlog))):
            raw = backlog.popleft()
            self._room += len(raw) + _OBJECT_BYTES
            push(raw, out)
        self.caught_up = self._empty and not backlog
        self._intake.flush(out)
        if ended is not None and not backlog and not out:
            raise ended
        return out

    def _fill(self) -> SourceError | None:
        """Move what the ring holds to the backlog, as far as there is room; return why there will be no more."""
        read, fd, append, room = self._read, self._fd, self._backlog.append, self._room
        self._empty, skipped = False, 0
        try:
            while room > 0 and skipped < MAX_SKIPPED:
                try:
                    raw = read(fd, MAX_RECORD)
                except OSError as error:
                    if error.errno == errno.EAGAIN:
                        self._empty = True
                        return None
                    if error.errno not in (errno.EPIPE, errno.EINVAL):
                        return SourceError(f"kmsg: {error.strerror}")
                    self._tally.overruns += error.errno == errno.EPIPE
                    skipped += 1  # EINVAL: a record longer than the buffer, skipped by the kernel
                    continue
                if not raw:
                    return SourceError("kmsg: end of file")
                append(raw)
                room -= len(raw) + _OBJECT_BYTES
        finally:
            self._room = room
        return None

    def cursor(self) -> Cursor:
        """Return the last sequence number counted."""
        return {} if self._intake.sequence.cursor is None else {"seq": self._intake.sequence.cursor}

    def wait(self, seconds: float) -> bool:
        """See LogSource."""
        return bool(self._backlog) or bool(self._poll.poll(seconds * 1000))

    def close(self) -> None:
        """See LogSource."""
        os.close(self._fd)


class FileSource:
    """A growing file (or FIFO) of lines in any form `kmsg.parse_line` knows; follows rotation and truncation.

    Only give it files that the kernel's log alone goes to (kern.log): a line without a priority counts as the kernel's.
    """

    name = "file"
    patience = 0.0

    def __init__(
        self, path: Path, tally: Tally, cursor: Cursor | None = None, *, sleep: Callable[[float], object]
    ) -> None:
        self._path, self._sleep = path, sleep
        self._intake = _Intake(tally, cursor or {}, numbered=False)
        self._buffer = b""
        self.caught_up = False
        self._open()
        self.place = "seq" if self._fifo else "offset"
        inode, offset = (cursor or {}).get("inode"), (cursor or {}).get("offset")
        if self._fifo:
            return
        if inode == self._inode and isinstance(offset, int) and offset <= os.fstat(self._fd).st_size:
            self._offset = offset
        elif not cursor:
            self._offset = self._last_boot()

    def _open(self) -> None:
        try:
            # Write access keeps a FIFO open while no writer is there; a reader of a plain file does not need it.
            self._fifo = stat.S_ISFIFO(os.stat(self._path).st_mode)
            mode = os.O_RDWR if self._fifo else os.O_RDONLY
            self._fd = os.open(self._path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None
        self._inode = os.fstat(self._fd).st_ino
        self._offset = 0
        self._buffer = b""

    def _last_boot(self) -> int:
        """Return the offset of the last line that begins a boot, or 0: the reboot cured what stands before it."""
        found = start = 0
        tail = b""
        while chunk := os.pread(self._fd, _CHUNK, start):
            at = (tail + chunk).rfind(_BOOT_BANNER)
            if at >= 0:
                found = start - len(tail) + at
            tail = chunk[-len(_BOOT_BANNER) :]
            start += len(chunk)
        return found

    def _chunk(self) -> bytes:
        try:
            if self._fifo:
                return os.read(self._fd, _CHUNK)
            return os.pread(self._fd, _CHUNK, self._offset + len(self._buffer))
        except BlockingIOError:
            return b""
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None

    def _rotated(self) -> bool:
        """Return whether the path names another file by now, or the file shrank: it is then read from its start."""
        if self._fifo:
            return False
        try:
            if os.fstat(self._fd).st_size < self._offset:
                self._offset, self._buffer = 0, b""
                return True
            if os.stat(self._path).st_ino == self._inode:
                return False
        except OSError:
            return False  # between two steps of a rotation
        os.close(self._fd)
        self._open()
        return True

    def read(self, limit: int) -> list[KernelRecord]:
        """See LogSource."""
        out: list[KernelRecord] = []
        taken = 0
        while taken < limit:
            chunk = self._chunk()
            if not chunk:
                if self._rotated():
                    continue
                self.caught_up = True
                break
            *lines, rest = (self._buffer + chunk).split(b"\n")
            self._offset += len(self._buffer) + len(chunk) - len(rest)
            if len(rest) > _LINE_MAX:
                lines.append(rest[:_LINE_MAX])
                self._offset += len(rest)
                rest = b""
            self._buffer = rest
            for line in lines:
                self._intake.push(line, out)
            taken += len(lines)
        self._intake.flush(out)
        return out

    def cursor(self) -> Cursor:
        """Return inode and offset of the next line, and the last sequence number if the lines carry one."""
        place: dict[str, object] = {} if self._fifo else {"inode": self._inode, "offset": self._offset}
        if self._intake.sequence.cursor is not None:
            place["seq"] = self._intake.sequence.cursor
        return place

    def wait(self, seconds: float) -> bool:
        """See LogSource; a plain file gives no sign when it grows, so it is looked at four times a second."""
        if self._fifo:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        self._sleep(min(seconds, 0.25))
        return os.fstat(self._fd).st_size > self._offset + len(self._buffer)

    def close(self) -> None:
        """See LogSource."""
        os.close(self._fd)
