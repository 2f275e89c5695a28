"""Stories that play on the session's control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.plane import sweep
from tests.integration.story.play import Play, Script

from gpuheal_lab.controlplane.plane import ControlPlane

Playing = Callable[..., Play]


@pytest.fixture
def playing(plane: ControlPlane, tmp_path: Path) -> Iterator[Playing]:
    """`playing(mode="observe", …)` opens a story with these fields of Script; it is closed with the test.

    The responder looks at every node, so nothing of other tests is there when it begins, and nothing of it afterwards.
    """
    opened: list[Play] = []

    def play(**script: object) -> Play:
        made = Play(plane=plane, folder=tmp_path / f"story-{len(opened)}", script=Script(**script))  # type: ignore[arg-type]
        made.folder.mkdir()
        opened.append(made)
        made.open()
        return made

    sweep(plane)
    yield play
    for made in reversed(opened):
        made.close()
    sweep(plane)
