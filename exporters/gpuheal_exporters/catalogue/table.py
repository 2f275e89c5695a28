"""The tab-separated tables that ship with the package."""

from __future__ import annotations

from pathlib import Path

_DATA = Path(__file__).with_name("data")


def rows(name: str) -> list[list[str]]:
    """Return the fields of every row of data/NAME; comment lines begin with `#`."""
    lines = (_DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]
