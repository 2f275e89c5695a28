"""Plain data that another version of us may have written: read without losing the whole for a part, written back whole.

People's files are read strictly (see shell.record). What we stored ourselves may come from a newer version, during a
rolling update or after a rollback: unknown keys are passed over, and a part that cannot be read (an unknown word, an
element without what we need) is left out and named. `merged` puts all of that back where it was when we write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from gpuheal_responder.config.mistake import called
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.record import camel, dump_plain, load_plain

T = TypeVar("T")
MOST_NAMED = 16
"""Parts named at most; a value with more of them is just as suspect."""
LONGEST_PROBLEM = 200


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """What could be read, and the parts that could not (`attempts[3].state: expected one of …`)."""

    value: T
    unread: tuple[str, ...] = ()


class _Unusable(Exception):
    """A part cannot be read, and what holds it has no default for it."""


def read(data: object, kind: type[T], file: str) -> Read[T]:
    """Return the value and what was left out of it; ConfigError when a required field of it cannot be read."""
    try:
        return Read(load_plain(data, kind, file))
    except ConfigError:
        pass
    unread: list[str] = []
    try:
        clean = _clean(data, kind, "", unread)
    except _Unusable as problem:
        raise ConfigError(file, "", str(problem)) from None
    if len(unread) > MOST_NAMED:
        unread[MOST_NAMED:] = [f"and {len(unread) - MOST_NAMED} more"]
    return Read(load_plain(clean, kind, file), tuple(unread))


def merged(raw: Mapping[str, Any], data: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return `data`, the dump of a `kind`, with all that `raw` holds beside it and this version does not know.

    Elements of lists are recognised by their operation, or else by their required fields.
    """
    hints = get_type_hints(kind)
    known = {camel(f.name): hints[f.name] for f in fields(kind)}
    found = {key: value for key, value in raw.items() if key not in known}
    for key, hint in known.items():
        if key in data:
            found[key] = _merged(raw[key], data[key], hint) if key in raw else data[key]
        elif key in raw and not _usable(raw[key], hint):
            found[key] = raw[key]
    return found


def _merged(raw: Any, data: Any, hint: Any) -> Any:
    kind = _inner(hint)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(raw, dict):
        return merged(raw, data, kind)
    if get_origin(kind) is tuple and isinstance(raw, list):
        return _merged_list(raw, data, get_args(kind)[0])
    return data


def _merged_list(raw: Sequence[Any], data: Sequence[Any], kind: Any) -> list[Any]:
    whole = is_dataclass(kind) and isinstance(kind, type)
    known: dict[str, Mapping[str, Any]] = {}
    strange: list[tuple[int, Any]] = []
    for index, element in enumerate(raw):
        if not _usable(element, kind):
            strange.append((index, element))
        elif whole:
            known[_identity(dump_plain(read(element, kind, "element").value), kind)] = element
    if not whole:
        found = list(data)
    else:
        found = [merged(known.get(_identity(element, kind), {}), element, kind) for element in data]
    for index, element in strange:
        found.insert(min(index, len(found)), element)
    return found


def _identity(dumped: Mapping[str, Any], kind: type) -> str:
    names = [f.name for f in fields(kind)]
    if "operation" not in names:
        hints = get_type_hints(kind)
        names = [f.name for f in fields(kind) if _required(f) and not _is_enum(hints[f.name])]
    else:
        names = ["operation"]
    return json.dumps([dumped.get(camel(name)) for name in names], sort_keys=True)


def _clean(value: Any, hint: Any, path: str, unread: list[str]) -> Any:
    """Return the value without what cannot be read; _Unusable when nothing useful is left."""
    kind = _inner(hint)
    if value is None and kind is not hint:
        return None
    if is_dataclass(kind) and isinstance(kind, type):
        return _clean_dataclass(value, kind, path, unread)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise _Unusable(f"{path}: expected a list, got {_short(value)}")
        return _clean_list(value, get_args(kind)[0], path, unread)
    try:
        load_plain(value, kind, "")
    except ConfigError as problem:
        raise _Unusable(f"{path}: {problem.problem}"[:LONGEST_PROBLEM]) from None
    return value


def _clean_dataclass(value: Any, kind: type, path: str, unread: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unusable(f"{path}: expected a mapping, got {_short(value)}")
    hints, found = get_type_hints(kind), {}
    for info in fields(kind):
        key = camel(info.name)
        below = f"{path}.{key}" if path else key
        if key not in value:
            if _required(info) and _inner(hints[info.name]) is hints[info.name]:
                raise _Unusable(f"{below}: missing")
            continue
        try:
            found[key] = _clean(value[key], hints[info.name], below, unread)
        except _Unusable as problem:
            if _required(info):
                raise
            unread.append(str(problem))
    return found


def _clean_list(value: Sequence[Any], kind: Any, path: str, unread: list[str]) -> list[Any]:
    found = []
    for index, element in enumerate(value):
        try:
            found.append(_clean(element, kind, f"{path}[{index}]", unread))
        except _Unusable as problem:
            unread.append(str(problem))
    return found


def _usable(value: Any, hint: Any) -> bool:
    try:
        _clean(value, hint, "", [])
    except _Unusable:
        return False
    return True


def _inner(hint: Any) -> Any:
    """Return the type inside an optional one."""
    if get_origin(hint) is UnionType:
        kinds = [k for k in get_args(hint) if k is not NoneType]
        return kinds[0] if len(kinds) == 1 else hint
    return hint


def _required(info: Any) -> bool:
    return info.default is MISSING and info.default_factory is MISSING


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _short(value: object) -> str:
    return called(value)[:40]
