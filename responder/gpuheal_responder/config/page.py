"""The page of all settings, made from the texts under their fields: `python -m gpuheal_responder.config.page`."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gpuheal_responder.config import settings
from gpuheal_responder.config.reader import SECTIONS
from gpuheal_responder.core.duration import format_duration

HEAD = """\
# Settings of the responder

Generated from `gpuheal_responder/config/settings.py` by `python -m gpuheal_responder.config.page`; edit it there.
The file is YAML and parsed strictly: an unknown key, a missing key or a wrong type is an error that names its path.
`[]` stands for each entry of a list. Durations are strings such as `90s`, `20m` or `1h30m`.
Relative file names are resolved against the settings file's folder.

| key | default | meaning |
|---|---|---|
"""


def page() -> str:
    """Return the page, one row per setting; raise KeyError for a field without a text under it."""
    return HEAD + "".join(f"| `{key}` | {default} | {text} |\n" for key, default, text in _rows(settings.Settings, ""))


def _rows(kind: type, prefix: str) -> Iterator[tuple[str, str, str]]:
    hints = get_type_hints(kind)
    texts = _texts(kind)
    for info in fields(kind):
        inner = next((k for k in (hints[info.name], *get_args(hints[info.name])) if is_dataclass(k)), None)
        if SECTIONS in info.metadata:
            for name, section in info.metadata[SECTIONS].items():
                yield f"{prefix}{name}", "", (section.__doc__ or "").strip()
                yield from _rows(section, f"{prefix}{name}.")
            continue
        key = prefix + info.name
        yield key, _default(info), texts[info.name]
        if isinstance(inner, type):
            many = "[]" if get_args(hints[info.name])[-1:] == (...,) else ""
            yield from _rows(inner, f"{key}{many}.")


def _texts(kind: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (body,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(body, ast.ClassDef)
        for before, after in zip(body.body, body.body[1:], strict=False):
            named = isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[before.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return found


def _default(info: Field[Any]) -> str:
    value = info.default
    if info.default_factory is not MISSING or is_dataclass(value):
        return ""
    if value is MISSING:
        return "required"
    return _shown(value)


def _shown(value: object) -> str:
    match value:
        case None | "" | ():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            return f"`{format_duration(value)}`"
        case Enum() | Path() | str() | int():
            return f"`{value}`"
        case tuple():
            return ", ".join(_shown(entry) for entry in value)
    raise TypeError(f"no text for {value!r}")


if __name__ == "__main__":
    sys.stdout.write(page())
