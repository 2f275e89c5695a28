"""A campaign: thousands of schedules on several processes; each way of failing is shrunk and written as a script."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from tests.chaos.grammar import generate
from tests.chaos.known import KNOWN, expected, rule_of
from tests.chaos.observer import Violation
from tests.chaos.rules import RULES
from tests.chaos.schedule import Schedule, play
from tests.chaos.shrink import breaking, shrink

CHUNK = 20
BROKEN = "BROKEN.txt"
SHAPES = 3
"""Scripts kept of one rule, each of another sequence of acts."""
TRIED = 8
"""Failing schedules of one rule that are made smaller in search of another shape."""


@dataclass(slots=True)
class Outcome:
    """What a campaign found: by rule, how often, and the seeds that break it."""

    theme: str = ""
    schedules: int = 0
    seconds: float = field(default=0.0, compare=False)
    counts: Counter[str] = field(default_factory=Counter)
    seeds: dict[str, list[int]] = field(default_factory=dict)

    def take(self, seed: int, rules: Sequence[str]) -> None:
        """Count one schedule."""
        self.schedules += 1
        for rule in rules:
            self.counts[rule] += 1
            self.seeds.setdefault(rule, []).append(seed)

    @property
    def rate(self) -> float:
        """Return how many schedules were played per second."""
        return self.schedules / self.seconds if self.seconds else 0.0

    @property
    def unknown(self) -> list[str]:
        """Return the broken rules that nobody expects to be broken."""
        return sorted(rule for rule in self.counts if not expected(rule, self.theme))


def stale(outcome: Outcome) -> list[str]:
    """Return the known cases whose rule broke neither in the campaign nor in their own schedule."""
    unseen = sorted(case for case in KNOWN if rule_of(case) not in outcome.counts)
    return [case for case in unseen if not breaking(rule_of(case))(KNOWN[case])]


def examine(seeds: Sequence[int], theme: str) -> list[tuple[int, list[str]]]:
    """Return for each seed which rules its schedule breaks."""
    return [(seed, sorted({v.rule for v in play(generate(seed, theme))})) for seed in seeds]


def search(
    first: int,
    schedules: int,
    *,
    theme: str = "",
    jobs: int = 1,
    quiet: bool = False,
    found: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Return what so many schedules from seed `first` on break, or as many as were played when `stop` says so.

    Each one that breaks a rule is written to BROKEN of the folder `found` at once.
    """
    outcome, began = Outcome(theme), time.monotonic()
    chunks = [range(s, min(s + CHUNK, first + schedules)) for s in range(first, first + schedules, CHUNK)]
    for results in _on(jobs, chunks, theme, stop):
        for seed, rules in results:
            outcome.take(seed, rules)
            if rules and found is not None:
                _note(found, f"{time.strftime('%H:%M:%S')} seed {seed}: {', '.join(rules)}")
        outcome.seconds = time.monotonic() - began
        if not quiet:
            rate = f"{outcome.schedules}/{schedules} schedules, {outcome.rate:.1f} per second"
            print(f"\r{rate}, {len(outcome.counts)} rules broken ", end="", file=sys.stderr, flush=True)
    if not quiet:
        print(file=sys.stderr)
    return outcome


def _note(folder: Path, line: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / BROKEN).open("a") as file:
        file.write(f"{line}\n")


def _on(
    jobs: int, chunks: Sequence[range], theme: str, stop: Callable[[], bool]
) -> Iterator[list[tuple[int, list[str]]]]:
    if jobs == 1:
        for chunk in chunks:
            if stop():
                return
            yield examine(chunk, theme)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for results in pool.map(examine, chunks, [theme] * len(chunks)):
            yield results
            if stop():
                pool.shutdown(cancel_futures=True)
                return


def smallest(outcome: Outcome, rule: str, theme: str = "") -> list[tuple[int, Schedule, list[Violation]]]:
    """Return a few small schedules that break the rule, of different shapes, with their seeds and all they break."""
    found: dict[tuple[str, ...], tuple[int, Schedule, list[Violation]]] = {}
    for seed in outcome.seeds[rule][:TRIED]:
        small = shrink(generate(seed, theme), breaking(rule), longest=10)
        shape = tuple(sorted({a.name for a in small.acts}))
        if shape not in found:
            found[shape] = (seed, small, play(small))
        if len(found) == SHAPES:
            break
    return list(found.values())


def report(outcome: Outcome, folder: Path, theme: str = "") -> None:
    """Write a script for each way of failing into `folder`, and the newest findings on top of its INDEX.md."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for rule in sorted(outcome.counts, key=lambda r: (RULES[r].kinds, r)):
        for number, (seed, small, violations) in enumerate(smallest(outcome, rule, theme), start=1):
            told = next((v for v in violations if v.rule == rule), None)
            name = f"{RULES[rule].kinds}-{rule}-{number}.py"
            (folder / name).write_text(small.script(violations))
            acts = ", ".join(dict.fromkeys(a.name for a in small.acts))
            lines.append(f"- `{name}` (seed {seed}; {outcome.counts[rule]} of {outcome.schedules}): {told} [{acts}]")
    index = folder / "INDEX.md"
    older = index.read_text() if index.exists() else ""
    head = f"## {time.strftime('%H:%M')}: {outcome.schedules} schedules\n\n"
    index.write_text(head + "\n".join(lines or ["Nothing is broken."]) + "\n\n" + older)
