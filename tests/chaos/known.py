"""Rules that are known to break today, each with a small schedule that breaks it. The list has to end empty.

Tests assert every other rule. A campaign says of which of these it could not find a breach any more, and plays these
schedules: what is mended is taken off the list.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.cases import CASES
from tests.chaos.schedule import Schedule

TODAY = ("E-unbounded-tries", "S14-pool-budget", "S14-rack-budget", "S18-unacknowledged")
KNOWN: Mapping[str, Schedule] = {rule: CASES[rule] for rule in TODAY}
