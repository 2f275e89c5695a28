"""The strict reader that makes policies from plain data.

A policy may only tighten what the guards demand by themselves; the reader refuses looser values, unknown keys, and
steps in an order that could not work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import timedelta
from typing import Any, get_type_hints

from gpuheal_responder.core.duration import format_duration, parse_duration
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Limits, Policy, Requirement
from gpuheal_responder.core.step import ActionSpec, Empties, Step
from gpuheal_responder.errors import ConfigError


class _Reader:
    """Reads a tree of plain data; every error names the file and the path inside it."""

    def __init__(self, file: str) -> None:
        self.file = file

    def error(self, path: str, problem: str, hint: str = "") -> ConfigError:
        return ConfigError(self.file, path, problem, hint)

    def mapping(self, value: object, path: str, known: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.error(path, f"expected a mapping, got {type(value).__name__}")
        for key in value:
            if key not in known:
                raise self.error(f"{path}.{key}" if path else str(key), "unknown key", f"known: {', '.join(known)}")
        return value

    def items(self, value: object, path: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self.error(path, "expected a list with at least one entry")
        return value

    def text(self, value: object, path: str) -> str:
        if not isinstance(value, str) or not value:
            raise self.error(path, f"expected a text, got {value!r}")
        return value

    def duration(self, value: object, path: str) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as problem:
            raise self.error(path, str(problem)) from None

    def whole(self, value: object, path: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(path, f"expected a whole number from {low} to {high}, got {value!r}")
        return value


def parse_policies(
    raw: object, *, file: str, actions: Mapping[str, ActionSpec], faults: frozenset[str]
) -> tuple[Policy, ...]:
    """Return the policies that `raw` (a parsed YAML document) describes.

    `faults` is the set of known fault slugs. Raises ConfigError naming `file` and the path of the first mistake.
    """
    reader = _Reader(file)
    top = reader.mapping(raw, "", ("policies",))
    if "policies" not in top:
        raise reader.error("policies", "missing")
    found: dict[str, Policy] = {}
    for index, entry in enumerate(reader.items(top["policies"], "policies")):
        policy = _policy(reader, entry, f"policies[{index}]", actions, faults)
        if policy.name in found:
            raise reader.error(f"policies[{index}].name", f"{policy.name!r} is used twice")
        found[policy.name] = policy
    return tuple(found.values())


def _policy(
    reader: _Reader, entry: object, path: str, actions: Mapping[str, ActionSpec], faults: frozenset[str]
) -> Policy:
    raw = reader.mapping(entry, path, ("name", "mode", "match", "limits", "steps"))
    for key in ("name", "match", "steps"):
        if key not in raw:
            raise reader.error(f"{path}.{key}", "missing")
    name = reader.text(raw["name"], f"{path}.name")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise reader.error(f"{path}.name", f"{name!r} is not a lower-case DNS label")
    mode = raw.get("mode", Mode.OBSERVE.value)
    if mode not in list(Mode):
        raise reader.error(f"{path}.mode", f"unknown mode {mode!r}", "known: observe, propose, enforce")
    slugs, nodes = _match(reader, raw["match"], f"{path}.match", faults)
    return Policy(
        name=name,
        mode=Mode(mode),
        faults=slugs,
        nodes=nodes,
        steps=_steps(reader, raw["steps"], f"{path}.steps", actions),
        limits=_limits(reader, raw.get("limits", {}), f"{path}.limits"),
    )


def _match(
    reader: _Reader, value: object, path: str, faults: frozenset[str]
) -> tuple[tuple[str, ...], tuple[Requirement, ...]]:
    raw = reader.mapping(value, path, ("faults", "nodes"))
    slugs = []
    for index, slug in enumerate(reader.items(raw.get("faults"), f"{path}.faults")):
        if slug not in faults:
            raise reader.error(f"{path}.faults[{index}]", f"unknown fault {slug!r}")
        slugs.append(str(slug))
    selector = reader.mapping(raw.get("nodes", {}), f"{path}.nodes", ("matchLabels", "matchExpressions"))
    labels = selector.get("matchLabels", {})
    if not isinstance(labels, dict):
        raise reader.error(f"{path}.nodes.matchLabels", "expected a mapping")
    found = [
        Requirement(key=str(key), operator="In", values=(reader.text(wanted, f"{path}.nodes.matchLabels[{key}]"),))
        for key, wanted in labels.items()
    ]
    expressions = selector.get("matchExpressions", [])
    if not isinstance(expressions, list):
        raise reader.error(f"{path}.nodes.matchExpressions", "expected a list")
    for index, expression in enumerate(expressions):
        found.append(_requirement(reader, expression, f"{path}.nodes.matchExpressions[{index}]"))
    return tuple(slugs), tuple(found)


def _requirement(reader: _Reader, value: object, path: str) -> Requirement:
    raw = reader.mapping(value, path, ("key", "operator", "values"))
    key = reader.text(raw.get("key"), f"{path}.key")
    operator = raw.get("operator")
    if operator not in {"In", "NotIn", "Exists", "DoesNotExist"}:
        raise reader.error(f"{path}.operator", f"unknown operator {operator!r}", "In, NotIn, Exists, DoesNotExist")
    values: tuple[str, ...] = ()
    if operator in {"In", "NotIn"}:
        listed = reader.items(raw.get("values"), f"{path}.values")
        values = tuple(reader.text(v, f"{path}.values[{i}]") for i, v in enumerate(listed))
    elif raw.get("values"):
        raise reader.error(f"{path}.values", f"must be absent with operator {operator}")
    return Requirement(key=key, operator=str(operator), values=values)


def _limits(reader: _Reader, value: object, path: str) -> Limits:
    default = Limits()
    names = ("pool_percent", "rack_percent", "zone_percent", "mark_percent", "attempts", "cooldown")
    raw = reader.mapping(value, path, names)
    given: dict[str, Any] = {}
    for key, found in raw.items():
        if key == "cooldown":
            span = reader.duration(found, f"{path}.cooldown")
            if span < default.cooldown:
                raise reader.error(
                    f"{path}.cooldown", f"a policy may only tighten: at least {format_duration(default.cooldown)}"
                )
            given[key] = span
        else:
            most = getattr(default, key)
            given[key] = reader.whole(found, f"{path}.{key}", 0 if key == "attempts" else 1, most)
    return Limits(**given)


def _steps(reader: _Reader, value: object, path: str, actions: Mapping[str, ActionSpec]) -> tuple[Step, ...]:
    steps: list[Step] = []
    counts: dict[str, int] = {}
    for index, entry in enumerate(reader.items(value, path)):
        where = f"{path}[{index}]"
        name, raw = _named(reader, entry, where)
        if name not in actions:
            raise reader.error(where, f"unknown action {name!r}", f"known: {', '.join(sorted(actions))}")
        counts[name] = counts.get(name, 0) + 1
        step = _step(reader, actions[name], raw, f"{where}.{name}", counts[name])
        if steps and step.spec.phase.rank < steps[-1].spec.phase.rank:
            raise reader.error(
                where, f"{name} cannot come after {steps[-1].action}", "order: contain, empty, cure, prove"
            )
        if counts[name] > 1 and step.spec.phase is not Phase.CURE:
            raise reader.error(where, f"{name} may stand only once")
        steps.append(step)
    _complete(reader, steps, path)
    return tuple(steps)


def _complete(reader: _Reader, steps: Sequence[Step], path: str) -> None:
    phases = {s.spec.phase for s in steps}
    emptying = next((s for s in steps if s.spec.empties is not Empties.NONE), None)
    if emptying is not None and Phase.EMPTY not in phases:
        raise reader.error(path, f"{emptying.action} needs drain before it")
    if Phase.RETURN in phases and Phase.PROVE not in phases:
        raise reader.error(path, "restore needs verify before it", "a node is given back only on proof")
    if not steps[0].spec.marks:
        raise reader.error(f"{path}[0]", "the first step must mark the node", "taint or cordon")


def _named(reader: _Reader, entry: object, where: str) -> tuple[str, object]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, raw),) = entry.items()
        return str(name), {} if raw is None else raw
    raise reader.error(where, "expected an action name, or a mapping with one action and its parameters")


def _step(reader: _Reader, spec: ActionSpec, raw: object, path: str, number: int) -> Step:
    known = {f.name: f for f in fields(spec.params)}
    given = reader.mapping(raw, path, ("deadline", *known))
    types = get_type_hints(spec.params)
    values: dict[str, Any] = {}
    for key, found in given.items():
        if key != "deadline":
            values[key] = _value(reader, found, types[key], f"{path}.{key}")
    for key, info in known.items():
        if key not in values and info.default is MISSING:
            raise reader.error(f"{path}.{key}", "missing")
    deadline = reader.duration(given["deadline"], f"{path}.deadline") if "deadline" in given else spec.deadline
    try:
        params = spec.params(**values)
    except ValueError as problem:
        raise reader.error(path, str(problem)) from None
    return Step(key=spec.name if number == 1 else f"{spec.name}-{number}", spec=spec, params=params, deadline=deadline)


def _value(reader: _Reader, found: object, kind: object, path: str) -> object:
    if kind is timedelta:
        return reader.duration(found, path)
    if kind is bool:
        if not isinstance(found, bool):
            raise reader.error(path, f"expected true or false, got {found!r}")
        return found
    if kind is int:
        return reader.whole(found, path, 0, 1_000_000)
    if kind is str:
        return reader.text(found, path)
    listed = reader.items(found, path)
    return tuple(reader.text(v, f"{path}[{i}]") for i, v in enumerate(listed))
