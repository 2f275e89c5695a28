"""Reading the kernel log: a record device, and growing files."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuheal_exporters.kernel.source import BACKLOG_BYTES, MAX_SKIPPED, FileSource, KmsgSource, SourceError
from gpuheal_exporters.kernel.tally import GapCounter, Tally


class Device:
    """Like /dev/kmsg, a socket pair gives one record per read and EAGAIN when none is waiting."""

    def __init__(self) -> None:
        self.inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        outer.setblocking(False)
        self.fd = outer.detach()

    def write(self, seq: int, text: str, flags: str = "-") -> None:
        self.inner.send(f"4,{seq},1000000,{flags};{text}\n".encode())


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.inner.close()


def headline(code: int) -> str:
    return f"NVRM: Xid (PCI:0000:3b:00): {code}, text"


def sleepless(seconds: float) -> None:
    """A file source never waits in these tests."""


def test_records_are_read_until_none_is_waiting(device: Device) -> None:
    """Records that may matter come out, the others are only counted; then the source has caught up."""
    tally = Tally()
    source = KmsgSource(device.fd, tally)
    device.write(5, "usb 1-1: new device")
    device.write(6, headline(79))
    assert [record.text for record in source.read(100)] == [headline(79)]
    assert (tally.records, tally.gaps, source.caught_up, source.cursor()) == (2, 0, True, {"seq": 6})
    source.close()


def test_sequence_gaps_are_counted_once_each(device: Device) -> None:
    """A jump in the numbers is one gap of as many lost records; the ring may begin with any number."""
    tally = Tally()
    source = KmsgSource(device.fd, tally)
    for seq in (1000, 1001, 1005, 1006, 1010):
        device.write(seq, "noise")
    source.read(100)
    assert (tally.gaps, tally.lost) == (2, 6)
    source.close()


class Ring:
    """The reads of a source on a device that holds `count` records, and what comes after them."""

    def __init__(self, count: int, after: OSError | None = None) -> None:
        self.records = deque(f"4,{seq},1,-;{headline(79)}\n".encode() for seq in range(1, count + 1))
        self.after = after or OSError(errno.EAGAIN, "again")
        self.reads = 0

    def __call__(self, fd: int, size: int) -> bytes:
        self.reads += 1
        if not self.records:
            raise self.after
        return self.records.popleft()


def test_the_ring_is_emptied_before_anything_is_parsed(device: Device) -> None:
    """A batch of one record still takes all that the ring holds out of it; the rest comes without reading again."""
    tally, ring = Tally(), Ring(1_000)
    source = KmsgSource(device.fd, tally, read=ring)
    assert len(source.read(1)) == 1
    assert (len(ring.records), tally.records, source.caught_up, source.cursor()) == (0, 1, False, {"seq": 1})
    assert source.wait(0.0), "what was taken out of the ring is waiting"
    assert len(source.read(5_000)) == 999
    assert (tally.records, source.caught_up, source.wait(0.0)) == (1_000, True, False)
    source.close()


def test_the_backlog_is_bounded(device: Device) -> None:
    """A storm is taken in up to the bound and stays in the ring beyond it, where the kernel counts what it drops."""
    ring = Ring(200_000)
    source = KmsgSource(device.fd, Tally(), read=ring)
    source.read(1)
    taken = 200_000 - len(ring.records)
    size = len(ring.records[-1])
    assert 10_000 < taken <= BACKLOG_BYTES // size
    source.read(100)
    source.read(100)
    assert 95 <= 200_000 - len(ring.records) - taken <= 102, "the room that a batch makes is used by the next"
    source.close()


def test_what_was_read_before_a_device_failed_still_counts(device: Device) -> None:
    """The error comes after the last record."""
    source = KmsgSource(device.fd, Tally(), read=Ring(3, OSError(errno.ENODEV, "No such device")))
    assert [len(source.read(2)), len(source.read(2))] == [2, 1]
    with pytest.raises(SourceError, match="No such device"):
        source.read(2)
    source.close()


def test_a_ring_that_always_overruns_does_not_hold_the_loop(device: Device) -> None:
    """A device that answers EPIPE for ever is left after a while, with each overrun counted."""
    tally = Tally()
    source = KmsgSource(device.fd, tally, read=Ring(0, OSError(errno.EPIPE, "Broken pipe")))
    assert source.read(10) == []
    assert tally.overruns == MAX_SKIPPED
    assert not source.caught_up
    source.close()


def test_a_restart_neither_loses_nor_repeats(device: Device) -> None:
    """Records up to the cursor are skipped without a gap; the next one counts."""
    tally = Tally()
    source = KmsgSource(device.fd, tally, {"seq": 11})
    for seq in (10, 11, 12):
        device.write(seq, headline(seq))
    assert [record.seq for record in source.read(100)] == [12]
    assert tally.gaps == 0
    source.close()


def test_records_overwritten_during_a_restart_are_a_gap(device: Device) -> None:
    """If the ring lost records that came while no exporter ran, their number is known."""
    tally = Tally()
    source = KmsgSource(device.fd, tally, {"seq": 11})
    device.write(20, headline(79))
    source.read(100)
    assert (tally.gaps, tally.lost) == (1, 8)
    source.close()


def test_an_overrun_is_counted_and_reading_goes_on(device: Device) -> None:
    """EPIPE says that the ring overtook the reader: counted, and the oldest record left is read next."""
    tally, failures = Tally(), [0, errno.EPIPE, errno.EINVAL]

    def read(fd: int, size: int) -> bytes:
        if failures and failures[0]:
            raise OSError(failures.pop(0), "as the kernel does")
        return os.read(fd, size)

    source = KmsgSource(device.fd, tally, read=read)
    device.write(1, "noise")
    source.read(100)
    device.write(50, headline(79))
    failures.pop(0)
    assert [record.seq for record in source.read(100)] == [50]
    assert (tally.overruns, tally.gaps, tally.lost) == (1, 1, 48)
    source.close()


def test_fragments_are_joined_and_nothing_waits_for_more(device: Device) -> None:
    """A fragment completes its record, and a complete record is not held back when the log falls silent."""
    source = KmsgSource(device.fd, Tally())
    device.write(1, headline(62), "c")
    device.write(2, " more", "+")
    assert [record.text for record in source.read(100)] == [headline(62) + " more"]
    device.write(3, headline(79))
    assert [record.text for record in source.read(100)] == [headline(79)]
    source.close()


def test_a_device_that_ends_is_an_error(device: Device) -> None:
    """End of file or an unknown error ends the source with a reason."""
    source = KmsgSource(device.fd, Tally())
    device.inner.close()
    with pytest.raises(SourceError, match="end of file"):
        source.read(1)
    source.close()


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    """The reason why there is no source names the path."""
    with pytest.raises(SourceError, match=r"nothing: No such file"):
        KmsgSource.open(tmp_path / "nothing", Tally())
    with pytest.raises(SourceError, match=r"nothing: No such file"):
        FileSource(tmp_path / "nothing", Tally(), sleep=sleepless)


def test_a_file_is_followed_from_its_cursor(tmp_path: Path) -> None:
    """What was read before is not read again; a line is taken when it is complete."""
    path = tmp_path / "kern.log"
    path.write_text(headline(79) + "\n" + headline(48)[:10])
    source = FileSource(path, Tally(), sleep=sleepless)
    assert [record.text for record in source.read(100)] == [headline(79)]
    cursor = source.cursor()
    source.close()
    with path.open("a") as out:
        out.write(headline(48)[10:] + "\n")
    again = FileSource(path, Tally(), cursor, sleep=sleepless)
    assert [record.text for record in again.read(100)] == [headline(48)]
    again.close()


def test_a_first_reading_begins_at_the_last_boot(tmp_path: Path) -> None:
    """Lines of an earlier boot are history: without a cursor reading begins at the kernel's last banner."""
    path = tmp_path / "kern.log"
    old = "".join(f"Nov  1 10:00:00 h kernel: {headline(79)} {number}\n" for number in range(2000))
    path.write_text(
        old + "Nov  2 10:00:00 h kernel: Linux version 6.1\nNov  2 10:00:01 h kernel: " + headline(48) + "\n"
    )
    source = FileSource(path, Tally(), sleep=sleepless)
    assert [record.text for record in source.read(10_000)] == [headline(48)]
    source.close()


