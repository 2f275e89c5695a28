"""Nothing grows beyond what one can take in: modules of at most 400 lines, functions of at most 60."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("responder", "rules", "exporters", "dashboards", "deploy", "tests")
MODULE, FUNCTION = 400, 60


def modules(part: str) -> list[Path]:
    """Return the Python files of a part."""
    return sorted(path for path in (ROOT / part).rglob("*.py") if "__pycache__" not in path.parts)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function's place and its lines, without its decorators: they may hold a table."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(ROOT)} {node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_nothing_is_longer_than_one_can_take_in() -> None:
    """Modules of more than 400 lines hold two things, and so do functions of more than 60, docstring included."""
    found = {part: modules(part) for part in PARTS}
    assert all(found.values())
    every = [path for paths in found.values() for path in paths]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in every}
    long = {name: count for name, count in lines.items() if count > MODULE}
    long |= {place: count for path in every for place, count in functions(path) if count > FUNCTION}
    assert long == {}
