"""Values out of a file that is JSON, and may still not be what we wrote: bit rot, another version, somebody's editor.

Each function returns the value if it has the type and size that is expected, and raises ValueError otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

MAX_TEXT = 4096
MAX_WHOLE = 2**53  # what every JSON reader keeps exactly
ValueT = TypeVar("ValueT")


def text(value: object, limit: int = MAX_TEXT) -> str:
    """Return a text of at most `limit` characters that can be written as UTF-8."""
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError(f"not a text of at most {limit} characters: {str(value)[:40]!r}")
    value.encode()
    return value


def whole(value: object) -> int:
    """Return an integer from 0 to 2^53."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_WHOLE:
        raise ValueError(f"not a count: {str(value)[:40]}")
    return value


def number(value: object) -> float:
    """Return a finite number that is not negative, as unix seconds are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"not a number: {str(value)[:40]}")
    if not math.isfinite(value) or not 0 <= value <= MAX_WHOLE:
        raise ValueError(f"not a number from 0 to 2^53: {str(value)[:40]}")
    return float(value)


def flag(value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"not true or false: {str(value)[:40]}")
    return value


def optional(kind: Callable[[object], ValueT]) -> Callable[[object], ValueT | None]:
    """Return a check that also takes null."""
    return lambda value: None if value is None else kind(value)


def items(value: object, limit: int) -> list[Any]:
    """Return the first `limit` entries of a list."""
    if not isinstance(value, list):
        raise ValueError(f"not a list: {str(value)[:40]}")
    return value[:limit]


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object."""
    if not isinstance(value, dict):
        raise ValueError(f"not an object: {str(value)[:40]}")
    return value


def fields(value: object, kinds: Mapping[str, Callable[[object], Any]]) -> dict[str, Any]:
    """Return the named fields of an object, each checked; KeyError if one is missing. Others are passed over: they
    are a later version's.
    """
    document = mapping(value)
    return {name: kind(document[name]) for name, kind in kinds.items()}
