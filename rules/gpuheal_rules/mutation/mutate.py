"""Mutation-test the rules: every small change to a rule must make at least one promtool test fail.

Lists surviving mutants and exits with status 1 if there are any. By default it runs a sample chosen by --seed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, get_ident

from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.mutation.mutants import Mutant, mutants, mutated
from gpuheal_rules.mutation.suites import Suite, failures, suites, suites_for
from gpuheal_rules.options import Options
from gpuheal_rules.promql.promtool import find_promtool
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import build_groups

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
    jobs: int = 1,
) -> list[Mutant]:
    """Return the mutants that no case notices; raises ValueError when a suite fails without any change."""
    with tempfile.TemporaryDirectory(prefix="gpuheal-mutants-") as name, ThreadPoolExecutor(jobs) as pool:
        hunt = _Hunt(promtool, catalogue, groups, Path(name))
        alive = []
        for mutant, killer in zip(chosen, pool.map(hunt.killer, chosen), strict=True):
            report(f"{'killed by ' + killer if killer else 'SURVIVED'}: {mutant.key}: {mutant.what}")
            if not killer:
                alive.append(mutant)
    return alive


class _Hunt:
    """Looks for suites that notice mutants; each thread has a folder of its own."""

    def __init__(self, promtool: str, catalogue: Catalogue, groups: Sequence[Group], folder: Path) -> None:
        self._promtool, self._catalogue, self._groups = promtool, catalogue, groups
        self._suites = suites(catalogue)
        self._folder = folder
        self._lock = Lock()
        self._sound: set[str] = set()

    def killer(self, mutant: Mutant) -> str:
        """Return the name of the first suite that notices the mutant, or an empty text."""
        fault = self._groups[mutant.group].rules[mutant.rule].labels.get("fault", "")
        changed = mutated(self._groups, mutant)
        for suite in suites_for(mutant, fault, self._suites):
            with self._lock:
                if suite.name not in self._sound:
                    self._check(suite)
            if self._failures(changed, suite):
                return suite.name
        return ""

    def _check(self, suite: Suite) -> None:
        problem = self._failures(self._groups, suite)
        if problem:
            raise ValueError(f"suite {suite.name} fails without any change: {problem[:2000]}")
        self._sound.add(suite.name)

    def _failures(self, groups: Sequence[Group], suite: Suite) -> str:
        folder = self._folder / str(get_ident())
        folder.mkdir(exist_ok=True)
        return failures(self._promtool, self._catalogue, groups, suite, folder)


def main(argv: Sequence[str]) -> int:
    """Run a sample or all mutants and return 1 when one survives."""
    parser = argparse.ArgumentParser(prog="gpuheal rules mutate", description=__doc__)
    parser.add_argument("--all", action="store_true", help="run every mutant")
    parser.add_argument("--sample", type=int, default=12, help="number of mutants to run (default: 12)")
    parser.add_argument("--seed", type=int, default=1, help="seed that chooses the sample")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="mutants to run in parallel (default: one per core)"
    )
    parser.add_argument("--only", default="", help="run only mutants whose key contains this string")
    parser.add_argument("--promtool", help="promtool command (default: $GPUHEAL_PROMTOOL, or promtool in PATH)")
    parser.add_argument("--list", action="store_true", help="list the mutants and exit")
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
    alive = survivors(promtool, catalogue, groups, chosen, lambda line: print(line, flush=True), max(args.jobs, 1))
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed")
    return 1 if alive else 0
