"""The how-to of the README, followed to the letter in a copy of the part."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RULES = Path(__file__).resolve().parents[2] / "rules"
BLOCKS = re.findall(
    r"<!-- test: (append|into)(?: (\w+))? (\S+) -->\n```\w+\n(.*?)```", (RULES / "README.md").read_text(), re.DOTALL
)


def follow(package: Path, how: str, name: str, text: str, mapping: str) -> None:
    """Do what one block of the how-to says."""
    path = package / name
    before = path.read_text()
    if how == "append":
        path.write_text(before + text)
        return
    head, found, rest = before.partition(f"{mapping}: Mapping[str, ")
    assert found, f"{name} has no {mapping}"
    line, end, rest = rest.partition("= {\n")
    path.write_text(head + found + line + end + text + rest)


@pytest.mark.timeout(300)
def test_a_fault_is_added_as_the_readme_says(tmp_path: Path, promtool: str) -> None:
    """A fault of a plain signal takes one file, one of special evidence three; all their cases pass at once."""
    shutil.copytree(RULES, tmp_path / "rules", ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "rules" / "gpuheal_rules"
    for how, mapping, name, text in BLOCKS:
        follow(package, how, name, text, mapping)
    assert [name for _, _, name, _ in BLOCKS] == [
        "catalogue/data/faults.yaml",
        "catalogue/data/faults.yaml",
        "groups/special.py",
        "groups/special.py",
        "cases/shows.py",
    ]

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": "rules"}, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    rules = [sys.executable, "-c", "import sys; from gpuheal_rules.cli import main; sys.exit(main(sys.argv[1:]))"]
    built = run(*rules, "build").splitlines()
    assert {"promtool/example.test.yaml", "runbooks/GPUPowerRunaway.md", "runbooks/GPULinksDark.md"} <= set(built)
    run(*rules, "check")
    run(*rules, "lint", "rules/generated", "rules/runbooks")
    page = (tmp_path / "rules" / "runbooks" / "GPULinksDark.md").read_text()
    assert "no NVLink of the GPU is active although some are expected (class nvml" in page
    run(sys.executable, "-c", "from gpuheal_rules.groups.special import *; assert set(MEANINGS) == set(SPECIALS)")
    cases = (tmp_path / "rules" / "promtool" / "example.test.yaml").read_text()
    assert cases.count("GPULinksDark") > 3
    run(promtool, "test", "rules", "rules/promtool/example.test.yaml")
