"""`gpuheal rules mutate`: every small wrong change of a rule must make a promtool case fail.

Exit status 1 names the survivors. A bounded sample, chosen by a seed, runs in CI; `--all` is for the night.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuheal_rules.catalogue import load_catalogue
from gpuheal_rules.model import Catalogue
from gpuheal_rules.mutants import Mutant, mutants, mutated
from gpuheal_rules.options import Options
from gpuheal_rules.promtool import find_promtool
from gpuheal_rules.render import build_groups
from gpuheal_rules.rule import Group
from gpuheal_rules.suites import Suite, failures, suites, suites_for

EQUIVALENT: dict[str, str] = {
    "gpuheal:gpu_counter:growth24h": "same form as growth1h, whose mutants are run; a day of steps is too long for all",
}
"""Rules or mutants (by the beginning of their key) that no case can tell from the original, with the reason."""


def candidates(groups: Sequence[Group]) -> list[Mutant]:
    """Return the mutants that a case must notice."""
    return [m for m in mutants(groups) if not any(m.key.startswith(known) for known in EQUIVALENT)]


def sample(found: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return `count` mutants chosen by `seed`, the same ones for the same catalogue and seed."""
    return random.Random(seed).sample(list(found), min(count, len(found)))  # noqa: S311


def survivors(
    promtool: str,
    catalogue: Catalogue,
    groups: Sequence[Group],
    chosen: Sequence[Mutant],
    report: Callable[[str], None] = lambda _line: None,
) -> list[Mutant]:
    """Return the mutants that no case notices; raises ValueError when a suite fails without any change."""
    known = suites(catalogue)
    sound: set[str] = set()
    alive = []
    with tempfile.TemporaryDirectory(prefix="gpuheal-mutants-") as name:
        folder = Path(name)
        for mutant in chosen:
            killer = _killer(promtool, catalogue, groups, mutant, known, sound, folder)
            report(f"{'killed by ' + killer if killer else 'SURVIVED'}: {mutant.key}: {mutant.what}")
            if not killer:
                alive.append(mutant)
    return alive


def _killer(
    promtool: str,
    catalogue: Catalogue,
    groups: Sequence[Group],
    mutant: Mutant,
    known: dict[str, Suite],
    sound: set[str],
    folder: Path,
) -> str:
    rule = groups[mutant.group].rules[mutant.rule]
    for suite in suites_for(mutant, rule.labels.get("fault", ""), known):
        if suite.name not in sound:
            problem = failures(promtool, catalogue, groups, suite, folder)
            if problem:
                raise ValueError(f"suite {suite.name} fails without any change: {problem[:2000]}")
            sound.add(suite.name)
        if failures(promtool, catalogue, mutated(groups, mutant), suite, folder):
            return suite.name
    return ""


def main(argv: Sequence[str]) -> int:
    """Run a sample or all mutants and return 1 when one survives."""
    parser = argparse.ArgumentParser(prog="gpuheal rules mutate", description=__doc__)
    parser.add_argument("--all", action="store_true", help="run every mutant")
    parser.add_argument("--sample", type=int, default=12, help="how many mutants to run (default 12)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample")
    parser.add_argument("--only", default="", help="only mutants whose key contains this text")
    parser.add_argument("--promtool", help="promtool to use (default: $GPUHEAL_PROMTOOL or PATH)")
    parser.add_argument("--list", action="store_true", help="list the mutants and stop")
    args = parser.parse_args(list(argv))
    catalogue = load_catalogue()
    groups = build_groups(catalogue, Options())
    found = [m for m in candidates(groups) if args.only in m.key]
    if args.list:
        for mutant in found:
            print(f"{mutant.key}: {mutant.what}")
        return 0
    promtool = find_promtool(args.promtool)
    if promtool is None:
        print("gpuheal rules mutate: no promtool found; give --promtool or set GPUHEAL_PROMTOOL", file=sys.stderr)
        return 2
    chosen = found if args.all or args.only else sample(found, args.sample, args.seed)
    alive = survivors(promtool, catalogue, groups, chosen, report=lambda line: print(line, flush=True))
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed")
    return 1 if alive else 0
