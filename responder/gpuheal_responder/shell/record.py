"""Cases, worlds and decisions as plain data, the way they stand in a Remediation, in a log line and in a YAML file.

Keys are camelCase, times ISO 8601 in UTC with Z, spans texts such as `1m30s` (seconds as a number when finer than a
millisecond), sets of words their values. What has its default value is left out. Reading is strict: unknown keys, wrong
types and missing values are a ConfigError that names the file and the path inside it. A decision record holds all that
the decision looked at, so `replay` comes to the same verdict.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import GenericAlias, NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from gpuheal_responder import __version__
from gpuheal_responder.config.mistake import called, first
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.duration import format_duration, parse_duration
from gpuheal_responder.core.history import History
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy, digest
from gpuheal_responder.core.state import state_of
from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Inspect, Verdict, Wait
from gpuheal_responder.core.world import World
from gpuheal_responder.errors import ConfigError

T = TypeVar("T")
PHASES_OF_FIRST_VERSION: Mapping[object, Phase] = {
    "taint": Phase.CONTAIN,
    "cordon": Phase.CONTAIN,
    "condition": Phase.CONTAIN,
    "drain": Phase.EMPTY,
    "reboot": Phase.CURE,
    "verify": Phase.PROVE,
    "probation": Phase.WATCH,
    "restore": Phase.RETURN,
}
"""Every action there was when attempts did not tell their phase."""
_INITIALISMS = frozenset({"id", "uid", "uuid"})
LARGEST_UNPACKED = 16 * 1024 * 1024
_MILLISECOND = timedelta(milliseconds=1)


def camel(name: str) -> str:
    """Return a field name the way Kubernetes writes it: `node_uid` is `nodeUID`, `closed_at` is `closedAt`."""
    first, *rest = name.split("_")
    return first + "".join(part.upper() if part in _INITIALISMS else part.capitalize() for part in rest)


def dump_case(case: Case) -> dict[str, Any]:
    """Return the case as plain data."""
    return dump_plain(case)


def load_case(data: object, file: str = "case") -> Case:
    """Return the case that plain data describes; ConfigError names `file` and the path of the first mistake."""
    return load_plain(data, Case, file)


def upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a case of the first version in today's form: its attempts did not say their phase, only their action."""
    if not isinstance(data.get("attempts"), list):
        return dict(data)
    return {**data, "attempts": [_attempt_upgraded(a) for a in data["attempts"]]}


def _attempt_upgraded(attempt: object) -> object:
    if not isinstance(attempt, dict) or "phase" in attempt:
        return attempt
    phase = PHASES_OF_FIRST_VERSION.get(attempt.get("action"))
    return attempt if phase is None else {**attempt, "phase": phase.value}


def dump_history(history: History) -> dict[str, Any]:
    """Return a machine's history as plain data."""
    return dump_plain(history)


def load_history(data: object, file: str = "history") -> History:
    """Return the history that plain data describes; ConfigError names `file` and the path of the first mistake."""
    return load_plain(data, History, file)


def dump_world(world: World) -> dict[str, Any]:
    """Return the world as plain data."""
    return dump_plain(world)


def load_world(data: object, file: str = "world") -> World:
    """Return the world that plain data describes; ConfigError names `file` and the path of the first mistake."""
    return load_plain(data, World, file)


