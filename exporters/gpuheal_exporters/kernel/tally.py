"""Counters of one log source, and the place in it up to which everything is counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was read from the kernel log since the start of the process."""

    up: bool = False
    source: str = "none"
    problem: str = ""
    records: int = 0
    overruns: int = 0
    gaps: int = 0
    lost: int = 0
    last_record_at: float = 0.0


class GapCounter:
    """Tells new records from those counted before, and counts the numbers that are missing.

    `cursor` is the last sequence number that is counted (None before the first). The ring of a fresh node may begin
    anywhere, so only a step of more than one after the cursor is a gap.
    """

    def __init__(self, tally: Tally, cursor: int | None = None) -> None:
        self.cursor = cursor
        self._tally = tally

    def is_new(self, seq: int) -> bool:
        """Return True if the record was not counted yet; then it is the cursor now."""
        if self.cursor is not None:
            if seq <= self.cursor:
                return False
            missing = seq - self.cursor - 1
            if missing:
                self._tally.gaps += 1
                self._tally.lost += missing
        self.cursor = seq
        return True
