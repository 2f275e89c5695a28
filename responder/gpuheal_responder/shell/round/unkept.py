"""Cases that the API server refuses to keep or to close: people are told, and it is tried again after a while."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuheal_responder.core.verdict import Hold, Refusal
from gpuheal_responder.errors import Permanent

RETRY = timedelta(seconds=30)


@dataclass(slots=True)
class Unkept:
    """What was refused for good, by case, and when."""

    _by_case: dict[str, tuple[datetime, Hold]] = field(default_factory=dict)

    def refused(self, case: str, problem: Permanent, now: datetime) -> Hold:
        """Return the hold that tells of the refusal; it stands for a while."""
        text = f"the case can be neither stored nor closed: {problem}"
        hold = Hold(due=None, refusals=(Refusal(guard="case", reason=problem.reason, message=text, retry_in=RETRY),))
        self._by_case[case] = (now, hold)
        return hold

    def still(self, case: str, now: datetime) -> Hold | None:
        """Return the hold while it is too early to try again."""
        at, hold = self._by_case.get(case, (now, None))
        return hold if now - at < RETRY else None

    def only(self, names: Collection[str]) -> None:
        """Forget all other cases."""
        self._by_case = {name: found for name, found in self._by_case.items() if name in names}
