"""Making a failing schedule smaller: acts are left out, then numbers made smaller, as long as it fails the same way.

The first half is Zeller's delta debugging (ddmin) over the acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

from tests.chaos.schedule import Act, Schedule, play
from tests.chaos.world import Setup

LONGEST_S = 20.0

Fails = Callable[[Schedule], bool]


def breaking(rule: str) -> Fails:
    """Return the question whether a schedule breaks this rule."""
    return lambda schedule: any(v.rule == rule for v in play(schedule))


def shrink(schedule: Schedule, fails: Fails, *, longest: float = LONGEST_S) -> Schedule:
    """Return the smallest schedule found within `longest` seconds that still fails."""
    end = time.monotonic() + longest

    def still(candidate: Schedule) -> bool:
        return time.monotonic() < end and fails(candidate)

    schedule = _fewer(schedule, still)
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for candidate in (*_simpler_setups(schedule), *_smaller(schedule)):
            if still(candidate):
                schedule, changed = candidate, True
                break
    return _fewer(schedule, still)


def _fewer(schedule: Schedule, still: Fails) -> Schedule:
    acts, parts = list(schedule.acts), 2
    while len(acts) >= 2:
        size = max(1, len(acts) // parts)
        chunks = [acts[i : i + size] for i in range(0, len(acts), size)]
        for index in range(len(chunks)):
            rest = [a for i, chunk in enumerate(chunks) if i != index for a in chunk]
            if still(replace(schedule, acts=tuple(rest))):
                acts, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(acts), 2 * parts)
    return replace(schedule, acts=tuple(acts))


def _simpler_setups(schedule: Schedule) -> Iterator[Schedule]:
    """Yield the schedule with one setting at a time as it is by default."""
    for each in fields(Setup):
        usual = getattr(Setup(), each.name)
        if getattr(schedule.setup, each.name) != usual:
            yield replace(schedule, setup=replace(schedule.setup, **{each.name: usual}))


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Yield the schedule with one number at a time halved, or less by one."""
    for index, act in enumerate(schedule.acts):
        for place, (name, value) in enumerate(act.arguments):
            for less in _less(name, value):
                arguments = (*act.arguments[:place], (name, less), *act.arguments[place + 1 :])
                acts = (*schedule.acts[:index], Act(act.name, arguments), *schedule.acts[index + 1 :])
                yield replace(schedule, acts=acts)


def _less(name: str, value: object) -> Sequence[object]:
    if isinstance(value, bool) or name in {"node", "gpu", "nodes", "peer"} or not isinstance(value, int | float):
        return ()
    return [n for n in (value // 2, value - 1) if 0 < n < value]
