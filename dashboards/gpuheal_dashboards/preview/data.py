"""What a panel shows at a moment: its queries asked, series named, tables merged as Grafana merges them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpuheal_dashboards.model import Board, Kind, Mark, Panel
from gpuheal_dashboards.preview.prometheus import Labels, Prometheus, QueryError, Sample
from gpuheal_responder.core.duration import parse_duration

MOST_SERIES = 40
"""Series drawn in one graph; a person reads no more."""
MOST_ROWS = 100
MOST_MARKS = 50
SCRAPE_S = 15.0
"""`$__rate_interval` is four scrapes at least, as in Grafana."""
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The time range in Unix seconds, and the values of the variables (for `cluster` a regular expression)."""

    start: float
    end: float
    values: Mapping[str, str]
    scrape_s: float = SCRAPE_S

    def step(self, panel: Panel) -> float:
        """Return the distance of a graph's points: no more than `points` of them, on whole seconds."""
        least = parse_duration(panel.min_step).total_seconds()
        return max(least, self.scrape_s, math.ceil((self.end - self.start) / panel.points))

    def expand(self, expr: str, step: float) -> str:
        """Return the expression with the variables put in."""
        known = {
            "__rate_interval": f"{math.ceil(max(4 * self.scrape_s, step + self.scrape_s))}s",
            "__range": f"{math.ceil(self.end - self.start)}s",
            **{name: quoted(value) for name, value in self.values.items()},
        }
        return re.sub(r"\$(\w+)", lambda match: known.get(match[1], match[0]), expr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A named series; an instant one has one point."""

    name: str
    labels: Labels
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a panel shows; `found` counts all series or rows, of which the first are here."""

    lines: Sequence[Line] = ()
    rows: Sequence[Mapping[str, str | float]] = ()
    """By title of the column; labels are texts, values numbers."""
    found: int = 0
    problem: str = ""
    times: Sequence[float] = field(default_factory=tuple)


def quoted(value: str) -> str:
    """Return a value as it stands between the quotes of PromQL."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def named(legend: str, labels: Labels) -> str:
    """Return the name of a series."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), legend).strip()


def ask(panel: Panel, prometheus: Prometheus, scope: Scope) -> Shown:
    """Return what the panel shows; a query that fails makes it a problem that is told in the panel's place."""
    try:
        if panel.kind is Kind.TABLE:
            return _table(panel, prometheus, scope)
        lines = sorted(_lines(panel, prometheus, scope), key=lambda line: line[0])
    except QueryError as problem:
        return Shown(problem=str(problem))
    found = [line for _order, line in lines]
    return Shown(lines=found[:MOST_SERIES], found=len(found), times=_grid(panel, scope))


def _grid(panel: Panel, scope: Scope) -> Sequence[float]:
    if panel.kind.instant:
        return ()
    step = scope.step(panel)
    return [scope.start + step * index for index in range(int((scope.end - scope.start) / step) + 1)]


def _lines(panel: Panel, prometheus: Prometheus, scope: Scope) -> Iterator[tuple[tuple[int, str], Line]]:
    step = scope.step(panel)
    for order, query in enumerate(panel.queries):
        expr = scope.expand(query.expr, step)
        if panel.kind.instant:
            for sample in prometheus.instant(expr, scope.end):
                name = named(query.legend, sample.labels)
                points = [(scope.end, sample.value)]
                yield (order, name), Line(name=name, labels=sample.labels, points=points)
        else:
            for series in prometheus.over(expr, scope.start, scope.end, step):
                name = named(query.legend, series.labels)
                yield (order, name), Line(name=name, labels=series.labels, points=series.points)


def _table(panel: Panel, prometheus: Prometheus, scope: Scope) -> Shown:
    merged: dict[tuple[tuple[str, str], ...], dict[str, str | float]] = {}
    titles = {column.value: column.title for column in panel.columns if column.value}
    for letter, query in zip(LETTERS, panel.queries, strict=False):
        for sample in prometheus.instant(scope.expand(query.expr, scope.end - scope.start), scope.end):
            row = merged.setdefault(tuple(sorted(sample.labels.items())), _facts(panel, sample))
            if letter in titles:
                row[titles[letter]] = sample.value
    rows = list(merged.values())
    if panel.sort:
        title, up = panel.sort.removeprefix("-"), panel.sort.startswith("-")
        rows.sort(key=lambda row: _rank(row.get(title), up))
    return Shown(rows=rows[:MOST_ROWS], found=len(rows))


def _facts(panel: Panel, sample: Sample) -> dict[str, str | float]:
    shown: dict[str, str | float] = {
        column.title: sample.labels.get(column.label, "") for column in panel.columns if column.label
    }
    if "cluster" in sample.labels:
        shown["Cluster"] = sample.labels["cluster"]
    return shown


def _rank(value: str | float | None, up: bool) -> tuple[bool, float, str]:
    """Order numbers, and put what has none last."""
    if isinstance(value, str):
        return False, 0.0, value
    if value is None or math.isnan(value):
        return True, 0.0, ""
    return False, value if up else -value, ""


def marks(board: Board, prometheus: Prometheus, scope: Scope) -> list[tuple[float, str, str]]:
    """Return moment, text and colour of each mark: where something begins to be there within the range."""
    found: list[tuple[float, str, str]] = []
    for mark in board.marks:
        try:
            found += _begun(mark, prometheus, scope)
        except QueryError:
            continue  # graphs without marks are worth more than none
    return sorted(found)[:MOST_MARKS]


def _begun(mark: Mark, prometheus: Prometheus, scope: Scope) -> Iterator[tuple[float, str, str]]:
    step = max(60.0, math.ceil((scope.end - scope.start) / 300))
    for series in prometheus.over(scope.expand(mark.expr, step), scope.start, scope.end, step):
        text = f"{named(mark.title, series.labels)} {named(mark.text, series.labels)}".strip()
        before = -math.inf
        for at, _value in series.points:
            if at - before > step * 1.5 and at > scope.start:
                yield at, text, mark.color
            before = at
