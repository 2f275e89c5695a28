"""The default policies by profile, as files the responder reads; made from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuheal_rules.catalogue.load import CATALOG
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import Reader, load_yaml
from gpuheal_rules.render import to_yaml

ACTIONS = frozenset({"taint", "cordon", "condition", "drain", "reboot", "verify", "probation", "restore"})
"""The steps a policy can name: the responder has one executor each, and a test holds this list against them."""

TELLING = frozenset({"none", "alert", "diagnose"})
"""Rungs of a ladder that only tell people; a fault whose ladder begins with one can do without a policy."""

HEADER = """\
# Made by `gpuheal rules build` from the catalogue (policies.yaml); edit that, or copy this and edit it.
# Profile {name}: {about}
# Mode observe writes what it would do and touches nothing. Change to propose, then to enforce.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A set of policies to start from; each policy is the mapping that its file holds."""

    name: str
    about: str
    policies: tuple[Mapping[str, Any], ...]


def profiles(catalogue: Catalogue, path: Path = CATALOG / "policies.yaml") -> tuple[Profile, ...]:
    """Return every profile; raise ConfigError on unknown faults, groups or ladders."""
    reader = Reader(path.name)
    top = reader.mapping(load_yaml(path), "", ("ladders", "groups", "profiles"))
    ladders = reader.mapping(top.get("ladders"), "ladders")
    groups = {
        name: _slugs(reader, catalogue, value, f"groups.{name}")
        for name, value in reader.mapping(top.get("groups"), "groups").items()
    }
    found = []
    for name, entry in reader.mapping(top.get("profiles"), "profiles").items():
        where = f"profiles.{name}"
        raw = reader.mapping(entry, where, ("about", "policies"))
        policies = tuple(
            _policy(reader, catalogue, item, f"{where}.policies[{i}]", ladders, groups)
            for i, item in enumerate(reader.items(raw.get("policies"), f"{where}.policies"))
        )
        found.append(Profile(name=name, about=reader.text(raw.get("about"), f"{where}.about"), policies=policies))
    return tuple(found)


def files(catalogue: Catalogue, path: Path = CATALOG / "policies.yaml") -> dict[str, str]:
    """Return the policy file of every profile by its name; raises like `profiles`."""
    return {
        f"{profile.name}.yaml": HEADER.format(name=profile.name, about=profile.about)
        + to_yaml({"policies": list(profile.policies)})
        for profile in profiles(catalogue, path)
    }


def steps_for(found: Sequence[Profile], slug: str) -> dict[tuple[str, ...], list[str]]:
    """Return the names of the profiles that act on a fault, by the names of the steps they take."""
    ways: dict[tuple[str, ...], list[str]] = {}
    for profile in found:
        for policy in profile.policies:
            if slug in policy["match"]["faults"]:
                steps = tuple(next(iter(step)) if isinstance(step, dict) else step for step in policy["steps"])
                ways.setdefault(steps, []).append(profile.name)
    return ways


def _slugs(reader: Reader, catalogue: Catalogue, value: object, path: str) -> tuple[str, ...]:
    slugs = reader.texts(value, path)
    for index, slug in enumerate(slugs):
        if slug not in catalogue.faults:
            raise reader.error(f"{path}[{index}]", f"unknown fault {slug!r}", "see faults.yaml")
    return slugs


def _policy(
    reader: Reader,
    catalogue: Catalogue,
    entry: object,
    path: str,
    ladders: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    raw = reader.mapping(entry, path, ("name", "groups", "ladder", "without"))
    without = _slugs(reader, catalogue, raw.get("without"), f"{path}.without")
    wanted = reader.texts(raw.get("groups"), f"{path}.groups")
    for index, name in enumerate(wanted):
        reader.choice(name, f"{path}.groups[{index}]", tuple(groups))
    ladder = reader.choice(raw.get("ladder"), f"{path}.ladder", tuple(ladders))
    return {
        "name": reader.text(raw.get("name"), f"{path}.name"),
        "mode": "observe",
        "match": {"faults": [slug for name in wanted for slug in groups[name] if slug not in without]},
        "steps": list(reader.items(ladders[ladder], f"ladders.{ladder}")),
    }
