"""What the images are built from: nothing that a checkout gathers, nothing that moves, nothing that is not used."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
IMAGES = ("responder", "exporter")


def text(image: str) -> str:
    """A Dockerfile, its continued lines joined."""
    return (DOCKER / f"{image}.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def sent(path: str) -> bool:
    """Whether .dockerignore lets a path into the context; the last pattern that matches it or a folder above wins."""
    found = True
    parts = path.split("/")
    above = ["/".join(parts[: index + 1]) for index in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        deep = pattern.startswith("**/")
        names = [name.rpartition("/")[2] for name in above] if deep else above
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
            found = line.startswith("!")
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_all_that_an_image_copies_is_sent(image: str) -> None:
    """Every source of a COPY is there and in the context."""
    sources = [
        word for line in re.findall(r"^COPY (?!--from)(.*)$", text(image), re.MULTILINE) for word in line.split()[:-1]
    ]
    assert len(sources) >= 5
    assert [source for source in sources if not (ROOT / source).exists() or not sent(source)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/HEAD",
        ".venv/bin/python",
        "tests/README.md",
        "responder/gpuheal_responder/__pycache__/app.pyc",
        "rules/gpuheal.egg-info/PKG-INFO",
        ".mypy_cache/x",
        "exporters/gpuheal_exporters/x.pyc",
        "deploy/lab/README.md",
    ],
)
def test_what_a_checkout_gathers_is_not_sent(path: str) -> None:
    """Caches and environments neither travel to the builder nor change what is built."""
    assert not sent(path)


@pytest.mark.parametrize("image", IMAGES)
def test_s23_an_image_holds_nothing_that_installs(image: str) -> None:
    """Packages come by hash only; there is no pip in the environment, nor in the Python below it."""
    build, final = text(image).split("\nFROM ")[-2:]
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", build)
    assert len(installs) == 2
    assert all("--require-hashes" in words or words.strip().endswith("/dist/*.whl") for words in installs)
    assert "venv --without-pip /opt/gpuheal" in build
    assert "pip uninstall" in final
    assert "pip install" not in final
