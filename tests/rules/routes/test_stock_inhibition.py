"""kube-prometheus-stack's own inhibition on a real Alertmanager: it would mute our alerts, with our values it does not.

Each test has its counterpart with the chart's untouched rules, so that one sees the danger was real.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.rules.routes.conftest import HEARTBEAT, Start, alert
from tests.rules.routes.webhook import Webhook

from gpuheal_lab.servers.stack import Alertmanager, wait_for
from gpuheal_rules.routes.operatorconfig import STOCK_INHIBITION

pytestmark = pytest.mark.servers

# The rule InfoInhibitor of kube-prometheus fires per namespace in which alerts of severity info fire and nothing worse.
INFO_INHIBITOR = alert("InfoInhibitor", node="", fault="", scope="", cluster="", severity="none")
FOREIGN_INFO = alert("CPUThrottlingHigh", node="", fault="", scope="", cluster="", severity="info")
FOREIGN_CRITICAL = alert("GPURowRemapPending", node="other", fault="", scope="", cluster="", severity="critical")
FORMS = ("values", "object")


def untouched(config: dict[str, Any]) -> None:
    """The chart's inhibition as it comes."""
    config["inhibit_rules"] = [dict(rule) for rule in STOCK_INHIBITION]


def state(manager: Alertmanager, name: str, node: str = "") -> str:
    """active or suppressed, as the API says at this moment; "" for an alert it does not know yet."""
    for found in manager.alerts():
        if found["labels"]["alertname"] == name and found["labels"].get("node", "") == node:
            return str(found["status"]["state"])
    return ""


def settled(manager: Alertmanager, *wanted: tuple[str, str, str]) -> None:
    """Waits until every (alert, node) has the given state."""
    wait_for(
        lambda: all(state(manager, name, node) == expected for name, node, expected in wanted),
        f"{wanted}; it is {[(name, node, state(manager, name, node)) for name, node, _ in wanted]}",
        deadline_s=10,
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_info_inhibitor_does_not_mute_the_heartbeat(form: str, start: Start, webhook: Webhook) -> None:
    """InfoInhibitor of our namespace mutes others' info alerts there; the heartbeat stays active and keeps coming."""
    manager = start(form)
    manager.post_alerts([INFO_INHIBITOR, FOREIGN_INFO])
    settled(manager, ("CPUThrottlingHigh", "", "suppressed"), ("InfoInhibitor", "", "suppressed"))
    manager.post_alerts([HEARTBEAT])
    settled(manager, ("GPUHealWatchdog", "", "active"))
    wait_for(lambda: len(webhook.accepted("/responder")) >= 3, "three beats")


@pytest.mark.parametrize("form", FORMS)
def test_untouched_the_info_inhibitor_mutes_the_heartbeat(form: str, start: Start, webhook: Webhook) -> None:
    """With the chart's rules as they come the heartbeat is suppressed and never arrives: our change is needed."""
    manager = start(form, edit=untouched)
    manager.post_alerts([INFO_INHIBITOR])
    settled(manager, ("InfoInhibitor", "", "active"))
    manager.post_alerts([HEARTBEAT, alert("GPUFellOffBus")])
    settled(manager, ("GPUHealWatchdog", "", "suppressed"))
    wait_for(lambda: webhook.accepted("/responder"), "another alert")
    assert {name for delivery in webhook.accepted("/") for name in delivery.names} == {"GPUFellOffBus"}


@pytest.mark.parametrize("form", FORMS)
def test_a_critical_alert_elsewhere_does_not_mute_a_warning_of_ours(form: str, start: Start, webhook: Webhook) -> None:
    """Equal namespace and alertname inhibit across nodes in the stock rules; our warning is told nevertheless."""
    manager = start(form)
    manager.post_alerts([FOREIGN_CRITICAL])
    settled(manager, ("GPURowRemapPending", "other", "active"))
    manager.post_alerts(
        [alert("GPURowRemapPending", severity="warning"), alert("GPURowRemapPending", "n2", severity="info")]
    )
    settled(manager, ("GPURowRemapPending", "n1", "active"), ("GPURowRemapPending", "n2", "active"))
    wait_for(lambda: len({node for d in webhook.accepted("/responder") for node in d.nodes}) == 2, "both nodes")


@pytest.mark.parametrize("form", FORMS)
def test_untouched_a_critical_alert_elsewhere_mutes_ours(form: str, start: Start) -> None:
    """With the chart's rules as they come a critical alert of another node suppresses warnings of the same name."""
    manager = start(form, edit=untouched)
    manager.post_alerts([FOREIGN_CRITICAL])
    settled(manager, ("GPURowRemapPending", "other", "active"))
    manager.post_alerts([alert("GPURowRemapPending", severity="warning")])
    settled(manager, ("GPURowRemapPending", "n1", "suppressed"))


def test_others_are_still_inhibited_as_before(start: Start) -> None:
    """Taking our alerts out leaves the chart's inhibition of everyone else's alerts as it was."""
    manager = start("values")
    critical = alert("KubePodNotReady", node="", fault="", scope="", cluster="", severity="critical")
    warning = {**critical, "labels": {**critical["labels"], "severity": "warning", "pod": "p"}}
    manager.post_alerts([critical])
    settled(manager, ("KubePodNotReady", "", "active"))
    manager.post_alerts([warning])
    wait_for(
        lambda: sorted(str(found["status"]["state"]) for found in manager.alerts()) == ["active", "suppressed"],
        "the warning to be suppressed",
    )


def test_our_own_alertmanager_mutes_nothing_even_with_the_stack_around(start: Start) -> None:
    """In the own form all severities of one name and an InfoInhibitor leave every alert active."""
    manager = start("own")
    ours = [
        alert("GPUFellOffBus", f"n{i}", severity=severity) for i, severity in enumerate(("critical", "warning", "info"))
    ]
    manager.post_alerts([INFO_INHIBITOR, *ours, HEARTBEAT])
    settled(manager, *((("GPUFellOffBus", f"n{i}", "active")) for i in range(3)), ("GPUHealWatchdog", "", "active"))
