"""The strict reader that makes policies from plain data.

A policy may only tighten what the guards demand by themselves; the reader refuses looser values, unknown keys, and
steps in an order that could not work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum

from gpuheal_responder.config.reader import Reader
from gpuheal_responder.core.duration import format_duration
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Limits, Policy, Requirement
from gpuheal_responder.core.step import ActionSpec, Empties, Step


class Operator(StrEnum):
    """Operators of a node requirement, in Kubernetes' words."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class _Expression:
    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Nodes:
    matchLabels: Mapping[str, str] = field(default_factory=dict)  # as Kubernetes spells it
    matchExpressions: tuple[_Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class _Match:
    faults: tuple[str, ...]
    nodes: _Nodes = _Nodes()


@dataclass(frozen=True, slots=True)
class _Limits:
    pool_percent: int | None = None
    rack_percent: int | None = None
    zone_percent: int | None = None
    mark_percent: int | None = None
    attempts: int | None = None
    cooldown: timedelta | None = None


@dataclass(frozen=True, slots=True)
class _Policy:
    name: str
    match: _Match
    steps: tuple[object, ...]
    mode: Mode = Mode.OBSERVE
    limits: _Limits = _Limits()


@dataclass(frozen=True, slots=True)
class _File:
    policies: tuple[_Policy, ...]
    own_faults: tuple[str, ...] = ()
    """Fault kinds of the site's own rules, beside those of the catalogue."""


def parse_policies(
    raw: object, *, file: str, actions: Mapping[str, ActionSpec], faults: frozenset[str]
) -> tuple[Policy, ...]:
    """Return the policies that `raw` (a parsed YAML document) describes.

    `faults` is the set of known fault slugs. Raises ConfigError naming `file` and the path of the first mistake.
    """
    reader = Reader(file)
    faults |= parse_own_faults(raw, file=file)
    found: dict[str, Policy] = {}
    for index, entry in enumerate(reader.structure(raw, _File, "").policies):
        policy = _policy(reader, entry, f"policies[{index}]", actions, faults)
        if policy.name in found:
            raise reader.error(f"policies[{index}].name", f"{policy.name!r} is defined twice")
        found[policy.name] = policy
    return tuple(found.values())


def parse_own_faults(raw: object, *, file: str) -> frozenset[str]:
    """Return the fault kinds that `raw` declares as those of the site's own rules; ConfigError as above."""
    reader = Reader(file)
    found = reader.structure(raw, _File, "").own_faults
    for index, slug in enumerate(found):
        if not re.fullmatch(r"[a-z](-?[a-z0-9]){0,62}", slug):
            raise reader.error(f"own_faults[{index}]", f"{slug[:80]!r} is not a fault name")
    return frozenset(found)


def _policy(
    reader: Reader, entry: _Policy, path: str, actions: Mapping[str, ActionSpec], faults: frozenset[str]
) -> Policy:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", entry.name):
        raise reader.error(f"{path}.name", f"{entry.name[:80]!r} is not a lowercase DNS label")
    for index, slug in enumerate(entry.match.faults):
        if slug not in faults:
            near = get_close_matches(slug, sorted(faults), n=1)
            hint = f"did you mean {near[0]}?" if near else ""
            raise reader.error(f"{path}.match.faults[{index}]", f"unknown fault {slug[:80]!r}", hint)
    return Policy(
        name=entry.name,
        mode=entry.mode,
        faults=entry.match.faults,
        nodes=_nodes(reader, entry.match.nodes, f"{path}.match.nodes"),
        steps=_steps(reader, entry.steps, f"{path}.steps", actions),
        limits=_limits(reader, entry.limits, f"{path}.limits"),
    )


def _nodes(reader: Reader, nodes: _Nodes, path: str) -> tuple[Requirement, ...]:
    found = [Requirement(key=key, operator="In", values=(wanted,)) for key, wanted in nodes.matchLabels.items()]
    for index, wanted in enumerate(nodes.matchExpressions):
        where = f"{path}.matchExpressions[{index}].values"
        if wanted.operator in (Operator.IN, Operator.NOT_IN) and not wanted.values:
            raise reader.error(where, "missing")
        if wanted.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and wanted.values:
            raise reader.error(where, f"must not be set with operator {wanted.operator}")
        found.append(Requirement(key=wanted.key, operator=wanted.operator.value, values=wanted.values))
    return tuple(found)


def _limits(reader: Reader, limits: _Limits, path: str) -> Limits:
    default = Limits()
    given = {f.name: getattr(limits, f.name) for f in fields(limits) if getattr(limits, f.name) is not None}
    for key, found in given.items():
        if key == "cooldown":
            if found < default.cooldown:
                raise reader.error(
                    f"{path}.cooldown",
                    f"a policy can only tighten the default: expected at least {format_duration(default.cooldown)}",
                )
            continue
        low, most = 0 if key == "attempts" else 1, getattr(default, key)
        if not low <= found <= most:
            raise reader.error(f"{path}.{key}", f"expected an integer from {low} to {most}, got {found}")
    return Limits(**given)


def _steps(reader: Reader, listed: Sequence[object], path: str, actions: Mapping[str, ActionSpec]) -> tuple[Step, ...]:
    steps: list[Step] = []
    counts: dict[str, int] = {}
    for index, entry in enumerate(listed):
        where = f"{path}[{index}]"
        name, raw = _named(reader, entry, where)
        if name not in actions:
            raise reader.error(where, f"unknown action {name[:80]!r}", f"known: {', '.join(sorted(actions))}")
        counts[name] = counts.get(name, 0) + 1
        step = _step(reader, actions[name], raw, f"{where}.{name}", counts[name])
        if steps and step.spec.phase.rank < steps[-1].spec.phase.rank:
            raise reader.error(
                where, f"{name} cannot come after {steps[-1].action}", "order: contain, drain, recover, verify, restore"
            )
        if counts[name] > 1 and step.spec.phase is not Phase.CURE:
            raise reader.error(where, f"{name} may appear only once")
        steps.append(step)
    _complete(reader, steps, path)
    return tuple(steps)


def _complete(reader: Reader, steps: Sequence[Step], path: str) -> None:
    phases = {s.spec.phase for s in steps}
    emptying = next((s for s in steps if s.spec.empties is not Empties.NONE), None)
    if emptying is not None and Phase.EMPTY not in phases:
        raise reader.error(path, f"{emptying.action} requires a drain step before it")
    if Phase.RETURN in phases and Phase.PROVE not in phases:
        raise reader.error(
            path, "restore requires a verify step before it", "a node returns to service only after verification"
        )
    if not steps[0].spec.marks:
        raise reader.error(f"{path}[0]", "the first step must contain the node", "use taint or cordon")


def _named(reader: Reader, entry: object, where: str) -> tuple[str, object]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, raw),) = entry.items()
        return str(name), {} if raw is None else raw
    raise reader.error(where, "expected an action name, or a mapping of one action to its parameters")


def _step(reader: Reader, spec: ActionSpec, raw: object, path: str, number: int) -> Step:
    deadline, given = spec.deadline, raw
    if isinstance(raw, dict) and "deadline" in raw:
        deadline = reader.structure(raw["deadline"], timedelta, f"{path}.deadline")
        given = {key: value for key, value in raw.items() if key != "deadline"}
    params: object = reader.structure(given, spec.params, path)
    return Step(key=spec.name if number == 1 else f"{spec.name}-{number}", spec=spec, params=params, deadline=deadline)