def dump_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as plain data; steps are named by their key."""
    match verdict:
        case Act():
            return {"verdict": "act", "step": verdict.due.key, "reason": str(verdict.reason)}
        case Inspect():
            needs = sorted(verdict.needs)
            return {"verdict": "inspect", "step": verdict.due.key, "reason": str(verdict.reason), "needs": needs}
        case Wait():
            found = {
                "verdict": "wait",
                "step": verdict.due.key,
                "reason": str(verdict.reason),
                "message": verdict.message,
            }
            return {**_present(found), "until": dump_time(verdict.until)}
        case Hold():
            refusals = [dump_plain(r) for r in verdict.refusals]
            found = {"verdict": "hold", "step": verdict.due.key if verdict.due is not None else ""}
            return {**_present(found), "reason": str(verdict.reason), "refusals": refusals}
        case Escalate():
            return _present({"verdict": "escalate", "reason": str(verdict.reason), "message": verdict.message})
        case Done():
            found = {"verdict": "done", "reason": str(verdict.reason), "message": verdict.message}
            return {**_present(found), "result": verdict.result.value}


def decision(at: datetime, verdict: Verdict, world: World, case: Case, policy: Policy | None) -> dict[str, Any]:
    """Return the record of one decision: when, what, and everything it looked at except the policy, which it names.

    The policy's digest and our version tell a later reader whether they would decide by the same rules.
    """
    return {
        "at": dump_time(at),
        "version": __version__,
        "policy": case.policy,
        "policyDigest": digest(policy) if policy is not None else "",
        "state": state_of(case, verdict).value,
        "verdict": dump_verdict(verdict),
        "case": dump_case(case),
        "world": dump_world(_lean(world)),
    }


def _lean(world: World) -> World:
    """Return the world without what no decision reads: the labels of pods, most of a busy node's record."""
    return world if not world.pods else replace(world, pods=tuple(replace(p, labels={}) for p in world.pods))


def packed(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Return a decision record whose case and world are one compressed text: for those too large to be kept plain."""
    looked_at = json.dumps({key: decision[key] for key in ("case", "world")}, separators=(",", ":"))
    kept = {key: value for key, value in decision.items() if key not in ("case", "world")}
    return {**kept, "packed": base64.b85encode(zlib.compress(looked_at.encode(), 9)).decode()}


def unpacked(record: Mapping[str, Any], file: str) -> Mapping[str, Any]:
    """Return the record with its case and world as plain data; ConfigError for a text that holds none."""
    if "packed" not in record:
        return record
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(base64.b85decode(str(record["packed"])), LARGEST_UNPACKED)
        looked_at = json.loads(text)
        return {**record, "case": looked_at["case"], "world": looked_at["world"]}
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as problem:
        raise ConfigError(file, "packed", f"not a valid case and world: {problem}") from None


def replay(record: Mapping[str, Any], policy: Policy | None, file: str = "decision") -> Verdict:
    """Return the verdict that the recorded case and world lead to under `policy`.

    ConfigError when the record does not hold what the decision looked at.
    """
    record = unpacked(record, file)
    for key in ("case", "world"):
        if key not in record:
            raise ConfigError(file, key, "missing", str(record.get("omitted", "")))
    return decide(load_case(record["case"], f"{file}: case"), policy, load_world(record["world"], f"{file}: world"))


def dump_time(at: datetime) -> str:
    """Return ISO 8601 in UTC with Z; ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"{at} has no time zone")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def load_time(value: object) -> datetime:
    """Return the time in UTC that a text (or YAML's own timestamp) means; ValueError for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"expected a time such as 2026-01-31T12:00:00Z, got {called(value)}") from None
    if not isinstance(value, datetime):
        raise ValueError(f"expected a time such as 2026-01-31T12:00:00Z, got {called(value)}")
    if value.tzinfo is None:
        raise ValueError(f"expected a time with a time zone, got {value.isoformat()}")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{value.isoformat()} is out of range") from None


def dump_plain(value: object) -> dict[str, Any]:
    """Return any of the core's dataclasses as plain data."""
    plain: dict[str, Any] = _CONVERTER.unstructure(value)
    return plain


def load_plain(data: object, kind: type[T], file: str) -> T:
    """Return the value that plain data describes; ConfigError names `file` and the path of the first mistake."""
    try:
        return _CONVERTER.structure(data, kind)
    except (cattrs.BaseValidationError, ValueError) as problem:
        where, said, hint = first(problem, "", _keys, camel)
        raise ConfigError(file, where, said or str(problem), hint) from problem


def _keys(kind: Any) -> list[str]:
    return [camel(f.name) for f in fields(kind)]


def _present(found: Mapping[str, str]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if value != ""}


def _exactly(kind: type[T], name: str) -> Callable[[object, type], T]:
    def read(value: object, _: type) -> T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"expected {name}, got {called(value)}")
        return value

    return read


def _dump_span(span: timedelta) -> str | float:
    return format_duration(span) if span >= timedelta(0) and not span % _MILLISECOND else span.total_seconds()


def _load_span(value: object, _: type) -> timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    return parse_duration(value)


def _optional(kind: object) -> bool:
    return _origin(kind) is UnionType and NoneType in get_args(kind)


