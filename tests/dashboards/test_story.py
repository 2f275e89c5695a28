"""Every panel and variable on a real Prometheus that holds a story: they show what the story says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.dashboards.browser import dom
from tests.dashboards.expected import EXPECTED, MARKS, OTHER, THEN, VARIABLES, WHERE, Lines, Rows
from tests.dashboards.story import BEGIN, END, OPTIONS, STEP_S, playing, uuid

from gpuheal_dashboards.boards.all import boards
from gpuheal_dashboards.cli import main
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


def nameless(panel: Panel, shown: Shown) -> Iterator[str]:
    """Yield the labels of columns, legends and links that no series has."""
    if panel.columns:
        titles = {column.title for column in panel.columns if column.label}
        yield from (title for title in titles if not any(row.get(title) for row in shown.rows))
        return
    wanted = {label for query in panel.queries for label in re.findall(r"\{\{(\w+)\}\}", query.legend)}
    wanted |= set(panel.link.passes.values()) if panel.link else set()
    there = {label for line in shown.lines for label in line.labels}
    yield from wanted - there


def wrong(server: Prometheus) -> Iterator[tuple[int, str]]:
    """Yield each panel that shows anything else than the story says."""
    for board in BOARDS:
        for panel in board.panels:
            shown = ask(panel, server, of_panel(board, panel))
            if ordered(told(panel, shown)) != ordered(EXPECTED[panel.id]):
                yield panel.id, f"{panel.title}: {told(panel, shown)}"
            for name in nameless(panel, shown):
                yield panel.id, f"{panel.title}: no label {name}"
            for minute, lines in THEN.get(panel.id, {}).items():
                if at(shown, BEGIN + minute * STEP_S) != lines:
                    yield panel.id, f"{panel.title} at {minute}: {at(shown, BEGIN + minute * STEP_S)}"


def test_every_panel_has_an_expectation() -> None:
    """The table names every panel and no other, and no expectation is empty: each panel has something to show."""
    assert EXPECTED.keys() == PANELS.keys()
    assert [panel for panel, expected in EXPECTED.items() if not expected] == []
    assert WHERE.keys() | THEN.keys() | OTHER.keys() <= PANELS.keys()


@pytest.mark.servers
@pytest.mark.timeout(300)
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


SITE = "scrape_interval: 1m\ninterval: 1m\ncluster_label: cluster\n"
INKED = """
<script>
const drawn = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const inked = (canvas) => drawn(canvas).some((byte) => byte);
document.documentElement.dataset.canvases = document.querySelectorAll("canvas").length;
document.documentElement.dataset.inked = [...document.querySelectorAll("canvas")].filter(inked).length;
</script>
"""
"""Counts the graphs on which something was drawn."""


@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("generation", [Generation.DEBIAN])
def test_the_preview_draws_every_panel_in_a_browser(
    story: Path, tmp_path: Path, generation: Generation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chromium runs the page's scripts without an error; every panel is drawn, with the story's values in it."""
    site, out = tmp_path / "site.yaml", tmp_path / "page.html"
    site.write_text(SITE)
    end = datetime.fromtimestamp(END, UTC).isoformat()
    with playing(story, tmp_path / "prometheus", generation) as running:
        where = ["--prometheus", running.url, "--out", str(out), "--site", str(site)]
        assert main(["preview", *where, "--range", "2h", "--end", end, "--cluster", "a"]) == 0
    assert capsys.readouterr().out == f"{out}: {len(PANELS)} panels\n"
    assert out.stat().st_size < 500_000
    out.write_text(out.read_text().replace("</body>", f"{INKED}</body>"))
    page = dom(out, "all", tmp_path)
    (facts,) = re.findall(r"<html [^>]*>", page)
    assert f'data-drawn="{len(PANELS)}"' in facts
    assert "data-failed" not in facts
    (canvases,) = re.findall(r'data-canvases="(\d+)"', facts)
    assert int(canvases) > 30
    assert f'data-inked="{canvases}"' in facts
    # The worst GPU of the fleet was chosen, and tables, stats and timelines say in words what happened to it.
    boxes = {
        int(number): text for number, text in re.findall(r'id="panel-(\d+)"(.*?)(?=id="panel-|$)', page, re.DOTALL)
    }
    assert boxes.keys() == PANELS.keys()
    for panel, text in {
        101: ">unknown<", 102: ">64.3%<", 121: ">lost<", 122: "runbooks/GPUFellOffBus", 202: ">preemptible<",
        208: ">waits for approval<", 211: f"1 {uuid('a-2', 1)[:12]}: lost, ", 301: ">lost<",
        311: ">79: The GPU does not answer on PCIe any more<", 411: "a PodDisruptionBudget or a protected pod blocks",
        431: ">3.3 m<", 501: ">fires<", 505: ">80.0%<",
    }.items():  # fmt: skip
        assert text in boxes[panel], panel
