"""The default policies by profile, as files the responder reads; their steps follow from the faults' ladders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuheal_rules.catalogue.load import CATALOG
from gpuheal_rules.catalogue.model import Catalogue, Fault
from gpuheal_rules.catalogue.reader import Reader, load_yaml
from gpuheal_rules.render import to_yaml

ACTIONS = frozenset({"taint", "cordon", "condition", "drain", "reboot", "verify", "probation", "restore"})
"""The steps a policy can name: the responder has one executor each, and a test holds this list against them."""

SERVED: Mapping[str, str] = {"taint": "taint", "cordon": "taint", "drain": "drain", "reboot": "reboot"}
"""The action that serves a rung of a ladder; `taint` cordons as well. What is not here is for people."""

MARKS = ("taint",)
CURES = ("reboot",)
"""Actions of ladders that mark a node, and that can heal it; a test holds both against the responder's phases."""

CONTAINED = ("condition",)
PROVEN = ("verify", "probation", "restore")
"""What is no rung and belongs to one: telling the cluster after the marks, the way back after a cure."""

CLIMBS = ("contain", "cure")
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


def cures(fault: Fault) -> tuple[str, ...]:
    """Return the actions of the fault's ladder that can heal, in its order."""
    served = dict.fromkeys(SERVED[rung] for rung in fault.ladder if rung in SERVED)
    return tuple(action for action in served if action in CURES)


def steps(fault: Fault, climbs: str) -> tuple[str, ...]:
    """Return the names of the steps that the fault's ladder makes; none for a fault of which people are only told.

    A node is emptied for the cure that follows: where no action serves one, it is marked and left to people.
    """
    if not fault.acted_on:
        return ()
    served = tuple(dict.fromkeys(SERVED[rung] for rung in fault.ladder if rung in SERVED))
    marks = tuple(action for action in served if action in MARKS)
    if climbs == "contain" or not cures(fault):
        return (*marks, *CONTAINED)
    return (*marks, *CONTAINED, *(action for action in served if action not in MARKS), *PROVEN)


def profiles(catalogue: Catalogue, path: Path = CATALOG / "policies.yaml") -> tuple[Profile, ...]:
    """Return every profile; raise ConfigError where a fault has no policy, or a policy no fault."""
    reader = Reader(path.name)
    top = reader.mapping(load_yaml(path), "", ("profiles",))
    entries = reader.mapping(top.get("profiles"), "profiles").items()
    return tuple(_profile(reader, catalogue, name, entry) for name, entry in entries)


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
                names = tuple(next(iter(step)) if isinstance(step, dict) else step for step in policy["steps"])
                ways.setdefault(names, []).append(profile.name)
    return ways


def _profile(reader: Reader, catalogue: Catalogue, name: str, entry: object) -> Profile:
    where = f"profiles.{name}"
    raw = reader.mapping(entry, where, ("about", "climbs", "without", "policies"))
    climbs = reader.choice(raw.get("climbs"), f"{where}.climbs", CLIMBS)
    without = reader.texts(raw.get("without"), f"{where}.without")
    acted_on = {slug: fault for slug, fault in catalogue.faults.items() if fault.acted_on}
    for index, slug in enumerate(without):
        reader.choice(slug, f"{where}.without[{index}]", [f.slug for f in catalogue.every_fault() if f.acted_on])
    left = {slug: fault for slug, fault in acted_on.items() if slug not in without}
    policies = []
    for index, item in enumerate(reader.items(raw.get("policies"), f"{where}.policies")):
        policy = _policy(reader, item, f"{where}.policies[{index}]", left, climbs, bool(catalogue.retired))
        policies += [policy] if policy else []
    for slug, fault in left.items():
        heal = ", ".join(_cures(fault, climbs)) or "none"
        raise reader.error(f"{where}.policies", f"no policy covers {slug} (recovery actions in its ladder: {heal})")
    return Profile(name=name, about=reader.text(raw.get("about"), f"{where}.about"), policies=tuple(policies))


def _policy(
    reader: Reader, entry: object, path: str, left: dict[str, Fault], climbs: str, thinned: bool
) -> dict[str, Any]:
    """Take the policy's faults out of `left` and return the mapping that its file holds.

    Where a site switched faults off (`thinned`), a policy may have none left; nothing is returned then.
    """
    raw = reader.mapping(entry, path, ("name", "cures", "with"))
    wanted = reader.texts(raw.get("cures"), f"{path}.cures")
    taken = {slug: left.pop(slug) for slug in list(left) if _cures(left[slug], climbs) == wanted}
    ways = {steps(fault, climbs) for fault in taken.values()}
    if thinned and not taken:
        return {}
    if len(ways) != 1:
        found = "; ".join(" → ".join(way) for way in sorted(ways)) or "none"
        raise reader.error(f"{path}.cures", f"expected faults whose ladders give the same steps, got {found}")
    (names,) = ways
    given = reader.mapping(raw.get("with", {}), f"{path}.with", names)
    return {
        "name": reader.text(raw.get("name"), f"{path}.name"),
        "mode": "observe",
        "match": {"faults": list(taken)},
        "steps": [{name: dict(given[name])} if name in given else name for name in names],
    }


def _cures(fault: Fault, climbs: str) -> tuple[str, ...]:
    return () if climbs == "contain" else cures(fault)
