"""State in step with a log: restarts, fallbacks, times."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gpuheal_exporters.host.identity import StaticInventory
from gpuheal_exporters.kernel.journal import JournalSource
from gpuheal_exporters.kernel.kmsg import KernelRecord
from gpuheal_exporters.kernel.source import Cursor, FileSource, LogSource, SourceError
from gpuheal_exporters.kernel.tally import Tally
from gpuheal_exporters.node.follower import BATCH, RETRY_SECONDS, Follower
from gpuheal_exporters.node.state import NodeExporterState


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now


def sleepless(seconds: float) -> None:
    """A file source never waits in these tests."""


class Node:
    """A node whose kernel log is a file of raw records; `start` begins another exporter process on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = tmp_path / "kmsg"
        self.log.write_text("")
        self.state_file = tmp_path / "kernel.json"
        self.clock = Clock()
        self.seq = 0

    def write(self, *codes: int, usec: int = 1_000_000) -> None:
        with self.log.open("a") as out:
            for code in codes:
                self.seq += 1
                out.write(f"4,{self.seq},{usec},-;NVRM: Xid (PCI:0000:3b:00): {code}, text\n")

    def open(self, tally: Tally, cursor: Cursor) -> LogSource:
        return FileSource(self.log, tally, {k: v for k, v in cursor.items() if k == "seq"}, sleep=sleepless)

    def start(self, boot_id: str = "boot-1", openers: Sequence[object] = (), time_base: float = 0.0) -> Follower:
        state = NodeExporterState(inventory=StaticInventory(), boot_id=boot_id, clock=self.clock)
        follower = Follower(
            state=state,
            openers=list(openers) or [self.open],  # type: ignore[arg-type]
            state_file=self.state_file,
            clock=self.clock,
            time_base=time_base,
        )
        follower.load()
        return follower


def totals(follower: Follower) -> dict[str, int]:
    return {key.xid: entry.total for key, entry in follower.state.levels.xids.items()}


def test_the_ring_is_read_from_its_beginning_at_the_first_start(tmp_path: Path) -> None:
    """Faults that were printed before the exporter came count."""
    node = Node(tmp_path)
    node.write(79, 45, 45)
    follower = node.start()
    follower.step(0)
    assert totals(follower) == {"79": 1, "45": 2}
    assert (follower.tally.up, follower.tally.source) == (True, "file")


def test_a_restart_neither_loses_nor_counts_twice(tmp_path: Path) -> None:
    """A new process on the same log and state goes on where the old one stopped, levels and counts included."""
    node = Node(tmp_path)
    node.write(79, 45)
    first = node.start()
    first.step(0)
    first.close()
    node.write(45, 48)
    second = node.start()
    second.step(0)
    assert totals(second) == {"79": 1, "45": 2, "48": 1}
    assert all(entry.latched for _, entry in second.state.levels.xids.items())


def test_a_killed_process_repeats_only_what_it_had_not_written(tmp_path: Path) -> None:
    """Levels and cursor are of one instant: what came after the last write is read again from the log, once."""
    node = Node(tmp_path)
    node.write(79)
    first = node.start()
    first.step(0)
    node.write(45)
    first.drain()  # counted, but the process dies before its next write
    second = node.start()
    second.step(0)
    assert totals(second) == {"79": 1, "45": 1}


def test_another_boot_begins_with_nothing(tmp_path: Path) -> None:
    """Levels of an earlier boot end with it, and the new ring is read from its beginning."""
    node = Node(tmp_path)
    node.write(79, 79)
    first = node.start()
    first.step(0)
    first.close()
    node.log.write_text("")
    node.seq = 0
    node.write(48)
    second = node.start("boot-2")
    second.step(0)
    assert totals(second) == {"48": 1}
    assert second.state.levels.cleared["reboot"] == 1


def test_an_unusable_state_file_does_not_stop_the_start(tmp_path: Path) -> None:
    """It is set aside and counted, and the ring is read anew."""
    node = Node(tmp_path)
    node.write(79)
    node.state_file.write_text('{"schema": 1}')
    follower = node.start()
    follower.step(0)
    assert (totals(follower), follower.load_errors) == ({"79": 1}, 1)
    assert node.state_file.with_name("kernel.json.bad").exists()


