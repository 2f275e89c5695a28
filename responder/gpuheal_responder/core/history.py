"""What a machine has been through: compact, bounded, and kept apart from cases, which people may delete.

Attempts, cooldowns, watermarks and the rate of marks are counted from here, never from marks or cases that are still
there: a case that was deleted or washed out by short ones must not give the machine a clean sheet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuheal_responder.core.case import SETTLING, TAKEN, AttemptState, Case
from gpuheal_responder.core.phase import Phase

KEPT_FOR = timedelta(days=7)
"""Longer than any window that is counted; as long as the rules remember a settlement."""
AHEAD = timedelta(minutes=10)
"""Moments that lie further ahead are not believed; as long as the window in which marks count."""
ONE_MARK = timedelta(seconds=10)
"""Two moments of marking that are closer are one mark, told by two replicas."""
MOST_CURES = 32
MOST_MARKS = 32
MOST_FAULTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """A cure of this machine, begun at `started_at`; `ended_at` is None while its end is not known."""

    operation: str
    action: str
    started_at: datetime
    target: str = ""
    ended_at: datetime | None = None

    @property
    def last_at(self) -> datetime:
        """The latest moment that is known of it."""
        return self.ended_at or self.started_at


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenFault:
    """A fault that stood when a person took the machine back: that it still stands is no news."""

    slug: str
    gpu_uuid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """A case that was given to people, and why; it ends with the case, not with its object."""

    case: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is remembered of one machine (its system UUID, else its node's name).

    `settled_at` is until when its evidence is settled, by proof or by a person; `taken_at` when a person last took it
    back from us, with the `taken` faults that stood then.
    """

    machine: str = ""
    cures: tuple[PastAttempt, ...] = ()
    marks: tuple[datetime, ...] = ()
    settled_at: datetime | None = None
    taken_at: datetime | None = None
    taken: tuple[TakenFault, ...] = ()
    escalated: Escalation | None = None
    unreadable: str = ""
    """What of the stored history this version cannot read; it never stands in the store."""


NOTHING = History()
"""The history of a machine that has been through nothing."""


def machine_of(system_uuid: str, node: str) -> str:
    """Return the key of a machine: its system UUID, or its node's name where the machine has none."""
    return system_uuid or node


def shared(system_uuids: Iterable[str]) -> frozenset[str]:
    """Return those that more than one machine tells: some boards all have the same, which names none of them."""
    return frozenset(uuid for uuid, machines in Counter(system_uuids).items() if machines > 1)


def absorb(history: History, case: Case, now: datetime) -> History:
    """Return the history with all that a case of this machine adds to it; absorbing it again changes nothing."""
    cures = {c.operation: c for c in history.cures}
    for attempt in case.attempts:
        if attempt.phase is Phase.CURE and not attempt.foreign:
            cures[attempt.operation] = PastAttempt(
                operation=attempt.operation,
                action=attempt.action,
                target=attempt.target,
                started_at=attempt.started_at,
                ended_at=attempt.ended_at,
            )
    found = replace(
        history,
        cures=_newest((c for c in cures.values() if now - c.last_at < KEPT_FOR), MOST_CURES),
        marks=tuple(sorted(m for m in marks_of(history, case) if now - m < KEPT_FOR)[-MOST_MARKS:]),
        escalated=_escalation(history, case),
    )
    ended = case.settled_at or case.closed_at
    if ended is None or case.result not in SETTLING:
        return found
    if history.settled_at is None or ended > history.settled_at:
        found = replace(found, settled_at=ended)
    if case.result in TAKEN and (history.taken_at is None or ended >= history.taken_at):
        stood = [f for f in case.faults if f.since < ended]
        faults = dict.fromkeys(TakenFault(slug=f.slug, gpu_uuid=f.target.gpu_uuid) for f in stood)
        found = replace(found, taken_at=ended, taken=tuple(faults)[:MOST_FAULTS])
    return found


def marks_of(history: History, case: Case) -> frozenset[datetime]:
    """Return when the machine was contained, by this case and by those before it.

    A case that had to be read from its undo record tells of its mark a moment later than the one who made it did.
    """
    ours = (m for m in _marks(case) if not any(abs(m - known) < ONE_MARK for known in history.marks))
    return frozenset({*history.marks, *ours})


def _newest(cures: Iterable[PastAttempt], most: int) -> tuple[PastAttempt, ...]:
    return tuple(sorted(cures, key=lambda c: (c.last_at, c.operation))[-most:])


def _marks(case: Case) -> Iterable[datetime]:
    made = (a for a in case.attempts if a.phase is Phase.CONTAIN and a.state is AttemptState.SUCCEEDED)
    first = next(made, None)  # tries that were refused have marked nothing
    return () if first is None else (first.started_at,)


def moments_of(history: History) -> Iterator[datetime]:
    """Yield every moment that the history tells of."""
    yield from history.marks
    yield from (cure.last_at for cure in history.cures)
    yield from (at for at in (history.settled_at, history.taken_at) if at is not None)


def believable(history: History, now: datetime) -> History:
    """Return the history without moments that lie ahead: a clock that once was wrong must not block a fleet for years.

    What is ahead by less than the window of marks counts: clocks of two replicas differ a little.
    """
    latest = now + AHEAD
    if all(moment <= latest for moment in moments_of(history)):
        return history
    return replace(
        history,
        cures=tuple(c for c in history.cures if c.last_at <= latest),
        marks=tuple(m for m in history.marks if m <= latest),
        settled_at=history.settled_at if history.settled_at is None or history.settled_at <= latest else None,
        taken_at=history.taken_at if history.taken_at is None or history.taken_at <= latest else None,
    )


def _escalation(history: History, case: Case) -> Escalation | None:
    if case.closed_at is None and case.escalated:
        return Escalation(case=case.name, reason=case.escalated)
    if case.closed_at is not None and history.escalated is not None and history.escalated.case == case.name:
        return None
    return history.escalated
