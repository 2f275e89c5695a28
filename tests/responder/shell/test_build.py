"""Which API server is meant, when nobody says so on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuheal_responder.shell import build

HOME = Path.home() / ".kube" / "config"


@pytest.mark.parametrize(
    ("chosen", "service", "account", "expected"),
    [
        ("/a/config", "10.0.0.1", True, Path("/a/config")),
        ("/a/config", "", False, Path("/a/config")),
        ("", "10.0.0.1", True, None),
        ("", "", True, HOME),
        ("", "10.0.0.1", False, HOME),
        ("", "", False, HOME),
    ],
    ids=["chosen in a pod", "chosen", "in a pod", "a token that lies about", "a pod without token", "at home"],
)
def test_a_chosen_kubeconfig_wins_over_the_pods_own_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str, service: str, account: bool, expected: Path | None
) -> None:
    """$KUBECONFIG is what a person means, also where a token is mounted; the account counts in a pod only."""
    token = tmp_path / "token"
    if account:
        token.write_text("t")
    monkeypatch.setattr(build, "IN_CLUSTER", token)
    monkeypatch.setenv("KUBECONFIG", chosen)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", service)
    assert build.default_kubeconfig() == expected