def test_waiting_records_keep_their_own_time_and_fresh_ones_are_now(tmp_path: Path) -> None:
    """A record from the ring is dated by its own clock; one that arrives later by ours; none lies in the future."""
    node = Node(tmp_path)
    node.write(79, usec=2_000_000)
    node.write(63, usec=9_999_000_000)
    follower = node.start(time_base=9000.0)
    follower.step(0)
    node.write(48, usec=3_000_000)
    node.clock.now = 10_050.0
    follower.step(0)
    assert {key.xid: entry.last for key, entry in follower.state.levels.xids.items()} == {
        "79": 9002.0,
        "63": 10_000.0,
        "48": 10_050.0,
    }


def test_the_next_source_is_tried_when_one_is_not_allowed(tmp_path: Path) -> None:
    """Without rights for the first source the second one serves."""
    node = Node(tmp_path)
    node.write(79)

    def forbidden(tally: Tally, cursor: Cursor) -> LogSource:
        raise SourceError("kmsg: Operation not permitted")

    follower = node.start(openers=[forbidden, node.open])
    follower.step(0)
    assert (follower.tally.source, totals(follower)) == ("file", {"79": 1})


def test_without_any_source_the_exporter_says_so_and_tries_again(tmp_path: Path) -> None:
    """The log is not up, with the reason kept; after a pause every source is tried again."""
    node = Node(tmp_path)
    node.write(79)
    allowed = False

    def moody(tally: Tally, cursor: Cursor) -> LogSource:
        if not allowed:
            raise SourceError("kmsg: Operation not permitted")
        return node.open(tally, cursor)

    follower = node.start(openers=[moody])
    follower.step(0)
    assert (follower.tally.up, follower.tally.source, follower.tally.problem) == (
        False,
        "none",
        "kmsg: Operation not permitted",
    )
    assert follower.heartbeat_at == node.clock.now
    allowed = True
    follower.step(0)
    assert not follower.tally.up
    node.clock.now += RETRY_SECONDS
    follower.step(0)
    assert (follower.tally.up, totals(follower)) == (True, {"79": 1})


class Broken:
    """A source that fails after its first batch."""

    name = "kmsg"
    place = "seq"
    patience = 0.0
    caught_up = False

    def __init__(self) -> None:
        self.reads = 0
        self.closed = False

    def read(self, limit: int) -> list[KernelRecord]:
        self.reads += 1
        if self.reads > 1:
            raise SourceError("kmsg: Input/output error")
        return [KernelRecord("NVRM: Xid (PCI:0000:3b:00): 79, text", 4, 1, 1)]

    def cursor(self) -> Cursor:
        return {"seq": 1}

    def wait(self, seconds: float) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def test_a_source_that_fails_is_closed_and_opened_again_from_its_cursor(tmp_path: Path) -> None:
    """What was counted stays counted; the next source begins after it."""
    node = Node(tmp_path)
    broken, cursors = Broken(), []

    def opener(tally: Tally, cursor: Cursor) -> LogSource:
        cursors.append(dict(cursor))
        return broken

    follower = node.start(openers=[opener])
    follower.step(0)
    follower.step(0)
    assert (broken.closed, follower.tally.up, totals(follower)) == (True, False, {"79": 1})
    node.clock.now += RETRY_SECONDS
    follower.step(0)
    assert cursors == [{}, {"seq": 1, "usec": 1}]


def test_the_state_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    """A burst of events does not become a burst of writes; the next second writes what is new."""
    node = Node(tmp_path)
    follower = node.start()
    node.write(79)
    follower.step(0)
    written = node.state_file.read_bytes()
    node.write(48)
    node.clock.now += 0.5
    follower.step(0)
    assert node.state_file.read_bytes() == written
    node.clock.now += 0.6
    follower.step(0)
    assert {entry["key"][2] for entry in json.loads(node.state_file.read_text())["xids"]} == {"79", "48"}


