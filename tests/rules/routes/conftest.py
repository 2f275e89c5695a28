"""A running Alertmanager of either generation with one form of our configuration, and a webhook that hears it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.rules.routes.forms import final_config
from tests.rules.routes.webhook import Webhook

from gpuheal_lab.servers.spec import Generation
from gpuheal_lab.servers.stack import Alertmanager, Stack
from gpuheal_rules.routes.alertmanager import AlertmanagerParams

TOKEN = "token-of-the-test"

Start = Callable[..., Alertmanager]


@pytest.fixture(params=list(Generation), ids=lambda generation: str(generation))
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """Servers of one generation; every test that uses it runs on both."""
    with Stack(tmp_path, request.param) as running:
        yield running


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """The receiver of everything: /responder, /people and /deadman tell apart who was meant."""
    with Webhook() as running:
        yield running


@pytest.fixture
def params(webhook: Webhook) -> AlertmanagerParams:
    """Our parameters with intervals for a test: whole seconds instead of minutes."""
    return AlertmanagerParams(
        webhook_url=f"{webhook.url}/responder",
        deadman_url=f"{webhook.url}/deadman",
        group_wait=timedelta(seconds=3),
        group_interval=timedelta(seconds=1),
        heartbeat_group_interval=timedelta(seconds=2),
        heartbeat_repeat_interval=timedelta(seconds=1),
        people_config={"webhook_configs": [{"url": f"{webhook.url}/people"}]},
        people_group_wait=timedelta(0),
        people_group_interval=timedelta(seconds=1),
    )


@pytest.fixture
def start(stack: Stack, params: AlertmanagerParams, tmp_path: Path) -> Start:
    """Starts an Alertmanager with a form; `params` may be changed, `edit` changes the finished configuration."""
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")

    def run(form: str = "own", edit: Callable[[dict[str, Any]], object] | None = None, **change: Any) -> Alertmanager:
        config = final_config(form, replace(params, **change), token)
        if edit is not None:
            edit(config)
        return stack.alertmanager(config=yaml.safe_dump(config, sort_keys=False))

    return run


def alert(name: str, node: str = "n1", **labels: str) -> dict[str, Any]:
    """An alert of ours as Prometheus would send it; a label given as "" is left out."""
    base = {
        "alertname": name,
        "namespace": "gpuheal",
        "cluster": "c1",
        "scope": "gpu",
        "fault": "gpu-fell-off-bus",
        "severity": "critical",
        "node": node,
    }
    return {
        "labels": {key: value for key, value in {**base, **labels}.items() if value},
        "annotations": {"summary": "-"},
    }


HEARTBEAT = alert("GPUHealWatchdog", node="", fault="watchdog", scope="fleet", severity="info", cluster="")
