"""What a site's telemetry shows, asked of its Prometheus or read from a file, and what of it a selector can reach."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpuheal_rules.errors import ConfigError

SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?(?:\s+\S+){0,2}")
PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
MOST_BYTES = 256 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Seen:
    """The names of all series with the jobs that show them; the rest is known only where labels are."""

    jobs: Mapping[str, frozenset[str]]
    labelled: bool
    """Whether labels are known; a mere list of names says nothing of jobs and labels."""

    having: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By label, the metrics of which some series have it; only labels that were looked for are keys."""

    lacking: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By label, the metrics of which some series lack it."""

    zero: frozenset[str] = frozenset()
    """Metrics that are 0 everywhere."""

    remembers: float | None = None
    """For how many seconds the rules have been evaluated without a gap; unknown when no Prometheus was asked."""

    def shown(self, name: str, job: str) -> bool:
        """Return whether a job that matches the pattern shows the metric; any job will do where none is known."""
        found = self.jobs.get(name, frozenset())
        return bool(found) and (not self.labelled or any(re.fullmatch(job, one) for one in found))


def from_file(path: Path, labels: frozenset[str]) -> Seen:
    """Return what a file lists: names or whole series, one a line, a page of metrics, or the API's JSON of names.

    `labels` are those to look for. Raises ConfigError when the file is none of these.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(str(path), "", f"is larger than {MOST_BYTES // 1024**2} MiB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(str(path), "", f"cannot be read: {problem}") from None
    listed = text.lstrip().startswith(("{", "["))
    lines = _names(path, text) if listed else [line.strip() for line in text.splitlines()]
    jobs: dict[str, set[str]] = {}
    having: dict[str, set[str]] = {label: set() for label in labels}
    lacking: dict[str, set[str]] = {label: set() for label in labels}
    labelled = False
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        match = SERIES.fullmatch(line)
        if match is None:
            raise ConfigError(str(path), f"line {number}", "is not a series name", "one series per line")
        found = dict(PAIR.findall(match[2] or ""))
        labelled = labelled or "job" in found
        jobs.setdefault(match[1], set()).add(found.get("job", ""))
        for label in labels:
            (having if found.get(label) else lacking)[label].add(match[1])
    if not jobs:
        raise ConfigError(str(path), "", "contains no series")
    return Seen(
        jobs={name: frozenset(of) for name, of in jobs.items()},
        labelled=labelled,
        having={label: frozenset(names) for label, names in having.items()} if labelled else {},
        lacking={label: frozenset(names) for label, names in lacking.items()} if labelled else {},
    )


def _names(path: Path, text: str) -> list[str]:
    """Return the names in the answer of /api/v1/label/__name__/values, or in a bare list."""
    try:
        data = json.loads(text)
    except ValueError as problem:
        raise ConfigError(str(path), "", f"is not JSON: {problem}") from None
    names = data.get("data") if isinstance(data, dict) else data
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(str(path), "data", "is not a list of names", "as /api/v1/label/__name__/values gives it")
    return names
