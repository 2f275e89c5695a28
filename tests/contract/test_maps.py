"""Every README has a map of its folder that fits one look and names what is there."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_ROWS = 15
PLAIN = {"__init__.py", "__main__.py", "conftest.py"}
"""Files whose name says it all."""


def tracked(below: str = "") -> set[Path]:
    """Return the files of the project, new ones included, ignored ones not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", below or "."]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    return {ROOT / line for line in listed.splitlines() if (ROOT / line).exists()}


FILES = tracked()
READMES = sorted(
    path
    for path in FILES
    if path.name == "README.md" and any(other != path and other.is_relative_to(path.parent) for other in FILES)
)
PACKAGES = sorted(
    path.parent for path in FILES if path.name == "__init__.py" and path.parent.name.startswith("gpuheal_")
)


def place_of(readme: Path) -> Path:
    """Return the folder that a README maps: the package of a part, else its own."""
    return next((package for package in PACKAGES if package.parent == readme.parent), readme.parent)


def children(place: Path) -> set[str]:
    """Return the names of a folder's rooms (`room/`) and, in a package, of its modules."""
    below = [path.relative_to(place).parts for path in FILES if path.is_relative_to(place)]
    rooms = {f"{parts[0]}/" for parts in below if len(parts) > 1 and not parts[0].startswith(".")}
    modules = {parts[0] for parts in below if len(parts) == 1 and parts[0].endswith(".py")} - PLAIN
    return rooms | (modules if place in PACKAGES else set())


def rows_of(readme: Path) -> list[str]:
    """Return the first cells of the map's rows."""
    text = readme.read_text(encoding="utf-8")
    assert "\n## Map\n" in text, f"{readme.relative_to(ROOT)} has no section `## Map`"
    section = text.split("\n## Map\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [line.split("|")[1] for line in lines[2:]]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_map_fits_one_look_and_names_every_room(readme: Path) -> None:
    """At most 15 rows; every folder, and every module of a package, is named; every name is there."""
    rows, place = rows_of(readme), place_of(readme)
    assert 0 < len(rows) <= MOST_ROWS
    named = {name for cell in rows for name in re.findall(r"[`\[]([\w./-]+)[`\]]", cell)}
    assert children(place) - named == set(), "not on the map"
    spots = (place, readme.parent, readme.parent / "base")
    assert {name for name in named if not any((spot / name).exists() for spot in spots)} == set(), "not there"


@pytest.mark.parametrize(
    "room",
    sorted({path.parent for path in FILES if path.name == "__init__.py" and path.parent.parent in PACKAGES}),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_room_says_what_it_is(room: Path) -> None:
    """A room has a docstring; the lab's rooms name each of their modules in the list there, as their README says."""
    doc = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert doc, f"{room.relative_to(ROOT)}/__init__.py has no docstring"
    if room.parent.name == "gpuheal_lab":
        modules = {path.stem for path in FILES if path.parent == room and path.suffix == ".py"} - {"__init__"}
        listed = set(re.findall(r"`(\w+)`", doc))
        assert modules - listed == set(), f"not named in the docstring of {room.name}"
