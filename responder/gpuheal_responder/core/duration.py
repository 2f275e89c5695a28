"""Spans of time as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "day": 86400}
_DURATION = re.compile(r"(?:\d+(?:ms|min|day|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+)(ms|min|day|s|m|h|d)")


def parse_duration(text: object) -> timedelta:
    """Return the span that a text such as `90s`, `1h30m` or `1day3h5min` means; raise ValueError for anything else."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as 90s, 20m or 1h30m, got {text!r}")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    return timedelta(seconds=seconds)


def format_duration(span: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back to `span`."""
    left = round(span.total_seconds() * 1000)
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
