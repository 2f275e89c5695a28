"""The API server's refusals in the project's own words."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from gpuheal_responder.errors import ActionError, ConfigError, ObserveError, Permanent, Transient
from gpuheal_responder.shell.kube.api import ApiError, Cause, changing, connect, reading

SECONDS = timedelta(seconds=9)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (0, Transient, "api-unavailable"),
        (400, Permanent, "rejected"),
        (401, Transient, "api-unavailable"),
        (403, Permanent, "forbidden"),
        (404, Permanent, "not-found"),
        (409, Transient, "conflict"),
        (413, Permanent, "rejected"),
        (422, Permanent, "rejected"),
        (429, Transient, "throttled"),
        (500, Transient, "api-unavailable"),
        (504, Transient, "api-unavailable"),
    ],
)
def test_every_status_says_who_must_act(status: int, kind: type[ActionError], reason: str) -> None:
    """What time heals is Transient, what people must look at is Permanent, and each has its slug."""
    with pytest.raises(kind) as caught, changing("mark of node n"):
        raise ApiError(status, "Reason", "words")
    assert caught.value.reason == reason
    assert "mark of node n" in str(caught.value)
    assert "words" in str(caught.value)


def test_the_servers_own_pause_is_obeyed() -> None:
    """Retry-After becomes the time after which a throttled step is tried again."""
    with pytest.raises(Transient) as caught, changing("x"):
        raise ApiError(429, "TooManyRequests", "slow down", retry_after=SECONDS)
    assert caught.value.retry_in == SECONDS


def test_reading_that_fails_is_not_seeing() -> None:
    """Any refusal while reading is an ObserveError that names kubernetes and what was asked."""
    with pytest.raises(ObserveError) as caught, reading("node n"):
        raise ApiError(500, "InternalError", "words")
    assert caught.value.source == "kubernetes"
    assert "node n" in caught.value.problem


def test_causes_are_found_by_reason() -> None:
    """The first cause of a reason is returned, or None."""
    problem = ApiError(429, "TooManyRequests", "m", (Cause("A", "1"), Cause("B", "2"), Cause("B", "3")))
    found = problem.cause("B")
    assert found is not None
    assert found.message == "2"
    assert problem.cause("C") is None


@pytest.mark.parametrize("text", ["", "not: a kubeconfig", "{{"])
async def test_a_kubeconfig_of_no_use_is_named(tmp_path: Path, text: str) -> None:
    """A missing, empty or broken kubeconfig is a ConfigError that names the file."""
    path = tmp_path / "config"
    if text:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        await connect(path)
    assert caught.value.file == str(path)


async def test_outside_a_pod_without_kubeconfig_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kubeconfig and no service account: a ConfigError, not a connection to nowhere."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="in-cluster"):
        await connect(None)