def test_a_full_disk_is_counted_and_nothing_else(tmp_path: Path) -> None:
    """If the state cannot be written, events still count and the failure is a metric."""
    node = Node(tmp_path)
    node.write(79)
    node.state_file = tmp_path / "missing" / "kernel.json"
    follower = node.start()
    follower.step(0)
    assert (totals(follower), follower.write_errors) == ({"79": 1}, 1)
    assert follower.persist() is False


def test_a_flood_is_taken_in_batches(tmp_path: Path) -> None:
    """One batch at a time, so that a scrape never waits for a whole flood."""
    node = Node(tmp_path)
    node.write(*[45] * (3 * BATCH))
    follower = node.start()
    rounds = 1
    while follower.drain():
        rounds += 1
    assert rounds >= 2
    assert totals(follower) == {"45": 3 * BATCH}


def test_another_source_does_not_repeat_what_was_counted(tmp_path: Path) -> None:
    """When the log has to be read by another way, records up to the last one counted are known by their time."""
    node = Node(tmp_path)
    for usec, code in enumerate((79, 45), 1):
        node.write(code, usec=usec * 1_000_000)
    first = node.start()
    first.step(0)
    first.close()
    journal = tmp_path / "kern.log"
    head = "kernel: [    {}.000000] NVRM: Xid (PCI:0000:3b:00): {}, text\n"
    journal.write_text("".join(head.format(second, code) for second, code in ((1, 79), (2, 45), (3, 48))))

    def opener(tally: Tally, cursor: Cursor) -> LogSource:
        return FileSource(journal, tally, {}, sleep=sleepless)

    state = json.loads(node.state_file.read_text())
    del state["cursor"]["inode"], state["cursor"]["offset"]  # as /dev/kmsg would have left it
    node.state_file.write_text(json.dumps(state))
    second = node.start(openers=[opener])
    second.step(0)
    assert totals(second) == {"79": 1, "45": 1, "48": 1}
    with journal.open("a") as out:
        out.write(head.format(1, 13))
    second.step(0)
    assert totals(second)["13"] == 1


def test_one_look_takes_what_a_slow_journal_has(tmp_path: Path) -> None:
    """For --once the exporter waits for a journalctl that needs a moment, also within a line, and then stops."""
    node = Node(tmp_path)
    program = tmp_path / "journalctl.py"
    entry = json.dumps({"MESSAGE": "NVRM: Xid (PCI:0000:3b:00): 79, text", "SYSLOG_FACILITY": "0", "__CURSOR": "c"})
    program.write_text(
        "import sys, time\n"
        f"for part in ({entry[:20]!r}, {entry[20:]!r}, chr(10)):\n"
        "    time.sleep(0.1)\n    sys.stdout.write(part)\n    sys.stdout.flush()\n"
        "time.sleep(60)\n"
    )

    def opener(tally: Tally, cursor: Cursor) -> LogSource:
        return JournalSource(tally, cursor, command=(sys.executable, str(program)))

    follower = node.start(openers=[opener])
    follower.catch_up(node.clock.now + 60)
    counted = totals(follower)
    follower.close()
    assert counted == {"79": 1}


def test_a_disk_that_hangs_does_not_keep_the_log_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a write of the state is stuck, records are taken in; at the end the state is written."""
    node = Node(tmp_path)
    follower = node.start()
    stuck, free = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(fd: int) -> None:
        stuck.set()
        assert free.wait(30)
        sync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    stop = threading.Event()
    runs = threading.Thread(target=follower.run, args=(stop,))
    runs.start()
    node.write(79)
    assert stuck.wait(30)
    node.write(45, 45)
    until = time.monotonic() + 30
    while totals(follower) != {"79": 1, "45": 2} and time.monotonic() < until:
        stop.wait(0.01)
    assert totals(follower) == {"79": 1, "45": 2}
    free.set()
    stop.set()
    runs.join(30)
    assert totals(node.start()) == {"79": 1, "45": 2}
