"""Mends taken back, for each kind of harm: the adversary has to find each. `python -m tests.chaos.reverted`.

A mend is reverted by a patch of `tests/mutants` on a copy of the tree, and schedules of the kind's theme are played
there, from seed 1 on, until one breaks a rule: on the tree as it is, none does. Kind I is about bytes on sockets, which
the simulated fleet does not have: its mends are proven in tests/safety/strangers, tests/responder/test_fuzz.py and
tests/responder/shell/http.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.campaign import examine
from tests.chaos.known import expected
from tests.mutants.run import MUTANTS, applied, copy_tree

MOST = 600
"""Schedules in which a reverted mend has to be found."""
DEADLINE_S = 1800


@dataclass(frozen=True, slots=True)
class Reverted:
    """A mend, by the patch that reverts it, and the theme whose schedules meet it."""

    kind: str
    mutant: str
    theme: str


REVERTED = (
    Reverted("A", "S09-adversary-silence-settles", "A"),
    Reverted("A", "S08-resolved-is-healthy", "A"),
    Reverted("B", "S09-settled-when-noticed", "L"),
    Reverted("B", "S19-protection-is-asked-once", "B"),
    Reverted("B", "S21-reboots-by-others-are-not-seen", "B"),
    Reverted("C", "S14-adversary-forgets-marks", "C"),
    Reverted("C", "S16-whoever-is-named-now-is-asked", "P"),
    Reverted("D", "S18-any-uncordon-is-a-persons", "D"),
    Reverted("D", "S07-silences-need-an-alert-in-flight", "D"),
    Reverted("E", "S15-refusals-are-tried-at-every-look", "E"),
    Reverted("E", "S25-a-lost-policy-ends-the-case", "E"),
    Reverted("F", "S22-no-check-between-intent-and-call", "F"),
    Reverted("G", "S10-any-cluster-beats", "G"),
    Reverted("G", "S14-adversary-takes-any-yes", "G"),
    Reverted("H", "S19-control-plane-nodes-are-drained", "H"),
    Reverted("J", "S24-large-worlds-are-dropped", "J"),
    Reverted("K", "S11-adversary-climbs-in-a-burst", "K"),
    Reverted("K", "S11-incidents-are-ignored", "K"),
)


def until_found(theme: str, most: int) -> tuple[int, str]:
    """Return how many schedules of the theme were played until one broke a rule, and which; 0 when none did."""
    for seed in range(1, most + 1):
        ((_, broken),) = examine([seed], theme)
        unexpected = [rule for rule in broken if not expected(rule, theme)]
        if unexpected:
            return seed, ", ".join(unexpected)
    return 0, ""


def found(mend: Reverted, most: int) -> tuple[int, str]:
    """Return `until_found` on a copy of the tree with the mend reverted."""
    with tempfile.TemporaryDirectory(prefix="reverted-") as folder:
        copy_tree(Path(folder))
        said = applied(MUTANTS / f"{mend.mutant}.patch", Path(folder))
        if said:
            raise SystemExit(f"{mend.mutant}: {said}")
        command = [sys.executable, "-m", "tests.chaos.reverted", "--here", mend.theme]
        roots = ("responder", "rules", "exporters", "deploy/lab", ".")
        path = ":".join(str(Path(folder) / root) for root in roots)
        ran = subprocess.run(
            [*command, "--most", str(most)],
            cwd=folder,
            env={"PYTHONPATH": path, "PATH": ""},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    if ran.returncode != 0:
        raise SystemExit(f"{mend.mutant}: {ran.stderr.strip()[-500:]}")
    after, _, rules = ran.stdout.strip().partition(" ")
    return int(after), rules


def main(argv: Sequence[str]) -> int:
    """Print the table; return 1 when a reverted mend is not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.reverted", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="letters of kinds, or names of mutants; all by default")
    parser.add_argument("--most", type=int, default=MOST, help="how many schedules at most")
    parser.add_argument("--here", metavar="THEME", help="play on this tree as it is")
    asked = parser.parse_args(argv)
    if asked.here:
        print(*until_found(asked.here, asked.most))
        return 0
    missed = 0
    print("| kind | mend reverted | theme | schedules until found | rules that broke |\n|---|---|---|---|---|")
    for mend in REVERTED:
        if asked.kinds and not {mend.kind, mend.mutant} & set(asked.kinds):
            continue
        began = time.monotonic()
        after, rules = found(mend, asked.most)
        missed += not after
        told = str(after) if after else f"not in {asked.most}"
        print(f"| {mend.kind} | {mend.mutant} | {mend.theme} | {told} | {rules} |", flush=True)
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
