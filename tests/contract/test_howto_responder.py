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
BLOCK = re.compile(r"<!-- (file|line|rules|test): (\S+) -->\n```(?:python|diff)\n(.*?)\n```\n(?:\n|\Z)", re.DOTALL)
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
    assert {"file", "line", "test"} <= {kind for kind, _, _ in found}
    package, rules = tmp_path / "gpuheal_responder", tmp_path / "gpuheal_rules"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(RESPONDER / "gpuheal_responder", package, ignore=ignored)
    shutil.copytree(ROOT / "rules" / "gpuheal_rules", rules, ignore=ignored)
    tests = []
    for kind, name, text in found:
        if kind in {"line", "rules"}:
            file = (package if kind == "line" else rules) / name
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
    known = "from gpuheal_rules.policies import ACTIONS; from gpuheal_responder.actions import SPECS"
    subprocess.run([sys.executable, "-c", f"{known}; assert set(SPECS) == ACTIONS"], env=env, check=True, timeout=60)
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\b1 passed", ran.stdout), ran.stdout


def test_no_block_of_a_how_to_goes_unread() -> None:
    """Every block of code on the page is one that the test above follows, or an example inside of one."""
    marks = re.findall(r"<!-- (?:file|line|rules|test): ", HOWTO)
    assert len(marks) == sum(len(blocks(section)) for section in SECTIONS) == 14


def test_the_readme_counts_the_files_of_each_how_to() -> None:
    """The table of what an addition takes says what the how-tos, which tests follow, really touch."""
    rules = re.findall(r"<!-- test: (?:append|into \w+) (\S+) -->", (ROOT / "rules" / "README.md").read_text())
    collector = re.findall(r"^`([\w/.]+)`:\n\n```", (ROOT / "exporters" / "COLLECTORS.md").read_text(), re.MULTILINE)
    measured = {
        section.split()[-1]: len({(kind == "rules", name) for kind, name, _ in blocks(section)}) for section in SECTIONS
    }
    measured |= {
        "fault of a plain signal": len(rules[:1]),
        "fault with special evidence": len(set(rules[1:])),
        "collector": len(set(collector)),
    }
    rows = re.findall(r"^\| ([a-z ]+) \| (\d+) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name: int(count) for name, count in rows} == measured


def test_the_table_of_guards_is_current() -> None:
    """`make generated` renews it; the page fits a few looks."""
    page = (RESPONDER / "ROUND.md").read_text(encoding="utf-8")
    assert page == renewed(page)
    assert len(page.splitlines()) <= 120


def test_a_page_without_a_place_for_the_table_is_a_mistake() -> None:
    """Nothing is appended somewhere."""
    with pytest.raises(ValueError, match="no place for the table"):
        renewed("# Page\n")
