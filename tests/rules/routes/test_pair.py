"""Two Alertmanagers that gossip, with our configuration: nothing is lost when one of them goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.rules.routes.conftest import HEARTBEAT, TOKEN, alert
from tests.rules.routes.forms import final_config
from tests.rules.routes.test_behaviour import beats, names
from tests.rules.routes.webhook import Webhook

from gpuheal_lab.servers.stack import Stack, wait_for
from gpuheal_rules.routes.alertmanager import AlertmanagerParams

pytestmark = pytest.mark.servers


def test_a_pair_tells_what_its_survivor_knows(
    stack: Stack, params: AlertmanagerParams, webhook: Webhook, tmp_path: Path
) -> None:
    """Alerts given to both peers arrive; after one is killed the other still tells new ones and still beats."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    pair = stack.alertmanager_pair(config=yaml.safe_dump(final_config("own", params, token)))
    for peer in pair:
        peer.post_alerts([HEARTBEAT, alert("GPUFellOffBus")])
    wait_for(lambda: "GPUFellOffBus" in names(webhook, "/responder") and beats(webhook, "/responder"), "both alerts")
    pair[0].kill()
    before = len(beats(webhook, "/deadman"))
    pair[1].post_alerts([alert("GPUGSPTimeout", "n2", fault="gpu-gsp-timeout")])
    wait_for(lambda: "GPUGSPTimeout" in names(webhook, "/responder"), "an alert only the survivor has", deadline_s=45)
    wait_for(lambda: len(beats(webhook, "/deadman")) > before, "the survivor to beat", deadline_s=45)
