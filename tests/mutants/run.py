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
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp.test_utils  # noqa: F401  # what children need is imported once, here
import hypothesis.strategies  # noqa: F401
import jinja2  # noqa: F401
import kubernetes.client  # noqa: F401
import prometheus_client  # noqa: F401
import pytest
import yaml  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "tests" / "mutants"
DEADLINE_S = 300
POLL_S = 0.02
ERROR = 70
"""Exit status of a child whose mutant could not be tried (sysexits.h: EX_SOFTWARE)."""
COPIED = (
    "responder",
    "rules",
    "exporters",
    "dashboards",
    "deploy/lab",
    "deploy/kustomize",
    "deploy/helm",
    "tests",
    "pyproject.toml",
)


def selection(patch: Path) -> list[str]:
    """Return pytest's arguments that a patch names."""
    found = re.search(r"^# tests: (.+)$", patch.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{patch.name}: names no tests (a line `# tests: …`)")
    return found.group(1).split()


def copy_tree(into: Path) -> None:
    """Copy what tests need, with the compiled modules: they stay valid, as the times of their sources are kept."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A forked process that runs a mutant's tests in a copy of the tree."""

    patch: Path
    folder: Path
    began: float

    @property
    def output(self) -> Path:
        """What it prints."""
        return self.folder / "output.txt"

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began


def started(patch: Path, folder: Path) -> tuple[int, Child]:
    """Fork a child that applies the patch to a copy of the tree and runs its tests; return its pid and what it is.

    A child has all libraries of this process: starting them is most of what a small test costs.
    """
    child = Child(patch=patch, folder=folder, began=time.monotonic())
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid, child
    code = ERROR
    try:
        os.setsid()
        output = os.open(child.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = tried(patch, folder / "tree")
    except BaseException:  # noqa: BLE001  # whatever it is, it must not go on in the copy of the parent
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)


class Ending:
    """A plugin of pytest that keeps how the session ended, whatever its cleaning up says afterwards."""

    status = ERROR

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Keep pytest's exit status."""
        self.status = int(exitstatus)


def tried(patch: Path, tree: Path) -> int:
    """Return pytest's exit status for the mutant's tests; for use in a child, since this changes the whole process."""
    tree.mkdir()
    copy_tree(tree)
    problem = applied(patch, tree)
    if problem:
        print(problem.replace("\n", " "))
        return ERROR
    os.chdir(tree)
    project = tomllib.loads((tree / "pyproject.toml").read_text())
    sources = [str(tree / name) for name in project["tool"]["pytest"]["ini_options"]["pythonpath"]]
    os.environ["PYTHONPATH"] = os.pathsep.join(sources)
    sys.path[:] = [*sources, *(entry for entry in sys.path if entry and not _ours(entry))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests" or name.startswith("gpuheal_")]:
        del sys.modules[name]
    known = ("-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    ending = Ending()
    try:
        pytest.main(["-q", "-x", "--no-header", *known, *selection(patch)], plugins=[ending])
    except BaseExceptionGroup as left:  # what failed tests left open, found after the last of them
        print(left)
    return ending.status


def _ours(entry: str) -> bool:
    """Return whether an entry of sys.path is in this checkout, and no environment in it."""
    path = Path(entry).resolve()
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts


def ended(running: dict[int, Child]) -> tuple[Child, bool, str]:
    """Wait for a child; return it, whether its tests noticed the mutant, and what was said last."""
    while True:
        for pid, child in list(running.items()):
            late = child.spent > DEADLINE_S
            if late:
                os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                del running[pid]
                return (child, True, "the tests did not end") if late else (child, *verdict(child, status))
        time.sleep(POLL_S)


def verdict(child: Child, status: int) -> tuple[bool, str]:
    """Return whether the tests of a child that ended noticed the mutant, and which did or what was printed last."""
    lines = child.output.read_text(errors="replace").strip().splitlines() or [""]
    noticed = os.waitstatus_to_exitcode(status) == pytest.ExitCode.TESTS_FAILED
    by = next((line for line in lines if line.startswith("FAILED ")), lines[-1])
    return noticed, " ".join(by.split()[1:2]) if noticed else lines[-1]


def results(patches: Sequence[Path], jobs: int) -> Iterator[tuple[Child, bool, str]]:
    """Run the mutants, `jobs` at a time; yield each as it ends."""
    left, running = list(reversed(patches)), dict[int, Child]()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        while left or running:
            while left and len(running) < jobs:
                place = Path(folder) / left[-1].stem
                place.mkdir()
                pid, child = started(left.pop(), place)
                running[pid] = child
            child, noticed, said = ended(running)
            yield child, noticed, said
            shutil.rmtree(child.folder, ignore_errors=True)


def main(argv: Sequence[str]) -> int:
    """Run the mutants whose names begin as said, or all; return 1 if one survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginning of a mutant's name, such as S04")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many run at a time")
    wanted = parser.parse_args(argv)
    patches = [p for p in sorted(MUTANTS.glob("S*.patch")) if p.name.startswith(tuple(wanted.names) or "S")]
    survivors = 0
    for child, noticed, said in results(patches, max(1, wanted.jobs)):
        survivors += not noticed
        print(
            f"{'killed  ' if noticed else 'SURVIVED'} {child.patch.stem:<42} {child.spent:5.1f} s  {said}", flush=True
        )
    print(f"{len(patches) - survivors} passed, {survivors} failed")
    return 1 if survivors or not patches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
