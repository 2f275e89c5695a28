"""Reads a site's own YAML files: small, plain, every key once, and without the surprises of YAML 1.1.

`yes`, `on`, `010` and `1:30` are texts here, as YAML 1.2 has it, so that nobody's words turn into flags or numbers.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from gpuheal_rules.errors import ConfigError

LARGEST_FILE = 1024 * 1024
DEEPEST = 16
_SCALARS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?(0|[1-9][0-9]{0,17})?\.[0-9]{1,18}|[-+]?[1-9][0-9]{0,17}\.", "-+0123456789."),
    ("tag:yaml.org,2002:null", r"~|null|", ["~", "n", ""]),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Knows true, false, null and decimal numbers; a key that is given twice is a mistake."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"duplicate key {key.value[:80]!r}", key.start_mark
                    )
                seen.add(key.value)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


for _tag, _form, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_form})\Z"), list(_first))


def load_document(path: Path) -> object:
    """Return the one document of a YAML file, None for an empty one; raise ConfigError for anything else."""
    name, text = str(path), _text(path)
    try:
        _plain(name, text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # safe: built on SafeLoader
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(name, where, f"not YAML: {getattr(problem, 'problem', problem)}") from None
    except (ValueError, TypeError) as problem:
        raise ConfigError(name, "", f"not YAML: {problem}") from None


def _text(path: Path) -> str:
    name = str(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(name, "", "no such file")
        if found.st_size > LARGEST_FILE:
            raise ConfigError(name, "", f"is larger than {LARGEST_FILE} bytes")
        raw = path.read_bytes()
    except OSError as problem:
        raise ConfigError(name, "", f"cannot be read: {problem.strerror}") from None
    except ValueError as problem:  # a NUL in the path
        raise ConfigError(name, "", f"cannot be read: {problem}") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:1024]:
        raise ConfigError(name, "", "is not UTF-8 but looks like UTF-16", "save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ConfigError(name, "", f"is not UTF-8 (byte {problem.start})", "save it as UTF-8") from None


def _plain(name: str, text: str) -> None:
    """Refuse what a settings file does not need: aliases, tags, a second document, depth beyond reason."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        mark = event.start_mark
        where = f"line {mark.line + 1}" if mark is not None else ""
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(name, where, f"the alias *{event.anchor} is not read here", "write the value out")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigError(name, where, "a second document begins here", "one file, one document")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ConfigError(name, where, f"the tag {tag} is not read here")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise ConfigError(name, where, "nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
