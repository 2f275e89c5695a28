"""What is installed where: `gpuheal` runs a cluster without the lab, `gpuheal-lab` adds what proves it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from gpuheal_responder import __version__

ROOT = Path(__file__).resolve().parents[2]
EXPLAIN = ROOT / "tests" / "responder" / "commands" / "data" / "explain"
DEADLINE_S = 100
LAB_ONLY = ("gpuheal_lab/", "gpuheal_rules/cases/", "gpuheal_rules/mutation/")


class Site:
    """A virtual environment that has the third-party packages of the tests' own, and of gpuheal what is installed."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        # Folders that a .pth file names are searched as they are: editable installs in them stay unseen.
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "third-party.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def install(self, wheel: Path) -> None:
        """Install the wheel and nothing else."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        run([*pip, "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", str(wheel)], env=self.env)

    def gpuheal(self, *args: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run the installed command in a folder that is no checkout."""
        return run([str(self.bin / "gpuheal"), *args], env=self.env, cwd=folder, check=False)


def run(
    command: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run one command with a deadline; a failure shows what it said."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built from this tree."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index", "--no-deps"]
    run([*pip, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT), str(ROOT / "deploy" / "lab")])
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def files(wheel: Path) -> set[str]:
    """Return the package files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata(wheel: Path) -> str:
    """Return a wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))).decode()


def test_each_file_is_in_one_wheel_and_the_lab_only_in_its_own(wheels: dict[str, Path]) -> None:
    """Together the wheels hold every file of every package, once; lab, cases and mutation are in gpuheal-lab alone."""
    ours, lab = files(wheels["gpuheal"]), files(wheels["gpuheal_lab"])
    assert ours & lab == set()
    assert {name for name in ours if name.startswith(LAB_ONLY)} == set()
    assert {name for name in lab if not name.startswith(LAB_ONLY)} == set()
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*/gpuheal_*/*"]
    listed = [Path(line) for line in run(command, cwd=ROOT).stdout.splitlines() if (ROOT / line).exists()]
    parts = {"responder", "rules", "exporters", "dashboards", "deploy"}
    wanted = {re.sub(r"^.*?(?=gpuheal_)", "", p.as_posix()) for p in listed if p.parts[0] in parts}
    assert ours | lab == wanted


def test_the_lab_belongs_to_one_version(wheels: dict[str, Path]) -> None:
    """Both wheels and the code tell one version, and the lab asks for exactly that one."""
    for name in wheels:
        assert f"\nVersion: {__version__}\n" in metadata(wheels[name])
    assert f"\nRequires-Dist: gpuheal=={__version__}\n" in metadata(wheels["gpuheal_lab"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not {"cryptography", "trustme"} & {re.split(r"[<>=\[]", d)[0] for d in project["dependencies"]}


def test_gpuheal_works_alone_and_says_what_the_lab_would_add(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Help, explain, check and the rules' files work; demo, sim and mutate name the package that is missing."""
    site = Site(tmp_path / "venv")
    site.install(wheels["gpuheal"])
    assert site.gpuheal("--help", folder=tmp_path).returncode == 0
    names = [str(EXPLAIN / name) for name in ("policies.yaml", "alert.json", "world.yaml")]
    explained = site.gpuheal("explain", "--policies", *names, folder=tmp_path)
    assert (explained.returncode, "verdict  act: taint" in explained.stdout) == (0, True), explained.stderr
    settings = tmp_path / "settings.yaml"
    settings.write_text("cluster: prod-1\n")
    checked = site.gpuheal("check", "--config", str(settings), folder=tmp_path)
    assert checked.returncode == 2
    assert f"gpuheal: {settings}: " in checked.stderr
    assert ": missing" in checked.stderr
    for command in (["demo"], ["sim"], ["rules", "mutate"]):
        refused = site.gpuheal(*command, folder=tmp_path)
        assert refused.returncode == 2
        assert "requires the package gpuheal-lab, which is not installed" in refused.stderr
        assert "Traceback" not in refused.stderr
    built = site.gpuheal("rules", "build", "--out", str(tmp_path / "made"), folder=tmp_path)
    assert built.returncode == 0, built.stderr
    assert "no promtool tests were generated" in built.stderr
    made = {p.relative_to(tmp_path / "made") for p in (tmp_path / "made").rglob("*") if p.is_file()}
    assert made
    assert all((ROOT / "rules" / name).read_bytes() == (tmp_path / "made" / name).read_bytes() for name in made)
    assert site.gpuheal("rules", "build", folder=tmp_path).returncode == 2, "without a checkout --out has no default"


def test_the_lab_completes_the_command(wheels: dict[str, Path], tmp_path: Path) -> None:
    """With both wheels demo, sim and mutate answer, and the promtool cases are made as they are committed."""
    site = Site(tmp_path / "venv")
    for name in ("gpuheal", "gpuheal_lab"):
        site.install(wheels[name])
    for command in (["demo"], ["sim"], ["rules", "mutate"]):
        assert site.gpuheal(*command, "--help", folder=tmp_path).returncode == 0
    checked = site.gpuheal("rules", "check", "--out", str(ROOT / "rules"), folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
