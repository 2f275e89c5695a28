"""The Python examples of the lab's README run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "deploy" / "lab" / "README.md"


def test_python_examples_run() -> None:
    """Every fenced Python block of the README runs to its end, assertions included."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})
