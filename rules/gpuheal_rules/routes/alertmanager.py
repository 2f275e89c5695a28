"""The Alertmanager configuration that carries gpuheal's alerts to the responder, as plain data and as YAML.

One route tree serves every form (own Alertmanager here; kube-prometheus-stack values and AlertmanagerConfig objects in
`operatorconfig`). Its shape follows from what Alertmanager does, not from taste:

* the responder has a receiver of its own: one failing integration fails the whole flush of a receiver (notify.go);
* groups are per node (`cluster`, `node`), so a body stays small and nodes never wait for each other;
* critical alerts leave at once (`group_wait: 0s`), the rest gathers for a moment;
* `max_alerts: 0`: truncated alerts count as notified and would never come again (nflog);
* no inhibition: it works on all receivers alike, so a rule meant to spare people would blind the responder;
* the heartbeat's repeat_interval is below its group_interval: when they are equal, the notification log (written after
  the tick) makes every second beat fall out (prometheus/alertmanager#676, #4502).

Only keys that Alertmanager 0.25 knows are used (no url_file, timeout, payload), so one file serves 0.25 and later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import yaml

RESPONDER_RECEIVER = "gpuheal-responder"
WATCHDOG_RECEIVER = "gpuheal-watchdog"
DEADMAN_RECEIVER = "gpuheal-deadman"
WATCHDOG_ALERT = "GPUHealWatchdog"

# The responder's own state, told to people; back to the responder they would be alerts about its own work.
PEOPLE_ONLY_ALERTS = (
    "GPUHealActionPending",
    "GPUHealCordonBudget",
    "GPUHealEscalated",
    "GPUHealEscalatedForDays",
    "GPUHealHeld",
    "GPUHealIncident",
    "GPUHealNoLeader",
    "GPUHealPolicyMissing",
    "GPUHealRoundsFail",
    "GPUHealStaleCase",
    "GPUHealUnreadableCase",
    "GPUHealUnreadableUndo",
    "GPUHealWritesRefused",
)

HEADER = """\
# Made by `gpuheal rules build` from rules/gpuheal_rules/routes/alertmanager.py; edit that, not this.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertmanagerParams:
    """What a site decides about the way from Alertmanager to the responder; everything else is fixed by the contract.

    Raises ValueError when a value would make alerts or heartbeats go missing.
    """

    webhook_url: str
    """Where the responder listens, scheme http or https, for example https://gpuheal.gpuheal.svc:8443/webhook."""

    bearer_token_file: str | None = None
    """File on the Alertmanager's machine with the token the responder expects; re-read by Alertmanager per request."""

    ca_file: str | None = None
    """CA that signed the responder's certificate; None = the system's."""

    cert_file: str | None = None
    """Client certificate for mTLS; needs key_file."""

    key_file: str | None = None
    """Key of cert_file."""

    namespace: str = "gpuheal"
    """The static `namespace` label of all gpuheal alerts."""

    group_wait: timedelta = timedelta(seconds=5)
    """How long the first alerts of a node are gathered when none of them is critical."""

    critical_group_wait: timedelta = timedelta(0)
    """The same for critical alerts; zero = at once."""

    group_interval: timedelta = timedelta(seconds=10)
    """How long a further alert of the same node waits; also the deadline of one flush (at least 10 s)."""

    repeat_interval: timedelta = timedelta(hours=1)
    """When unchanged alerts are sent again. Notification memory lasts twice this, and a resolve after that is lost."""

    heartbeat_group_interval: timedelta = timedelta(seconds=30)
    """The beat of the watchdog as the responder sees it."""

    heartbeat_repeat_interval: timedelta = timedelta(seconds=25)
    """Must be below heartbeat_group_interval, else every second beat falls out."""

    deadman_url: str | None = None
    """An outside dead-man service that pages when the watchdog stops; None = only the responder pings one."""

    people_receiver: str = "people"
    """Name of the receiver people read."""

    people_config: Mapping[str, Any] = field(default_factory=dict)
    """Body of that receiver (slack_configs, webhook_configs, …) without its name."""

    people_group_wait: timedelta = timedelta(seconds=30)
    people_group_interval: timedelta = timedelta(minutes=5)
    people_repeat_interval: timedelta = timedelta(hours=4)

    people_only_alerts: tuple[str, ...] = PEOPLE_ONLY_ALERTS
    """Alertnames the responder is not woken by."""

    def __post_init__(self) -> None:
        for name, url in (("webhook_url", self.webhook_url), ("deadman_url", self.deadman_url)):
            if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
                raise ValueError(f"{name}: {url!r} is not an http or https URL with a host")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file: must be set together")
        if self.heartbeat_repeat_interval >= self.heartbeat_group_interval:
            raise ValueError(
                "heartbeat_repeat_interval: must be less than heartbeat_group_interval, else heartbeats drop out"
            )
        for name in ("group_interval", "repeat_interval", "heartbeat_repeat_interval"):
            if getattr(self, name) <= timedelta(0):
                raise ValueError(f"{name}: must be greater than 0s")
        if self.people_receiver in {RESPONDER_RECEIVER, WATCHDOG_RECEIVER, DEADMAN_RECEIVER, ""}:
            raise ValueError(f"people_receiver: {self.people_receiver!r} is a receiver of gpuheal; use another name")


