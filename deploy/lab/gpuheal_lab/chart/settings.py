"""The schema of `responder.settings`, made from the dataclasses of settings: helm refuses what the responder would."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from gpuheal_responder.config.page import page
from gpuheal_responder.config.reader import SECTIONS
from gpuheal_responder.config.settings import Settings

Json = dict[str, Any]

ROW = re.compile(r"\| `([^`]+)` \| .*? \| (.*) \|")
PLAIN: Mapping[type, Json] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
    timedelta: {"type": "string", "pattern": "^([0-9]+(ms|min|day|s|m|h|d))+$"},
}


OF_THE_CHART = ("namespace", "policies")
"""What follows from other values; set to something else, roles and mounts would not fit."""


def schema() -> Json:
    """Return the schema; the chart itself sets what is required at the top."""
    texts = dict(ROW.findall(page()))
    found = _object(Settings, "", texts)
    del found["required"]
    for name in OF_THE_CHART:
        del found["properties"][name]
    about = "Settings of the responder (responder/SETTINGS.md), which reads them just as strictly at its start."
    return {**found, "description": about}


def _object(kind: type, prefix: str, texts: Mapping[str, str]) -> Json:
    hints = get_type_hints(kind)
    properties: Json = {}
    required = []
    for info in fields(kind):
        for name, section in info.metadata.get(SECTIONS, {}).items():
            properties[name] = _object(section, f"{prefix}{name}.", texts) | _described(f"{prefix}{name}", texts)
        if SECTIONS in info.metadata:
            continue
        key = prefix + info.name
        properties[info.name] = _value(hints[info.name], key, texts) | _described(key, texts)
        if info.default is MISSING and info.default_factory is MISSING:
            required.append(info.name)
    found: Json = {"type": "object", "additionalProperties": False, "properties": properties}
    return found | ({"required": required} if required else {})


def _described(key: str, texts: Mapping[str, str]) -> Json:
    return {"description": texts[key]} if texts.get(key) else {}


def _value(hint: Any, key: str, texts: Mapping[str, str]) -> Json:
    if get_origin(hint) in (Union, UnionType):
        options = [each for each in get_args(hint) if each is not type(None)]
        return _value(options[0], key, texts) if len(options) == 1 else {}
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return {"type": "array", "items": _value(get_args(hint)[0], f"{key}[]", texts)}
    if is_dataclass(hint) and isinstance(hint, type):
        return _object(hint, f"{key}.", texts)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [each.value for each in hint]}
    if hint in PLAIN:
        return dict(PLAIN[hint])
    raise TypeError(f"{key}: no schema for {hint!r}")
