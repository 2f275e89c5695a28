"""HOWTO.md and ROUND.md of the responder say what is so: the how-tos are followed to the letter, tables are current."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuheal_responder.shell.round.page import renewed

ROOT = Path(__file__).resolve().parents[2]
RESPONDER = ROOT / "responder"
HOWTO = (RESPONDER / "HOWTO.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (file|line|test): (\S+) -->\n```(?:python|diff)\n(.*?)\n```\n(?:\n|\Z)", re.DOTALL)
SECTIONS: dict[str, str] = dict(re.findall(r"\n## (An? \w+)\n(.*?)(?=\n## |\Z)", HOWTO, re.DOTALL))


def blocks(section: str) -> list[tuple[str, str, str]]:
    """Return kind, path and text of each marked block of a section."""
    return BLOCK.findall(SECTIONS[section] + "\n")


def changed(text: str, diff: str) -> str:
    """Return the text after a diff, whose old lines must stand there exactly once."""
    old = "\n".join(line[1:] for line in diff.splitlines() if line[0] in " -")
    new = "\n".join(line[1:] for line in diff.splitlines() if line[0] in " +")
    assert text.count(old) == 1, f"expected once: {old}"
    return text.replace(old, new)


@pytest.mark.parametrize("section", ["An action", "A provider", "A guard"])
def test_a_how_to_followed_to_the_letter_works(section: str, tmp_path: Path) -> None:
    """Its files and lines, put into a copy of the package, make its own test pass."""
    found = blocks(section)
    assert {kind for kind, _, _ in found} == {"file", "line", "test"}
    package = tmp_path / "gpuheal_responder"
    shutil.copytree(RESPONDER / "gpuheal_responder", package, ignore=shutil.ignore_patterns("__pycache__"))
    tests = []
    for kind, name, text in found:
        if kind == "line":
            file = package / name
            file.write_text(changed(file.read_text(encoding="utf-8"), text), encoding="utf-8")
        else:
            file = (package if kind == "file" else tmp_path) / name
            assert not file.exists()
            file.write_text(text + "\n", encoding="utf-8")
            tests += [file] if kind == "test" else []
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    paths = [tmp_path, ROOT, ROOT / "deploy" / "lab", ROOT / "rules", ROOT / "exporters"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\b1 passed", ran.stdout), ran.stdout


def test_no_block_of_a_how_to_goes_unread() -> None:
    """Every block of code on the page is one that the test above follows, or an example inside of one."""
    marks = re.findall(r"<!-- (?:file|line|test): ", HOWTO)
    assert len(marks) == sum(len(blocks(section)) for section in SECTIONS) == 13


def test_the_table_of_guards_is_current() -> None:
    """`make generated` renews it; the page fits a few looks."""
    page = (RESPONDER / "ROUND.md").read_text(encoding="utf-8")
    assert page == renewed(page)
    assert len(page.splitlines()) <= 120


def test_a_page_without_a_place_for_the_table_is_a_mistake() -> None:
    """Nothing is appended somewhere."""
    with pytest.raises(ValueError, match="no place for the table"):
        renewed("# Page\n")