def test_rotation_and_truncation_are_followed(tmp_path: Path) -> None:
    """A renamed file is read to its end, then the new one from its start; a file that shrank is read anew."""
    path = tmp_path / "kern.log"
    path.write_text("noise\n")
    source = FileSource(path, Tally(), sleep=sleepless)
    source.read(100)
    with path.open("a") as out:
        out.write(headline(1) + "\n")
    path.rename(tmp_path / "kern.log.1")
    path.write_text(headline(2) + "\n")
    assert [record.text for record in source.read(100)] == [headline(1), headline(2)]
    path.write_text("")
    source.read(100)
    with path.open("a") as out:
        out.write(headline(3) + "\n")
    assert [record.text for record in source.read(100)] == [headline(3)]
    source.close()


def test_a_fifo_gives_lines_and_never_ends(tmp_path: Path) -> None:
    """Without a writer a FIFO is silent, not at its end; raw records in it keep their numbers."""
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    tally = Tally()
    source = FileSource(path, tally, sleep=sleepless)
    assert source.read(100) == []
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, f"4,7,1000000,-;{headline(79)}\n12,9,1000000,-;{headline(79)}\n".encode())
    os.close(writer)
    records = source.read(100)
    assert [(record.seq, record.from_kernel) for record in records] == [(7, True), (9, False)]
    assert (tally.lost, source.cursor()) == (1, {"seq": 9})
    source.close()


def test_an_endless_line_is_cut(tmp_path: Path) -> None:
    """A file without line breaks does not fill the memory."""
    path = tmp_path / "kern.log"
    path.write_text("x" * 200_000 + "\n" + headline(79) + "\n")
    source = FileSource(path, Tally(), sleep=sleepless)
    assert [record.text for record in source.read(1000)] == [headline(79)]
    source.close()


def test_numbers_that_go_back_are_not_new() -> None:
    """A number at or below the cursor was counted before."""
    sequence = GapCounter(Tally(), 5)
    assert [sequence.is_new(seq) for seq in (4, 5, 6, 6, 7)] == [False, False, True, False, True]
