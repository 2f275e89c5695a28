"""What the images install is pinned, content and all, and nothing known to be dangerous is allowed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
LOCKS = ("responder", "exporter")
NEEDED = [Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
FLOORS = {
    "aiohttp": ("3.13.3", "request smuggling and zip bombs: CVE-2025-53643, CVE-2025-69223 and its siblings"),
    "h2": ("4.3", "request splitting: CVE-2025-57804"),
    "jinja2": ("3.1.6", "ways out of the sandbox: CVE-2024-56326, CVE-2025-27516"),
}
"""The first versions in which holes are closed that a stranger could reach."""


def entries(name: str) -> dict[str, tuple[Version, list[str]]]:
    """Return version and hashes of each package of a lock."""
    text = (DOCKER / f"{name}.lock").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    found = {}
    for block in blocks:
        pin = re.match(r"([a-z0-9.-]+)==([^ ;\\]+)", block)
        if pin:
            found[pin[1]] = (Version(pin[2]), re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_versions_and_contents_and_names_no_place(name: str) -> None:
    """Each package has one version and a hash per file; no index, folder or option of the machine that made it."""
    lines = (DOCKER / f"{name}.lock").read_text().splitlines()
    assert re.fullmatch(r"# Made by `make lock` on \d{4}-\d\d-\d\d", lines[0])
    assert [line for line in lines[1:] if line and not re.match(r"[a-z0-9.-]+==\S+ |    --hash=sha256:", line)] == []
    assert all(hashes for _, hashes in entries(name).values())


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """Each dependency is in the responder's lock at a version that it allows; the exporter's is a part of it."""
    responder, exporter = entries("responder"), entries("exporter")
    for need in NEEDED:
        assert need.specifier.contains(responder[need.name.lower()][0]), f"{need}: run `make lock`"
    wanted = {line.strip() for line in (DOCKER / "exporter.in").read_text().splitlines() if not line.startswith("#")}
    assert wanted <= exporter.keys()
    assert {name: pin for name, (pin, _) in exporter.items()}.items() <= {
        n: p for n, (p, _) in responder.items()
    }.items()


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_no_version_with_a_known_hole_is_allowed(package: str) -> None:
    """The project asks for the version that closed it or a later one, and says why."""
    floor, why = FLOORS[package]
    (need,) = (need for need in NEEDED if need.name == package)
    assert str(need.specifier) == f">={floor}"
    assert why in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", LOCKS)
def test_the_image_installs_the_lock(name: str) -> None:
    """It takes nothing that is not in its lock: hashes are required, and our own package brings no dependencies."""
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    installs = re.findall(r"pip (?:--python \S+ )?install (.*?)(?= \\|$)", text, re.MULTILINE)
    assert [line.removeprefix("--no-cache-dir --no-compile ") for line in installs] == [
        f"--require-hashes -r {name}.lock",
        "--no-deps /dist/*.whl",
    ]
