"""What a policy, or a person at run time, allows."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """What a policy allows: look only; contain and ask before anything disruptive; act."""

    OBSERVE = "observe"
    PROPOSE = "propose"
    ENFORCE = "enforce"

    @property
    def rank(self) -> int:
        """Position from 0 (observe) to 2 (enforce)."""
        return list(Mode).index(self)