def duration(span: timedelta) -> str:
    """The span in Prometheus' notation, in the largest unit that divides it (`90s`, `1h`, `500ms`)."""
    millis = round(span.total_seconds() * 1000)
    if millis == 0:
        return "0s"
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if millis % size == 0:
            return f"{millis // size}{unit}"
    return f"{millis}ms"


def webhook(params: AlertmanagerParams) -> dict[str, Any]:
    """One entry of `webhook_configs` for the responder: every alert, also resolved ones, and never along a redirect."""
    http: dict[str, Any] = {"follow_redirects": False}
    if params.bearer_token_file is not None:
        http["authorization"] = {"type": "Bearer", "credentials_file": params.bearer_token_file}
    tls = {
        key: value
        for key, value in (("ca_file", params.ca_file), ("cert_file", params.cert_file), ("key_file", params.key_file))
        if value is not None
    }
    if tls:
        http["tls_config"] = tls
    return {"url": params.webhook_url, "send_resolved": True, "max_alerts": 0, "http_config": http}


def own_matchers(params: AlertmanagerParams) -> list[str]:
    """Matchers that select gpuheal's alerts and nobody else's."""
    return [f'namespace="{params.namespace}"', 'fault!=""']


def routes(params: AlertmanagerParams) -> list[dict[str, Any]]:
    """gpuheal's routes in order: heartbeat, responder (falls through), people; to be put before any other route."""
    heartbeat: dict[str, Any] = {
        # Every Prometheus replica and shard beats on its own, so each alert is its own group.
        "group_by": ["..."],
        "group_wait": "0s",
        "group_interval": duration(params.heartbeat_group_interval),
        "repeat_interval": duration(params.heartbeat_repeat_interval),
    }
    watchdog = [f'namespace="{params.namespace}"', f'alertname="{WATCHDOG_ALERT}"']
    tree: list[dict[str, Any]] = []
    if params.deadman_url is not None:
        tree.append({"receiver": DEADMAN_RECEIVER, "matchers": watchdog, **heartbeat, "continue": True})
    tree.append({"receiver": WATCHDOG_RECEIVER, "matchers": list(watchdog), **heartbeat})
    for_responder = own_matchers(params)
    if params.people_only_alerts:
        for_responder.append(f'alertname!~"{"|".join(params.people_only_alerts)}"')
    tree.append(
        {
            "receiver": RESPONDER_RECEIVER,
            "matchers": for_responder,
            "group_by": ["cluster", "node"],
            "group_wait": duration(params.group_wait),
            "group_interval": duration(params.group_interval),
            "repeat_interval": duration(params.repeat_interval),
            "continue": True,
            "routes": [{"matchers": ['severity="critical"'], "group_wait": duration(params.critical_group_wait)}],
        }
    )
    tree.append(
        {
            # Named, because a route that matched with `continue` never falls back to the root's receiver.
            "receiver": params.people_receiver,
            # What is only info is for dashboards and the responder; nobody is called for it.
            "matchers": [*own_matchers(params), 'severity=~"critical|warning"'],
            "group_by": ["cluster", "node", "fault"],
            "group_wait": duration(params.people_group_wait),
            "group_interval": duration(params.people_group_interval),
            "repeat_interval": duration(params.people_repeat_interval),
        }
    )
    return tree


def receivers(params: AlertmanagerParams) -> list[dict[str, Any]]:
    """The receivers that `routes` names, people's included."""
    found: list[dict[str, Any]] = [
        {"name": RESPONDER_RECEIVER, "webhook_configs": [webhook(params)]},
        {"name": WATCHDOG_RECEIVER, "webhook_configs": [{**webhook(params), "send_resolved": False}]},
    ]
    if params.deadman_url is not None:
        deadman = {"url": params.deadman_url, "send_resolved": False, "max_alerts": 0}
        found.append({"name": DEADMAN_RECEIVER, "webhook_configs": [deadman]})
    found.append({"name": params.people_receiver, **params.people_config})
    return found


def own_config(params: AlertmanagerParams) -> dict[str, Any]:
    """A whole Alertmanager configuration for an Alertmanager that serves gpuheal."""
    return {
        "global": {"resolve_timeout": "5m"},
        "route": {
            "receiver": params.people_receiver,
            "group_by": ["cluster", "alertname"],
            "group_wait": duration(params.people_group_wait),
            "group_interval": duration(params.people_group_interval),
            "repeat_interval": duration(params.people_repeat_interval),
            "routes": routes(params),
        },
        "inhibit_rules": [],
        "receivers": receivers(params),
    }


class PlainDumper(yaml.SafeDumper):
    """Writes lists indented under their key and never uses anchors, so that people can paste parts of it."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def dump(data: Any) -> str:
    """The data as YAML in insertion order, wrapped at 120 columns."""
    return str(yaml.dump(data, Dumper=PlainDumper, sort_keys=False, width=120, allow_unicode=True))


def render_config(params: AlertmanagerParams) -> str:
    """A complete alertmanager.yml for an own Alertmanager, valid on 0.25 and later; equal params give equal bytes."""
    return HEADER + people_note(params) + dump(own_config(params))


def people_note(params: AlertmanagerParams) -> str:
    """A comment that says so while people's receiver is empty, "" once it has a body."""
    if params.people_config:
        return ""
    return (
        f"# Receiver `{params.people_receiver}` is empty: fill it in (slack_configs, …), or nobody is told anything.\n"
    )
