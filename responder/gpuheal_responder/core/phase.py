"""Where a step stands in the life of a case."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Order of the steps of a case: contain, empty, cure, prove, watch, give back."""

    CONTAIN = "contain"
    EMPTY = "empty"
    CURE = "cure"
    PROVE = "prove"
    WATCH = "watch"
    RETURN = "return"

    @property
    def rank(self) -> int:
        """Position from 0 (contain) to 5 (return)."""
        return list(Phase).index(self)
