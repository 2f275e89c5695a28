"""Spans of time as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "day": 86400}
LONGEST_TEXT = 64
YEARS = range(2000, 2200)
"""A moment outside of them was made up, or cannot be reckoned with."""
_DURATION = re.compile(r"(?:[0-9]+(?:ms|min|day|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|min|day|s|m|h|d)")


def parse_duration(text: object) -> timedelta:
    """Return the span that a text such as `90s`, `1h30m` or `1day3h5min` means; raise ValueError for anything else."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as 90s, 20m or 1h30m, got {_shown(text)}")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"expected a duration such as 90s, 20m or 1h30m, got {len(text)} characters")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError(f"expected a duration of at most {timedelta.max.days} days, got {text!r}") from None


def _shown(value: object) -> str:
    """Return a short form of the value: a few YAML aliases can mean a list whose whole text would fill the memory."""
    if isinstance(value, str):
        return repr(value[:LONGEST_TEXT])
    return repr(value) if value is None or isinstance(value, bool | int | float) else type(value).__name__


def format_duration(span: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back to `span`."""
    left = round(span.total_seconds() * 1000)
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def people_duration(span: timedelta) -> str:
    """Return the span as people say it, in at most two units: `45s`, `30m`, `1h30m`, `24h`, `3d`.

    Hours go up to two days, for limits are per `24h`; what is smaller than the second unit is rounded. A negative span
    is said to be `0s`.
    """
    left = max(0, round(span.total_seconds()))
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    first = next((i for i, (unit, size) in enumerate(units) if left >= (2 * size if unit == "d" else size)), 3)
    _, smallest = units[min(first + 1, 3)]
    left = (left + smallest // 2) // smallest * smallest
    parts = []
    for unit, size in units[first : first + 2]:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
