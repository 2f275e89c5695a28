"""Damaged input of every kind; see fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.responder.fuzz import Fuzz


@pytest.mark.parametrize("seed", range(10))
def test_s03_ten_thousand_damaged_inputs_do_no_harm(tmp_path: Path, seed: int) -> None:
    """10 seeds of 1,000 cases: every parser and file reader gives a value that can be used, or its documented error."""
    fuzz = Fuzz(seed, tmp_path)
    fuzz.run(1_000)
    assert len(fuzz.counts) == len(fuzz.kinds)
