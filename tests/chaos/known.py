"""Rules that are known to break today, and in schedules of which themes. The list has to end empty.

Tests assert every rule everywhere else. A campaign says of which of these it could not find a breach any more, and
plays their schedules in `cases.py`: what is mended is taken off the list.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.cases import CASES
from tests.chaos.schedule import Schedule

THEMES: Mapping[str, str] = {
    "E-sick-untold": "CLW",
    "E-standing-still": "CESW",
    "E-unbounded-tries": "EFSW",
    "L-never-contained": "CLW",
}
"""Letters of the themes in whose schedules the rule breaks today."""
KNOWN: Mapping[str, Schedule] = {rule: CASES[rule] for rule in THEMES}


def expected(rule: str, theme: str) -> bool:
    """Return whether the rule may break today in schedules of this theme, or of any for an empty one."""
    return rule in KNOWN and (not theme or theme in THEMES[rule])