def _names(kind: Any) -> dict[str, Any]:
    return {f.name: override(rename=camel(f.name)) for f in fields(kind)}


def _origin(kind: object) -> object:
    return get_origin(kind)


def _structure_dataclass(kind: type) -> Callable[[object, type], Any]:
    hints = get_type_hints(kind)
    absent = {camel(f.name): None for f in fields(kind) if _optional(hints[f.name])}
    options: dict[str, Any] = {"_cattrs_forbid_extra_keys": True, "_cattrs_detailed_validation": True}
    read: Callable[[Mapping[str, Any], type], Any] = make_dict_structure_fn(kind, _CONVERTER, **options, **_names(kind))

    def structure(value: object, cls: type) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping, got {called(value)}")
        return read({**absent, **value}, cls)

    return structure


def _unstructure_dataclass(kind: type) -> Callable[[Any], dict[str, Any]]:
    options: dict[str, Any] = {"_cattrs_omit_if_default": True}
    write: Callable[[Any], dict[str, Any]] = make_dict_unstructure_fn(kind, _CONVERTER, **options, **_names(kind))
    return lambda value: {key: item for key, item in write(value).items() if item is not None}


def _structure_tuple(kind: Any) -> Callable[[object, type], tuple[Any, ...]]:
    items = GenericAlias(list, get_args(kind)[:1])
    read = _CONVERTER.get_structure_hook(items)

    def structure(value: object, _: type) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list, got {called(value)}")
        return tuple(read(value, items))

    return structure


def _unstructure_tuple(kind: Any) -> Callable[[tuple[Any, ...]], list[Any]]:
    write = _CONVERTER.get_unstructure_hook(get_args(kind)[0])
    return lambda value: [write(item) for item in value]


def _structure_enum(value: object, kind: Any) -> Any:
    known = [word.value for word in kind]
    if value not in known:
        raise ValueError(f"expected one of {', '.join(known)}, got {called(value)}")
    return kind(value)


def _structure_mapping(kind: Any) -> Callable[[object, type], dict[str, Any]]:
    items = get_args(kind)[1]
    read = _CONVERTER.get_structure_hook(items)

    def structure(value: object, _: type) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping, got {called(value)}")
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"expected a string as key, got {called(key)}")
        return {key: read(item, items) for key, item in value.items()}

    return structure


def _structure_set(kind: Any) -> Callable[[object, type], frozenset[Any]]:
    items = get_args(kind)[0]
    read = _CONVERTER.get_structure_hook(items)

    def structure(value: object, _: type) -> frozenset[Any]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list, got {called(value)}")
        return frozenset(read(item, items) for item in value)

    return structure


def _converter() -> cattrs.Converter:
    made = cattrs.Converter(detailed_validation=True)
    made.register_unstructure_hook(str, str)  # a slug of an enumeration is stored as the plain text that it is
    made.register_unstructure_hook(datetime, dump_time)
    made.register_structure_hook(datetime, lambda value, _: load_time(value))
    made.register_unstructure_hook(timedelta, _dump_span)
    made.register_structure_hook(timedelta, _load_span)
    made.register_structure_hook(str, _exactly(str, "a string"))
    made.register_structure_hook(int, _exactly(int, "an integer"))
    made.register_structure_hook(bool, _exactly(bool, "true or false"))
    made.register_unstructure_hook(StrEnum, lambda word: word.value)
    made.register_structure_hook(StrEnum, _structure_enum)
    made.register_unstructure_hook_factory(lambda t: _origin(t) is tuple, _unstructure_tuple)
    made.register_structure_hook_factory(lambda t: _origin(t) is tuple, _structure_tuple)
    made.register_structure_hook_factory(lambda t: _origin(t) is Mapping, _structure_mapping)
    made.register_unstructure_hook_factory(lambda t: _origin(t) is frozenset, lambda _: sorted)
    made.register_structure_hook_factory(lambda t: _origin(t) is frozenset, _structure_set)
    made.register_unstructure_hook_factory(lambda t: isinstance(t, type) and is_dataclass(t), _unstructure_dataclass)
    made.register_structure_hook_factory(lambda t: isinstance(t, type) and is_dataclass(t), _structure_dataclass)
    return made


_CONVERTER = _converter()
