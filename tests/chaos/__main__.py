"""Run a campaign: `python -m tests.chaos --schedules 20000 --seed 1 --jobs 2`.

Returns 1 when a rule breaks unexpectedly, and when one that is known to break does so no more. SIGINT or SIGTERM ends
it after the schedules in hand, with what was found by then.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from threading import Event

from tests.chaos.campaign import report, search, stale
from tests.chaos.grammar import THEMES, generate
from tests.chaos.schedule import play


def main() -> int:
    """Search, report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--schedules", type=int, default=200, help="how many schedules to play")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first schedule; the others follow")
    parser.add_argument("--jobs", type=int, default=1, help="processes to play them on")
    parser.add_argument("--theme", choices=sorted(THEMES), default="", help="play only schedules of this theme")
    parser.add_argument(
        "--found",
        type=Path,
        help="folder for BROKEN.txt, written as it goes, a script of each way of failing, and INDEX.md",
    )
    parser.add_argument("--show", action="store_true", help="print the schedule of --seed and what it breaks, no more")
    asked = parser.parse_args()
    if asked.show:
        schedule = generate(asked.seed, asked.theme)
        print(schedule.script(play(schedule)))
        return 0
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    outcome = search(
        asked.seed, asked.schedules, theme=asked.theme, jobs=asked.jobs, found=asked.found, stop=stopped.is_set
    )
    for rule, times in outcome.counts.most_common():
        known = "UNEXPECTED" if rule in outcome.unknown else "known"
        print(f"{times:6} {rule:<26} seeds {', '.join(map(str, outcome.seeds[rule][:4]))} ({known})")
    asked_for = f" of {asked.schedules}: interrupted" if outcome.schedules < asked.schedules else ""
    played = f"{outcome.schedules} schedules{asked_for}, {outcome.rate:.1f} per second"
    print(f"{played}, {len(outcome.unknown)} rules broken unexpectedly", flush=True)
    mended = stale(outcome)
    if mended:
        print(f"mended, to be taken off tests/chaos/known.py: {', '.join(mended)}")
    if asked.found is not None:
        report(outcome, asked.found, asked.theme)
    return 1 if outcome.unknown or mended else 0


if __name__ == "__main__":
    sys.exit(main())
