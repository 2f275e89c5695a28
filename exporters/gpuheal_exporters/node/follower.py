"""Keeps a node's state in step with its kernel log: one loop, one source at a time, state on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuheal_exporters.host.persist import read_state, write_atomic
from gpuheal_exporters.kernel.kmsg import KernelRecord
from gpuheal_exporters.kernel.source import Cursor, LogSource, SourceError
from gpuheal_exporters.kernel.tally import Tally
from gpuheal_exporters.node.state import NodeExporterState

log = logging.getLogger(__name__)

OpenSource = Callable[[Tally, Cursor], LogSource]
BATCH = 256  # records taken while the state is locked; a scrape waits for one batch at most
WRITE_SECONDS = 1.0  # the state file is written at most this often
CURSOR_SECONDS = 60.0  # and at least this often while the log moves
RETRY_SECONDS = 15.0
SAVE_SECONDS = 5.0  # at the end, so long for a write that is under way
REFRESH_SECONDS = 10.0


class Follower:
    """Reads the first source of `openers` that works; `step` is one cycle, `run` cycles until `stop` is set.

    Restart: the state file holds levels and cursor of the same instant, so no record is lost or counted twice.
    `time_base` is the unix time of the boot's first microsecond, for records that waited in the ring. `refresh` is
    called every few seconds.
    """

    def __init__(
        self,
        *,
        state: NodeExporterState,
        openers: Sequence[OpenSource],
        state_file: Path | None,
        clock: Callable[[], float],
        time_base: float = 0.0,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = state
        self.tally = Tally()
        self.heartbeat_at = 0.0
        self.write_errors = 0
        self.load_errors = 0
        self._openers = openers
        self._state_file = state_file
        self._clock = clock
        self._time_base = time_base
        self._refresh = refresh
        self._source: LogSource | None = None
        self._retry_at = 0.0
        self._more = False
        self._counted_usec = -1
        self._written_changes = 0
        self._written_at = 0.0
        self._written_cursor: Cursor = {}
        self._write_lock = threading.Lock()
        self._saver: threading.Thread | None = None

    def load(self) -> None:
        """Take over the state of an earlier process, if its file is usable; another boot's levels are dropped."""
        if self._state_file is None:
            return
        problem = read_state(self._state_file, self.state.load)
        if problem:
            self.load_errors += 1
            log.warning("unusable state file set aside: %s", problem)
        self._written_changes = self.state.changes

    def _open(self) -> LogSource | None:
        if self._source is not None or self._clock() < self._retry_at:
            return self._source
        problems: list[str] = []
        for opener in self._openers:
            try:
                self._source = opener(self.tally, self.state.cursor)
            except SourceError as error:
                problems.append(str(error))
                continue
            self.tally.up, self.tally.source, self.tally.problem = True, self._source.name, ""
            usec = self.state.cursor.get("usec")
            # Another source than before has no place of its own yet: the time of the last record counted tells.
            own = self._source.place in self.state.cursor
            self._counted_usec = usec if isinstance(usec, int) and not own else -1
            return self._source
        self._fail("; ".join(problems) or "no source configured")
        return None

    def _fail(self, problem: str) -> None:
        if problem != self.tally.problem:
            log.warning("kernel log cannot be read: %s", problem)
        self.tally.up, self.tally.source, self.tally.problem = False, "none", problem
        self._retry_at = self._clock() + RETRY_SECONDS

    def close(self) -> None:
        """Release the source and write the state."""
        if self._source is not None:
            self._source.close()
            self._source = None
        self.persist()

    def _at(self, record: KernelRecord, caught_up: bool) -> float:
        """Return the unix time of a record: now if it is fresh, by its own clock if it waited in the ring."""
        now = self._clock()
        if caught_up:
            return now
        if record.usec is not None and self._time_base:
            return min(now, self._time_base + record.usec / 1e6)
        return now if record.at is None else min(now, record.at)

    def drain(self) -> bool:
        """Take one batch into the state; return True if more may be waiting."""
        source = self._open()
        if source is None:
            return False
        fresh = source.caught_up
        before = self.tally.records
        try:
            records = source.read(BATCH)
        except SourceError as error:
            source.close()
            self._source = None
            self._fail(str(error))
            return False
        with self.state.lock:
            newest = self.state.cursor.get("usec", -1)
            for record in records:
                if record.usec is not None:
                    if record.usec <= self._counted_usec:
                        continue
                    newest = record.usec
                self.state.feed(record, self._at(record, fresh))
            self.state.cursor = {**source.cursor(), "usec": newest}
        if source.caught_up:
            self._counted_usec = -1
        if self.tally.records != before:
            self.tally.last_record_at = self._clock()
        return self.tally.records - before >= BATCH

    def catch_up(self, until: float) -> None:
        """Take into the state what the log holds by now, as far as it can be read before `until` (unix seconds)."""
        waiting = self._open() is not None
        while waiting and self._clock() < until:
            if not self.drain():
                waiting = self._source is not None and self._source.wait(self._source.patience)

    def step(self, wait_seconds: float = 1.0, sleep: Callable[[float], object] | None = None) -> None:
        """Do one cycle: wait for records at most so long, take what is there, write the state if it is due."""
        self.heartbeat_at = self._clock()
        if self._source is None:
            if sleep is not None and self._clock() < self._retry_at:
                sleep(wait_seconds)
        elif not self._more:
            self._source.wait(wait_seconds)
        self._more = self.drain()
        if self._saver is None or not self._saver.is_alive():
            self._persist_if_due()

    def run(self, stop: threading.Event) -> None:
        """Cycle until `stop` is set, then release the source and write the state."""
        refreshed = self._clock()
        self._saver = threading.Thread(target=self._save_until, args=(stop,), name="state", daemon=True)
        self._saver.start()
        while not stop.is_set():
            self.step(sleep=stop.wait)
            if self._clock() - refreshed >= REFRESH_SECONDS:
                refreshed = self._clock()
                self._refresh()
        self._saver.join(SAVE_SECONDS)
        self.close()

    def _save_until(self, stop: threading.Event) -> None:
        """Write the state when it is due: a disk that is slow to sync must not keep the log waiting."""
        while not stop.wait(WRITE_SECONDS / 2):
            self._persist_if_due()

    def _persist_if_due(self) -> None:
        age = self._clock() - self._written_at
        changed = self.state.changes != self._written_changes
        if (changed and age >= WRITE_SECONDS) or (age >= CURSOR_SECONDS and self.state.cursor != self._written_cursor):
            self.persist()

    def persist(self) -> bool:
        """Write the state of this moment to its file; return False (and count it) if that failed."""
        if self._state_file is None:
            return True
        with self._write_lock:
            with self.state.lock:
                document, changes, cursor = self.state.dump(), self.state.changes, self.state.cursor
            self._written_at = self._clock()
            try:
                write_atomic(self._state_file, document)
            except OSError as error:
                self.write_errors += 1
                log.warning("state file not written: %s: %s", self._state_file, error.strerror)
                return False
            self._written_changes, self._written_cursor = changes, cursor
            return True
