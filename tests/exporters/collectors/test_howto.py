"""COLLECTORS.md, followed literally in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PAGE = REPOSITORY / "exporters/COLLECTORS.md"
_BLOCK = re.compile(r"^`(?P<path>[\w/.]+)`:\n\n```(?:python|text)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"`python (-m [\w.]+) > exporters/METRICS\.md`")


def register(registry: Path, lines: str) -> None:
    """The lines of the page are in the registry, each where its comment says, an import in its alphabetical place."""
    text = registry.read_text()
    for line in lines.splitlines():
        found = re.fullmatch(r"( +\S+,)  # in (.+)", line)
        assert found is not None
        opening = {"the import": "import (\n", "HARDWARE": "HARDWARE: tuple[CollectorDef[Hardware], ...] = (\n"}[
            found[2]
        ]
        head, tail = text.split(opening)
        entries, rest = tail.split("\n)", 1)
        listed = [*entries.splitlines(), found[1]]
        text = head + opening + "\n".join(sorted(listed) if found[2] == "the import" else listed) + "\n)" + rest
    registry.write_text(text)


@pytest.fixture
def followed(tmp_path: Path) -> Path:
    """A copy of the exporter with what the page adds."""
    shutil.copytree(
        REPOSITORY / "exporters", tmp_path / "exporters", ignore=shutil.ignore_patterns("__pycache__", "METRICS.md")
    )
    blocks = {match["path"]: match["text"] for match in _BLOCK.finditer(PAGE.read_text())}
    assert len(blocks) == 3
    for path, text in blocks.items():
        target = tmp_path / path
        if target.exists():
            register(target, text)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    """What Python prints with the copy in front of its path."""
    environment = dict(os.environ, PYTHONPATH=str(folder / "exporters"))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_adds_a_collector_that_is_scraped(followed: Path) -> None:
    """Three files as the page gives them are enough: the exporter shows the metric, METRICS.md documents it."""
    root = followed / "root"
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/tainted").write_text("128\n")
    (root / "kmsg").write_text("")
    text = run(followed, "-m", "gpuheal_exporters", "--once", "--root", str(root), "--kmsg", str(root / "kmsg"))
    assert 'gpuheal_kernel_tainted{reason="oops"} 1.0' in text.splitlines()
    assert 'gpuheal_probe_stuck{group="tainted"} 0.0' in text.splitlines()
    (command,) = _COMMAND.findall(PAGE.read_text())
    assert "| `gpuheal_kernel_tainted` | gauge |" in run(followed, *command.split())


def test_the_test_of_the_page_passes(followed: Path) -> None:
    """The test that the page gives runs green on the collector that it gives."""
    out = run(followed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/exporters/collectors/test_tainted.py")
    assert re.search(r"^2 passed", out, re.MULTILINE)


def test_the_code_of_the_page_is_formatted_and_clean(followed: Path) -> None:
    """Whoever copies from the page passes the checks of the repository."""
    added = [str(followed / match["path"]) for match in _BLOCK.finditer(PAGE.read_text())]
    options = ("--config", str(REPOSITORY / "pyproject.toml"), "--no-cache")
    run(followed, "-m", "ruff", "check", *options, *added)
    run(followed, "-m", "ruff", "format", "--check", *options, *added)
