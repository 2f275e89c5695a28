"""Every panel and variable on a real Prometheus that holds a story: they show what the story says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.dashboards.expected import EXPECTED, MARKS, OTHER, THEN, VARIABLES, WHERE, Lines, Rows
from tests.dashboards.story import BEGIN, END, OPTIONS, STEP_S, playing, uuid

from gpuheal_dashboards.boards.all import boards
from gpuheal_dashboards.model import Board, Panel
from gpuheal_dashboards.preview.data import Scope, Shown, ask, marks
from gpuheal_dashboards.preview.prometheus import Prometheus
from gpuheal_lab.servers.find import Generation
from gpuheal_rules.catalogue.load import load_catalogue

BOARDS = boards(OPTIONS, load_catalogue())
PANELS = {panel.id: panel for board in BOARDS for panel in board.panels}
USUAL = {"gpuheal-gpu": ("a-3", 0)}
generations = pytest.mark.parametrize("generation", [Generation.DEBIAN, Generation.CURRENT])


def scope(node: str = "a-2", gpu: int = 0, cluster: str = "a") -> Scope:
    """The whole story, with these values of the variables."""
    return Scope(
        start=BEGIN, end=END, values={"cluster": cluster, "node": node, "gpu": uuid(node, gpu)}, scrape_s=STEP_S
    )


def of_panel(board: Board, panel: Panel) -> Scope:
    """The range and variables with which a panel is asked."""
    return scope(*WHERE.get(panel.id, USUAL.get(board.uid, ("a-2", 0))))


def at(shown: Shown, moment: float) -> Lines:
    """The values of the series at a moment."""
    return {line.name: round(value, 4) for line in shown.lines for time, value in line.points if time == moment}


def told(panel: Panel, shown: Shown) -> Lines | Rows | str:
    """What a panel shows at the end, in the form of EXPECTED."""
    if shown.problem:
        return shown.problem
    if not panel.columns:
        return at(shown, END)
    rows = [tuple(row.get(column.title, "") for column in panel.columns) for row in shown.rows]
    return [tuple(round(cell, 4) if isinstance(cell, float) else cell for cell in row) for row in rows]


def ordered(found: Lines | Rows | str) -> object:
    """Rows in an order of their own; which of several equal ones comes first is not said."""
    return found if isinstance(found, str | Mapping) else sorted(found, key=str)


def wrong(server: Prometheus) -> Iterator[tuple[int, str]]:
    """Yield each panel that shows anything else than the story says."""
    for board in BOARDS:
        for panel in board.panels:
            shown = ask(panel, server, of_panel(board, panel))
            if ordered(told(panel, shown)) != ordered(EXPECTED[panel.id]):
                yield panel.id, f"{panel.title}: {told(panel, shown)}"
            for minute, lines in THEN.get(panel.id, {}).items():
                if at(shown, BEGIN + minute * STEP_S) != lines:
                    yield panel.id, f"{panel.title} at {minute}: {at(shown, BEGIN + minute * STEP_S)}"


def test_every_panel_has_an_expectation() -> None:
    """The table names every panel and no other, and no expectation is empty: each panel has something to show."""
    assert EXPECTED.keys() == PANELS.keys()
    assert [panel for panel, expected in EXPECTED.items() if not expected] == []
    assert WHERE.keys() | THEN.keys() | OTHER.keys() <= PANELS.keys()


@pytest.mark.servers
@generations
def test_every_panel_shows_what_the_story_says(story: Path, tmp_path: Path, generation: Generation) -> None:
    """Values at the end and earlier, choices of variables and marks are those of the story, of cluster a alone."""
    with playing(story, tmp_path / "prometheus", generation) as running:
        server = Prometheus(url=running.url)
        assert dict(wrong(server)) == {}
        for board in BOARDS:
            usual = scope(*USUAL.get(board.uid, ("a-2", 0)))
            choices = {
                variable.name: server.values(variable.label, usual.expand(variable.metric, STEP_S), BEGIN, END)
                for variable in board.variables
            }
            assert choices == VARIABLES[board.uid]
            found = {(round((when - BEGIN) / STEP_S), text) for when, text, _color in marks(board, server, usual)}
            assert set(MARKS[board.uid].items()) <= found
        others = {panel: told(PANELS[panel], ask(PANELS[panel], server, scope(cluster="b"))) for panel in OTHER}
        assert others == OTHER
        both = ask(PANELS[106], server, scope(cluster=".*"))
        assert at(both, END) == {"": 15}
