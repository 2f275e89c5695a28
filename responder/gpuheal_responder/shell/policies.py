"""Policy files: read strictly, all or nothing; a change that can't be used keeps the old set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuheal_responder.actions import SPECS
from gpuheal_responder.config.policies import parse_own_faults, parse_policies
from gpuheal_responder.config.reader import load_yaml
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.process.reload import Watched
from gpuheal_rules.catalogue.load import load_catalogue


def read_policies(files: Sequence[Path], faults: frozenset[str] | None = None) -> tuple[Policy, ...]:
    """Return the policies of all files in order; ConfigError names the file and the path of the first mistake.

    A policy name may stand in one file only. `faults` is the set of known slugs, by default the catalogue's and those
    that the files declare.
    """
    known = known_faults(files) if faults is None else faults
    found: dict[str, Policy] = {}
    for file in files:
        for policy in parse_policies(load_yaml(file), file=str(file), actions=SPECS, faults=known):
            if policy.name in found:
                raise ConfigError(str(file), policy.name, "another file defines a policy with this name")
            found[policy.name] = policy
    return tuple(found.values())


def watched_policies(files: Sequence[Path], on_problem: Callable[[ConfigError], None]) -> Watched[tuple[Policy, ...]]:
    """Return the policies as a value that follows its files; ConfigError when they cannot be used the first time."""
    return Watched(files, lambda: read_policies(files), on_problem)


def known_faults(files: Sequence[Path]) -> frozenset[str]:
    """Return the catalogue's fault kinds and those that the policy files declare as the site's own."""
    return fault_slugs().union(*(parse_own_faults(load_yaml(file), file=str(file)) for file in files))


@functools.cache
def fault_slugs() -> frozenset[str]:
    """Return the slugs of all fault kinds in the catalogue."""
    return frozenset(load_catalogue().faults)
