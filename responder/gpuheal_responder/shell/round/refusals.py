"""What was refused lately, case by case: it is tried ever more slowly, and people are told that it does not go on.

Without this a case whose writes are refused for good (rights taken away, an admission webhook, a full store) would be
written at every look, and look as if it were acting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuheal_responder.core.verdict import Hold, Refusal
from gpuheal_responder.errors import ActionError, Permanent

PATIENT = 3
"""So many failures in a row are the API server's everyday life; from then on people are told."""
FIRST, LAST = timedelta(seconds=1), timedelta(minutes=10)
LAST_TRANSIENT = timedelta(seconds=10)
"""An API server that is overloaded or away is back before long."""


@dataclass(slots=True)
class _Refused:
    times: int
    reason: str
    message: str
    again_at: datetime


class Refusals:
    """By name of a case, or of what else is tried again; a success forgets the failures before it."""

    def __init__(self) -> None:
        self._refused: dict[str, _Refused] = {}

    def failed(self, name: str, problem: ActionError, now: datetime) -> None:
        """Note one more failure in a row; the pause doubles with each. What is permanent is told at once."""
        before = self._refused.get(name)
        times = 1 + (before.times if before is not None and before.reason == problem.reason else 0)
        last = LAST_TRANSIENT
        if isinstance(problem, Permanent):
            times, last = max(times, PATIENT), LAST
        again_at = now + min(last, FIRST * 2 ** min(times - 1, 16))
        self._refused[name] = _Refused(times=times, reason=problem.reason, message=str(problem), again_at=again_at)

    def succeeded(self, name: str) -> None:
        """Forget the failures."""
        self._refused.pop(name, None)

    def waits(self, name: str, now: datetime) -> bool:
        """Return whether it is too early to try again."""
        found = self._refused.get(name)
        return found is not None and now < found.again_at

    def hold(self, name: str, now: datetime) -> Hold | None:
        """Return what to tell people once failures are no everyday matter any more."""
        found = self._refused.get(name)
        if found is None or found.times < PATIENT:
            return None
        pause = max(timedelta(0), found.again_at - now)
        refusal = Refusal(guard="write", reason=found.reason, message=found.message, retry_in=pause)
        return Hold(due=None, refusals=(refusal,))

    def first_hold(self, kinds: Sequence[str], name: str, now: datetime) -> Hold | None:
        """Return what to tell people about the first of these kinds of writes of a case that does not succeed."""
        holds = (self.hold(f"{kind} {name}", now) for kind in kinds)
        return next((hold for hold in holds if hold is not None), None)

    def keep(self, names: set[str]) -> None:
        """Forget all but these."""
        self._refused = {name: found for name, found in self._refused.items() if name.partition(" ")[2] in names}
