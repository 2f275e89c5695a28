"""Runs every mutant: a small wrong change that the test of its invariant must notice. `python -m tests.mutants.run`.

A mutant is a patch named after its invariant; its first lines say in `# words` what is wrong and which tests must fail:
`# tests: tests/safety -k s08`. The patch is applied to a copy of the tree. A mutant that survives, or that no longer
applies, fails the run. As many run at a time as there are CPUs; `--jobs N` says otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "tests" / "mutants"
DEADLINE_S = 300
COPIED = ("responder", "rules", "exporters", "deploy/lab", "deploy/kustomize", "deploy/helm", "tests", "pyproject.toml")


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


def applied(patch: Path, folder: Path, *, check: bool = False) -> str:
    """Apply a patch to a tree, or only `check` that it would; return what is wrong with it, empty when nothing is."""
    command = [
        "git",
        "apply",
        "--unsafe-paths",
        "-C1",
        f"--directory={folder}",
        *(["--check"] if check else []),
        str(patch),
    ]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S)
    return f"does not apply: {ran.stderr.strip()}" if ran.returncode != 0 else ""


def killed(patch: Path) -> tuple[bool, str]:
    """Return whether the tests notice the mutant, and what pytest or git said last."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy_tree(Path(folder))
        problem = applied(patch, Path(folder))
        if problem:
            return False, problem
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        try:
            ran = subprocess.run(
                [*command, *selection(patch)], cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S
            )
        except subprocess.TimeoutExpired:
            return True, "the tests did not end"
        last = ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ran.stderr.strip()[-200:]
        return ran.returncode == 1, last


def timed(patch: Path) -> tuple[bool, str, float]:
    """Return what `killed` says, and the seconds it took."""
    began = time.monotonic()
    noticed, said = killed(patch)
    return noticed, said, time.monotonic() - began


def main(argv: Sequence[str]) -> int:
    """Run the mutants whose names begin as said, or all; return 1 if one survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginning of a mutant's name, such as S04")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many run at a time")
    wanted = parser.parse_args(argv)
    patches = [p for p in sorted(MUTANTS.glob("S*.patch")) if p.name.startswith(tuple(wanted.names) or "S")]
    survivors = 0
    with ThreadPoolExecutor(wanted.jobs) as pool:
        for patch, (noticed, said, spent) in zip(patches, pool.map(timed, patches), strict=True):
            survivors += not noticed
            print(f"{'killed  ' if noticed else 'SURVIVED'} {patch.stem:<42} {spent:5.1f} s  {said}", flush=True)
    print(f"{len(patches) - survivors} passed, {survivors} failed")
    return 1 if survivors or not patches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
