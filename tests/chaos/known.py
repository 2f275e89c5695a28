"""Rules that are known to break today, and in schedules of which themes. The list has to end empty.

Tests assert every rule everywhere else. A campaign says of which of these it could not find a breach any more, and
plays their schedules in `cases.py`: what is mended is taken off the list.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.cases import CASES
from tests.chaos.schedule import Schedule

THEMES: Mapping[str, str] = {}
"""Letters of the themes in whose schedules a case's rule breaks today."""
KNOWN: Mapping[str, Schedule] = {case: CASES[case] for case in THEMES}


def rule_of(case: str) -> str:
    """Return the rule that a case breaks."""
    return case.partition(" ")[0]


def expected(rule: str, theme: str) -> bool:
    """Return whether the rule may break today in schedules of this theme, or of any for an empty one."""
    return any(rule_of(case) == rule and (not theme or theme in themes) for case, themes in THEMES.items())
