"""The page: the boards' data and the scripts that draw it in one HTML file, which loads nothing from anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from gpuheal_dashboards.model import Board, Column, Kind, Panel, Shade
from gpuheal_dashboards.preview.data import Line, Shown

MOST_BYTES = 12 * 1024 * 1024
"""The largest page; panels that would make it larger are left out, which is told in their place."""
LICENCE = "/* uPlot 1.6.32, MIT licence; its text is in static/uplot/LICENSE of the package gpuheal_dashboards */\n"
DIGITS = 6
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{styles}</style>
</head>
<body>
<script id="data" type="application/json">{data}</script>
<script>
{scripts}</script>
</body>
</html>
"""
Json = dict[str, Any]


class Page:
    """A page that grows panel by panel and never beyond its limit."""

    def __init__(self, head: Mapping[str, Any], limit: int = MOST_BYTES) -> None:
        self._head = dict(head)
        self._boards: list[Json] = []
        self._left = limit - len(HTML) - sum(len(text) for text in (*_static("css"), *_static("js")))
        self.left_out = 0

    def board(self, board: Board, marks: Sequence[tuple[float, str, str]]) -> None:
        """Begin a board; what is added next belongs to it."""
        found: Json = {"uid": board.uid, "title": board.title, "description": board.description, "rows": []}
        found["marks"] = [list(mark) for mark in marks]
        self._boards.append(found)

    def row(self, title: str) -> None:
        """Begin a row of the last board."""
        self._boards[-1]["rows"].append({"title": title, "panels": []})

    def add(self, panel: Panel, shown: Shown) -> None:
        """Add a panel to the last row."""
        data = panel_data(panel, shown)
        size = len(_json(data))
        if size > self._left:
            self.left_out += 1
            data = panel_data(panel, Shown(problem="left out: the page would become too large"))
            size = len(_json(data))
        self._left -= size
        self._boards[-1]["rows"][-1]["panels"].append(data)

    def html(self) -> str:
        """Return the whole page."""
        data = _json({**self._head, "boards": self._boards})
        # Nothing in the data can end the element that holds it.
        safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        title = "gpuheal dashboards"
        return HTML.format(
            policy=POLICY, title=title, styles="".join(_static("css")), data=safe, scripts="".join(_static("js"))
        )


def panel_data(panel: Panel, shown: Shown) -> Json:
    """Return what the page's scripts need of a panel."""
    data: Json = {
        name: getattr(panel, name)
        for name in ("id", "title", "description", "unit", "decimals", "width", "height", "stacked", "named")
    }
    data |= {"kind": panel.kind.value, "nothing": panel.nothing, "found": shown.found, "problem": shown.problem}
    data |= {"lowest": panel.lowest, "highest": panel.highest, "dashed": panel.dashed, "steps": panel.steps}
    data |= {"texts": _shades(panel.texts), "colors": _shades(panel.colors)}
    if panel.kind is Kind.TABLE:
        data["columns"] = [_column(column, shown) for column in panel.columns]
        if any("Cluster" in row for row in shown.rows):
            data["columns"].append(_column(Column(title="Cluster", width=90), shown))
        data["rows"] = [{title: _cell(value) for title, value in row.items()} for row in shown.rows]
    elif panel.kind.instant:
        data["lines"] = [{"name": line.name, "value": _cell(line.last)} for line in shown.lines]
    else:
        data["times"] = list(shown.times)
        data["lines"] = [{"name": line.name, "values": _values(line, shown.times)} for line in shown.lines]
    return data


def _column(column: Column, shown: Shown) -> Json:
    used = {_key(row[column.title]) for row in shown.rows if column.title in row}
    texts = {value: shade for value, shade in column.texts.items() if value in used}
    data: Json = {name: getattr(column, name) for name in ("title", "unit", "decimals", "width", "steps", "gauge")}
    runbook = column.link.runbook if column.link else ""
    return {**data, "texts": _shades(texts), "runbook": runbook}


def _key(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.12g}"


def _shades(texts: Mapping[str, Shade]) -> Json:
    return {value: {"text": shade.text, "color": shade.color} for value, shade in texts.items()}


def _cell(value: str | float) -> str | float | None:
    if isinstance(value, str):
        return value
    return _round(value) if abs(value) < 1e9 else value if math.isfinite(value) else None


def _round(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() else short


def _values(line: Line, times: Sequence[float]) -> list[float | None]:
    there = {round(at, 3): value for at, value in line.points}
    found = (there.get(round(at, 3)) for at in times)
    return [None if value is None else _round(value) for value in found]


def _static(ending: str) -> Iterator[str]:
    folder = files("gpuheal_dashboards.preview") / "static"
    names = {"css": ("uplot/uPlot.min.css", "preview.css"), "js": ("uplot/uPlot.iife.min.js", "draw.js", "preview.js")}
    for name in names[ending]:
        text = folder.joinpath(name).read_text(encoding="utf-8")
        note = LICENCE if "uplot" in name else ""
        yield f"{note}{text.rstrip()}\n"


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
