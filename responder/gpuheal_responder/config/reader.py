"""A YAML file read strictly into dataclasses: unknown keys, missing keys and wrong types are refused by name."""

from __future__ import annotations

import stat
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar, Union, get_args, get_origin

import cattrs
import yaml
from cattrs.gen import make_dict_structure_fn, override

from gpuheal_responder.config.mistake import Mistake, called, first
from gpuheal_responder.core.duration import parse_duration
from gpuheal_responder.errors import ConfigError

LARGEST_FILE = 4 * 1024 * 1024
SECTIONS = "sections"
"""Metadata of a field that gathers parts of its dataclass: kinds by the key that each has in the file."""
LARGEST_NUMBER = 1_000_000_000
T = TypeVar("T")


LONGEST = timedelta(days=3650)
"""Ten years are as good as never, and any date that is near today plus so much can still be told."""


def _span(raw: object) -> timedelta:
    span = parse_duration(raw)
    if span > LONGEST:
        raise ValueError(f"expected a duration of at most {LONGEST.days} days, got {raw!r}")
    return span


def load_yaml(path: Path) -> object:
    """Return the parsed YAML document of a file; raise ConfigError when it can't be read or is not YAML."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(str(path), "", "no such file")
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(str(path), "", f"larger than the limit of {LARGEST_FILE} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ConfigError(str(path), "", f"cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise ConfigError(str(path), "", f"not valid UTF-8 (byte {problem.start})") from None
    try:
        document: object = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(str(path), where, f"not YAML: {getattr(problem, 'problem', problem)}") from None
    except RecursionError:
        raise ConfigError(str(path), "", "nested too deeply") from None
    except (ValueError, ArithmeticError, TypeError, LookupError, AttributeError) as problem:  # dates, numbers, tags
        raise ConfigError(str(path), "", f"not YAML: {problem}") from None
    return document


class _Loader(yaml.SafeLoader):
    """Plain YAML, but a key given twice is a mistake, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path, kind: type[T]) -> T:
    """Return the file as a `kind`; raise ConfigError naming the file and the path of the first mistake.

    A `Path` in the file is taken relative to the file's folder.
    """
    raw = load_yaml(path)
    return Reader(str(path), path.parent).structure({} if raw is None else raw, kind, "")


class Reader:
    """Makes values of plain data, strictly; a mistake is a ConfigError that names the file and the path inside it."""

    def __init__(self, file: str, folder: Path = Path()) -> None:
        self.file = file
        self._converter = _converter(folder)

    def error(self, path: str, problem: str, hint: str = "") -> ConfigError:
        """Return the error that says so."""
        return ConfigError(self.file, path, problem, hint)

    def structure(self, raw: object, kind: type[T], path: str) -> T:
        """Return `raw`, which stands at `path`, as a `kind`; ConfigError for the first mistake."""
        try:
            return self._converter.structure(raw, kind)
        except Exception as problem:
            where, said, hint = first(problem, path, _keys)
            if said is None:
                raise
            raise self.error(where, said, hint) from None


def _converter(folder: Path) -> cattrs.Converter:
    made = cattrs.Converter(detailed_validation=True)
    made.register_structure_hook(str, lambda raw, _: _text(raw))
    made.register_structure_hook(bool, lambda raw, _: _exactly(raw, bool, "true or false"))
    made.register_structure_hook(int, lambda raw, _: _whole(raw))
    made.register_structure_hook(timedelta, lambda raw, _: _span(raw))
    made.register_structure_hook(Path, lambda raw, _: folder / _text(raw))
    made.register_structure_hook_func(lambda kind: kind is object, lambda raw, _: raw)
    made.register_structure_hook(StrEnum, _word)
    made.register_structure_hook_factory(_is_optional, lambda kind: _optional(made, kind))
    made.register_structure_hook_factory(_is_tuple, lambda kind: _tuple(made, kind))
    made.register_structure_hook_factory(_is_mapping, lambda _: _texts)
    made.register_structure_hook_factory(
        lambda kind: isinstance(kind, type) and is_dataclass(kind), lambda kind: _dataclass(made, kind)
    )
    return made


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is Mapping


