"""The story is written once per run of the tests, whatever number of processes asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.dashboards.scenes import films
from tests.dashboards.story import blocks


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The blocks of the story."""
    base = tmp_path_factory.getbasetemp()
    return blocks(films(), (base if worker_id == "master" else base.parent) / "story")
