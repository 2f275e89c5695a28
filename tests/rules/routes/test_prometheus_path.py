"""The generated alerts on their whole way: a real Prometheus evaluates them, a real Alertmanager routes them.

The rules are rendered with intervals of a second; everything else is what a site loads.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
import yaml
from tests.rules.routes.conftest import Start
from tests.rules.routes.test_behaviour import beats
from tests.rules.routes.webhook import Webhook

from gpuheal_lab.servers.stack import Prometheus, Stack, prometheus_config, wait_for
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.render import build_groups, rule_file

pytestmark = pytest.mark.servers

SECOND = timedelta(seconds=1)


def rules(*names: str) -> str:
    """The generated rules with only these alerts, evaluated every second."""
    options = Options(scrape_interval=SECOND, interval=SECOND, slow_interval=SECOND)
    data = yaml.safe_load(rule_file(build_groups(load_catalogue(), options)))
    for group in data["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") in names]
    data["groups"] = [group for group in data["groups"] if group["rules"]]
    return str(yaml.safe_dump(data))


def prometheus(stack: Stack, address: str, *names: str, name: str = "prometheus", cluster: str = "c1") -> Prometheus:
    """A Prometheus that evaluates these alerts and sends them on."""
    return stack.prometheus(
        config=prometheus_config(alertmanagers=[address], external_labels={"cluster": cluster}),
        rules={"gpuheal.yml": rules(*names)},
        flags=["--rules.alert.resend-delay=1s"],
        name=name,
    )


def test_the_generated_heartbeat_travels_and_stops_with_prometheus(
    stack: Stack, start: Start, webhook: Webhook
) -> None:
    """GPUHealWatchdog beats at responder and dead man; killing Prometheus ends it within seconds, at both."""
    manager = start()
    server = prometheus(stack, manager.address, "GPUHealWatchdog")
    for path in ("/responder", "/deadman"):
        wait_for(lambda path=path: len(beats(webhook, path)) >= 3, "three beats")  # type: ignore[misc]
    server.kill()
    # Prometheus gave its alert an end of four resend delays ahead (rules/alerting.go), so it expires by itself.
    wait_for(lambda: manager.alerts() == [], "the heartbeat to expire")
    counted = len(beats(webhook, "/deadman")), len(beats(webhook, "/responder"))
    wait_for(lambda: manager.get("/api/v2/alerts/groups") == [], "its group to be gone")
    assert counted == (len(beats(webhook, "/deadman")), len(beats(webhook, "/responder")))
    server.start()
    wait_for(lambda: len(beats(webhook, "/deadman")) > counted[0], "the heartbeat to come back")


def test_each_prometheus_has_a_heartbeat_of_its_own(stack: Stack, start: Start, webhook: Webhook) -> None:
    """Of two Prometheus servers one is killed: its beats end, the other's go on, and they can be told apart."""
    manager = start()
    prometheus(stack, manager.address, "GPUHealWatchdog")
    other = prometheus(stack, manager.address, "GPUHealWatchdog", name="other", cluster="c2")

    def clusters(since: int) -> set[str]:
        return {delivery.body["commonLabels"]["cluster"] for delivery in webhook.accepted("/deadman")[since:]}

    wait_for(lambda: clusters(0) == {"c1", "c2"}, "both to beat")
    other.kill()
    wait_for(lambda: len(manager.alerts()) == 1, "the other's alert to expire")
    seen = len(webhook.accepted("/deadman"))
    wait_for(lambda: len(webhook.accepted("/deadman")) >= seen + 3, "three more beats")
    assert clusters(seen + 1) == {"c1"}


def test_the_generated_heartbeat_survives_the_stock_inhibition(stack: Stack, start: Start, webhook: Webhook) -> None:
    """In kube-prometheus-stack's configuration with our values, beside its InfoInhibitor, the heartbeat arrives."""
    manager = start("values")
    server = stack.prometheus(
        config=prometheus_config(alertmanagers=[manager.address], external_labels={"cluster": "c1"}),
        rules={"gpuheal.yml": rules("GPUHealWatchdog"), "stack.yml": INFO_INHIBITOR},
        flags=["--rules.alert.resend-delay=1s"],
    )
    wait_for(lambda: any(alert["labels"]["alertname"] == "InfoInhibitor" for alert in server.alerts()), "InfoInhibitor")
    before = len(beats(webhook, "/responder"))
    wait_for(lambda: len(beats(webhook, "/responder")) >= before + 3, "three beats beside it")


# What kube-prometheus' rule does, written anew: per namespace with info alerts and nothing worse that fires.
INFO_INHIBITOR = """
groups:
  - name: general
    interval: 1s
    rules:
      - alert: InfoInhibitor
        expr: >-
          ALERTS{severity="info"} == 1
            unless on (namespace)
            ALERTS{alertname!="InfoInhibitor", alertstate="firing", severity=~"warning|critical"} == 1
        labels:
          severity: none
"""
