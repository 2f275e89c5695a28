"""What actions of tests share: a line in the registry for the length of a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpuheal_responder.actions import REGISTRY, SPECS
from gpuheal_responder.actions.action import Action


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[Action], None]:
    """Return what adds an action to the registry until the test ends."""

    def add(action: Action) -> None:
        monkeypatch.setitem(REGISTRY, action.spec.name, action)  # type: ignore[arg-type]
        monkeypatch.setitem(SPECS, action.spec.name, action.spec)  # type: ignore[arg-type]

    return add
