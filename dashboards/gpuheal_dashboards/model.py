"""Dashboards as values: what is shown, apart from how Grafana or the preview draw it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

TAG = "gpuheal"
COLUMNS = 24
"""Width of Grafana's grid."""

MOST_POINTS = 150
"""Points that one graph asks of Prometheus at most: what it reads is bounded, however long the range."""


class Kind(StrEnum):
    """How a panel shows its data; the values are Grafana's names of panel types."""

    STAT = "stat"
    GRAPH = "timeseries"
    STATES = "state-timeline"
    TABLE = "table"
    BARS = "bargauge"

    @property
    def instant(self) -> bool:
        """Whether it shows one moment."""
        return self in (Kind.STAT, Kind.TABLE, Kind.BARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shade:
    """A value's text and colour; empty where only the other matters."""

    color: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A way to another dashboard, where `passes` maps its variables to fields or labels here, or to a `runbook`.

    `{Field}` in the address of a runbook is the value of that field.
    """

    title: str
    uid: str = ""
    passes: Mapping[str, str] = field(default_factory=dict)
    runbook: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: a label, or the value of the query with the letter `value`."""

    title: str
    label: str = ""
    value: str = ""
    unit: str = ""
    decimals: int | None = None
    width: int = 0
    texts: Mapping[str, Shade] = field(default_factory=dict)
    words: str = ""
    """Whose sentences stand for the slugs of this column: xid, fault or reason."""
    steps: Sequence[tuple[float | None, str]] = ()
    link: Link | None = None
    gauge: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression; `legend` names its series with `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. `id` is part of links to it, so it never changes; `key` names it in tests and texts."""

    id: int
    kind: Kind
    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 12
    height: int = 8
    decimals: int | None = None
    lowest: float | None = None
    highest: float | None = None
    steps: Sequence[tuple[float | None, str]] = ()
    """Thresholds: from each value on (None: from the lowest) this colour."""
    texts: Mapping[str, Shade] = field(default_factory=dict)
    """What stands for a value."""
    colors: Mapping[str, Shade] = field(default_factory=dict)
    """Colour, and another name, of the series with this legend."""
    dashed: str = ""
    """Pattern of the legends that are limits, drawn as dashed lines."""
    stacked: bool = False
    named: bool = False
    """Whether a stat shows the names of its series, for facts whose value is always 1."""
    columns: Sequence[Column] = ()
    sort: str = ""
    """Title of the column that orders a table, largest first; with a leading `-` smallest first."""
    link: Link | None = None
    min_step: str = "15s"
    points: int = MOST_POINTS
    nothing: str = "no data"
    """What is shown when nothing matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A headline and the panels below it, left to right, top to bottom."""

    id: int
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top: values of `label` on the series of `metric`."""

    name: str
    title: str
    description: str
    metric: str
    label: str
    many: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Moments drawn across all graphs, where `expr` begins to be there."""

    name: str
    expr: str
    title: str
    text: str
    color: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    marks: Sequence[Mark] = ()
    since: str = "now-6h"
    refresh: str = "1m"

    @property
    def panels(self) -> Iterator[Panel]:
        """Yield the panels of all rows."""
        for row in self.rows:
            yield from row.panels


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row or a panel lies in the grid of 24 columns."""

    x: int
    y: int
    width: int
    height: int


def laid_out(board: Board) -> Iterator[tuple[Row | Panel, Place]]:
    """Yield rows and panels with their places: each row of the grid is filled from left to right."""
    y = 0
    for row in board.rows:
        yield row, Place(x=0, y=y, width=COLUMNS, height=1)
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            yield panel, Place(x=x, y=y, width=panel.width, height=panel.height)
            x += panel.width
            tallest = max(tallest, panel.height)
        y += tallest