def _optional(made: cattrs.Converter, kind: Any) -> Callable[[object, Any], object]:
    """Return a hook that demands a value: None stands for a key that is absent."""
    (inner,) = (one for one in get_args(kind) if one is not type(None))
    hook: Callable[[object, Any], object] = made.get_structure_hook(inner)
    return lambda raw, _: hook(raw, inner)


def _tuple(made: cattrs.Converter, kind: Any) -> Callable[[object, Any], object]:
    items = GenericAlias(list, get_args(kind)[:1])
    hook: Callable[[object, Any], list[object]] = made.get_structure_hook(items)

    def structure(raw: object, _: Any) -> object:
        if not isinstance(raw, list) or not raw:
            raise Mistake(f"expected a list with at least one entry, got {_called(raw)}")
        return tuple(hook(raw, items))

    return structure


def _dataclass(made: cattrs.Converter, kind: type) -> Callable[[object, Any], object]:
    gathered = _gathered(kind)
    options: dict[str, Any] = {"_cattrs_forbid_extra_keys": True, "_cattrs_detailed_validation": True}
    options |= {name: override(omit=True) for name in gathered}
    own: Callable[[Any, Any], object] = make_dict_structure_fn(kind, made, **options)
    sections = {key for parts in gathered.values() for key in parts}

    def structure(raw: object, cls: Any) -> object:
        if not isinstance(raw, dict):
            raise Mistake(f"expected a mapping, got {_called(raw)}")
        found: Any = own({key: value for key, value in raw.items() if key not in sections}, cls)
        given = {
            name: {key: _section(made, raw.get(key, {}), inner, key) for key, inner in parts.items()}
            for name, parts in gathered.items()
        }
        return replace(found, **given) if given else found

    return structure


def _section(made: cattrs.Converter, raw: object, kind: type, key: str) -> object:
    try:
        return made.structure(raw, kind)
    except (cattrs.BaseValidationError, ValueError) as problem:
        problem.add_note(cattrs.AttributeValidationNote(f"Section {key}", key, kind))
        raise cattrs.ClassValidationError(f"While structuring {key}", [problem], kind) from None


def _gathered(kind: Any) -> Mapping[str, Mapping[str, type]]:
    return {f.name: f.metadata[SECTIONS] for f in fields(kind) if SECTIONS in f.metadata}


def _keys(kind: Any) -> list[str]:
    """Return the keys that a dataclass has in a file."""
    sections = [key for parts in _gathered(kind).values() for key in parts]
    return [f.name for f in fields(kind) if SECTIONS not in f.metadata] + sections


def _texts(raw: object, _: Any) -> Mapping[str, str]:
    if not isinstance(raw, dict):
        raise Mistake(f"expected a mapping, got {_called(raw)}")
    for key, value in raw.items():
        if not isinstance(key, str) or not isinstance(value, str) or not value:
            raise Mistake(f"expected a string, got {_called(value)}", key=f"[{key}]")
    return raw


def _word(raw: object, kind: Any) -> object:
    if not isinstance(raw, str) or raw not in list(kind):
        raise Mistake(f"unknown value {_called(raw)}", f"known: {', '.join(kind)}")
    return kind(raw)


def _text(raw: object) -> str:
    if not isinstance(raw, str) or not raw:
        raise Mistake(f"expected a string, got {_called(raw)}")
    return raw


def _whole(raw: object) -> int:
    number = _exactly(raw, int, "an integer")
    if not 0 <= number <= LARGEST_NUMBER:
        raise Mistake(f"expected an integer from 0 to {LARGEST_NUMBER}, got {_called(raw)}")
    return number


def _exactly(raw: object, kind: type[T], wanted: str) -> T:
    if isinstance(raw, bool) is not (kind is bool) or not isinstance(raw, kind):
        raise Mistake(f"expected {wanted}, got {_called(raw)}")
    return raw


def _called(raw: object) -> str:
    return "nothing" if raw is None or raw in ("", [], {}) else called(raw)
