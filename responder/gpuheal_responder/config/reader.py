"""A YAML file read strictly into dataclasses: unknown keys, missing keys and wrong types are refused by name."""

from __future__ import annotations

import difflib
import types
from dataclasses import MISSING, fields, is_dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from gpuheal_responder.core.duration import parse_duration
from gpuheal_responder.errors import ConfigError

LARGEST_FILE = 4 * 1024 * 1024
SECTIONS = "sections"
"""Metadata of a field that gathers parts of its dataclass: kinds by the key that each has in the file."""

T = TypeVar("T")


def load_yaml(path: Path) -> object:
    """Return the parsed YAML document of a file; raise ConfigError when it can't be read or is not YAML."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(str(path), "", f"larger than {LARGEST_FILE} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ConfigError(str(path), "", f"cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError as problem:
        raise ConfigError(str(path), "", f"not UTF-8 (byte {problem.start})") from None
    try:
        document: object = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(str(path), where, f"not YAML: {getattr(problem, 'problem', problem)}") from None
    except RecursionError:
        raise ConfigError(str(path), "", "nested too deeply") from None
    return document


class _Loader(yaml.SafeLoader):
    """Plain YAML, but a key given twice is a mistake, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path, kind: type[T]) -> T:
    """Return the file as a `kind`; raise ConfigError naming the file and the path of the first mistake.

    A `Path` in the file is taken relative to the file's folder.
    """
    raw = load_yaml(path)
    return _Reader(str(path), path.parent).dataclass({} if raw is None else raw, kind, "")


class _Reader:
    def __init__(self, file: str, folder: Path) -> None:
        self._file = file
        self._folder = folder

    def _error(self, path: str, problem: str, hint: str = "") -> ConfigError:
        return ConfigError(self._file, path, problem, hint)

    def dataclass(self, raw: object, kind: type[T], path: str) -> T:
        if not isinstance(raw, dict):
            raise self._error(path, f"expected a mapping, got {_called(raw)}")
        known = {f.name: f for f in fields(kind) if SECTIONS not in f.metadata}  # type: ignore[arg-type]
        gathered = {f.name: f.metadata[SECTIONS] for f in fields(kind) if SECTIONS in f.metadata}  # type: ignore[arg-type]
        sections = {key: inner for parts in gathered.values() for key, inner in parts.items()}
        for key in raw:
            if key not in known and key not in sections:
                close = difflib.get_close_matches(str(key), [*known, *sections], 1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join([*known, *sections])}"
                raise self._error(_join(path, str(key)), "unknown key", hint)
        hints = get_type_hints(kind)
        given = {k: self._value(value, hints[k], _join(path, k)) for k, value in raw.items() if k in known}
        for name, parts in gathered.items():
            given[name] = {k: self.dataclass(raw.get(k, {}), inner, _join(path, k)) for k, inner in parts.items()}
        for name, info in known.items():
            if name not in given and info.default is MISSING and info.default_factory is MISSING:
                raise self._error(_join(path, name), "missing")
        try:
            return kind(**given)
        except ValueError as problem:
            raise self._error(path, str(problem)) from None

    def _value(self, raw: object, kind: Any, path: str) -> object:
        origin = get_origin(kind)
        if origin in {Union, types.UnionType}:
            (kind,) = (k for k in get_args(kind) if k is not type(None))
            return self._value(raw, kind, path)
        if origin is tuple:
            if not isinstance(raw, list) or not raw:
                raise self._error(path, f"expected a list with at least one entry, got {_called(raw)}")
            return tuple(self._value(entry, get_args(kind)[0], f"{path}[{index}]") for index, entry in enumerate(raw))
        if is_dataclass(kind):
            assert isinstance(kind, type)
            return self.dataclass(raw, kind, path)
        return self._scalar(raw, kind, path)

    def _scalar(self, raw: object, kind: type, path: str) -> object:
        if kind is timedelta:
            try:
                return parse_duration(raw)
            except (ValueError, OverflowError) as problem:
                raise self._error(path, str(problem)) from None
        if kind is Path:
            return self._folder / self._text(raw, path)
        if issubclass(kind, StrEnum):
            if raw not in list(kind):
                raise self._error(path, f"unknown value {raw!r}", f"known: {', '.join(kind)}")
            return kind(str(raw))
        if kind is str:
            return self._text(raw, path)
        if isinstance(raw, bool) is not (kind is bool) or not isinstance(raw, kind):
            wanted = "true or false" if kind is bool else "a whole number"
            raise self._error(path, f"expected {wanted}, got {_called(raw)}")
        return raw

    def _text(self, raw: object, path: str) -> str:
        if not isinstance(raw, str) or not raw:
            raise self._error(path, f"expected a text, got {_called(raw)}")
        return raw


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _called(raw: object) -> str:
    return "nothing" if raw is None or raw in ("", [], {}) else repr(raw)[:80]
