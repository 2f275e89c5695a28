"""Runs every mutant: a small wrong change that the test of its invariant must notice. `python -m tests.mutants.run`.

A mutant is a patch named after its invariant; its first lines say in `# words` what is wrong and which tests must fail:
`# tests: tests/safety -k s08`. The patch is applied to a copy of the tree. A mutant that survives, or that no longer
applies, fails the run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "tests" / "mutants"
DEADLINE_S = 300
COPIED = ("responder", "rules", "exporters", "deploy/lab", "deploy/kustomize", "tests", "pyproject.toml")


def selection(patch: Path) -> list[str]:
    """Return pytest's arguments that a patch names."""
    found = re.search(r"^# tests: (.+)$", patch.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{patch.name}: names no tests (a line `# tests: …`)")
    return found.group(1).split()


def copy_tree(into: Path) -> None:
    """Copy what tests need, without caches."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(source, into / name)


def killed(patch: Path) -> tuple[bool, str]:
    """Return whether the tests notice the mutant, and what pytest or git said last."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy_tree(Path(folder))
        applied = subprocess.run(
            ["git", "apply", "--unsafe-paths", "-C1", f"--directory={folder}", str(patch)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        if applied.returncode != 0:
            return False, f"does not apply: {applied.stderr.strip()}"
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        try:
            ran = subprocess.run(
                [*command, *selection(patch)], cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S
            )
        except subprocess.TimeoutExpired:
            return True, "the tests did not end"
        last = ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ran.stderr.strip()[-200:]
        return ran.returncode == 1, last


def main(argv: Sequence[str]) -> int:
    """Run the named mutants, or all; return 1 if one survives."""
    patches = sorted(p for p in MUTANTS.glob("S*.patch") if not argv or any(p.name.startswith(a) for a in argv))
    survivors = 0
    for patch in patches:
        began = time.monotonic()
        noticed, said = killed(patch)
        survivors += not noticed
        word, spent = "killed  " if noticed else "SURVIVED", time.monotonic() - began
        print(f"{word} {patch.stem:<42} {spent:5.1f} s  {said}", flush=True)
    print(f"{len(patches) - survivors} passed, {survivors} failed")
    return 1 if survivors or not patches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
