"""Cases that are opened at every look because they could not be stored yet keep their name from look to look.

A case's name holds the moment of its opening. Were it made anew at each look, every create whose answer is lost would
leave one more open case of the node, and every refusal would be the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from gpuheal_responder.shell.round.agenda import Subject


@dataclass(slots=True)
class Drafts:
    """Names and openings by node of the cases that the last look opened."""

    _known: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def named(self, subjects: Iterable[Subject]) -> list[Subject]:
        """Return the subjects, those that are not stored yet under the name that the last look gave them."""
        found, known = [], {}
        for subject in subjects:
            if subject.stored is None and not subject.marked:
                name, opened_at = self._known.get(subject.node, (subject.case.name, subject.case.opened_at))
                known[subject.node] = (name, opened_at)
                found.append(replace(subject, case=replace(subject.case, name=name, opened_at=opened_at)))
            else:
                found.append(subject)
        self._known = known
        return found
