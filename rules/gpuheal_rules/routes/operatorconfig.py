"""The same routes where prometheus-operator owns Alertmanager: chart values and an AlertmanagerConfig object.

What has to be known about the surroundings:

* kube-prometheus-stack's stock configuration inhibits by `namespace` and `alertname`, and its InfoInhibitor mutes every
  alert of severity info in a namespace where nothing worse fires (values.yaml of the chart, rule InfoInhibitor of
  kube-prometheus). Our heartbeat is such an alert and would be mute exactly while all is well. So the values carry the
  stock inhibition with gpuheal's alerts taken out (`fault = ""` on every target).
* Helm merges maps and replaces lists: a list in our values repeats what the chart has in it.
* The operator puts an AlertmanagerConfig's route before the others, adds `namespace="<its own>"` and `continue: true`
  (pkg/alertmanager/amcfg.go, namespaceEnforcer and continueToNextRoute), and cannot change the site's inhibition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuheal_rules.routes.alertmanager import (
    DEADMAN_RECEIVER,
    HEADER,
    WATCHDOG_ALERT,
    AlertmanagerParams,
    dump,
    people_note,
    receivers,
    render_config,
    routes,
)

TOKEN_SECRET = "gpuheal-webhook-token"  # noqa: S105  # the name of a Secret, not one
TOKEN_KEY = "token"  # noqa: S105
OWN_TOKEN_FILE = "/etc/alertmanager/gpuheal-token"  # noqa: S105
NULL_RECEIVER = "null"
NOTHING_RECEIVER = "gpuheal-nothing"

DEFAULT_PARAMS = AlertmanagerParams(
    webhook_url="http://gpuheal-responder.gpuheal.svc:9940/webhook",
    bearer_token_file=f"/etc/alertmanager/secrets/{TOKEN_SECRET}/{TOKEN_KEY}",
)
"""Names of a default installation; the operator mounts Secrets under /etc/alertmanager/secrets/."""

# kube-prometheus-stack, charts/kube-prometheus-stack/values.yaml, alertmanager.config.inhibit_rules (2021-11 to 2026).
STOCK_INHIBITION: tuple[Mapping[str, Any], ...] = (
    {
        "source_matchers": ["severity = critical"],
        "target_matchers": ["severity =~ warning|info"],
        "equal": ["namespace", "alertname"],
    },
    {
        "source_matchers": ["severity = warning"],
        "target_matchers": ["severity = info"],
        "equal": ["namespace", "alertname"],
    },
    {
        "source_matchers": ["alertname = InfoInhibitor"],
        "target_matchers": ["severity = info"],
        "equal": ["namespace"],
    },
    {"target_matchers": ["alertname = InfoInhibitor"]},
)
STOCK_ROUTES: tuple[Mapping[str, Any], ...] = ({"receiver": NULL_RECEIVER, "matchers": ['alertname = "Watchdog"']},)

VALUES_HEADER = f"""\
{HEADER}#
# Values for kube-prometheus-stack: helm upgrade … -f kube-prometheus-stack.values.yaml
# Helm replaces lists: routes, receivers and inhibit_rules below include the chart's own entries; add yours to them.
# Webhook token of the responder: kubectl create secret generic {TOKEN_SECRET} --from-literal={TOKEN_KEY}=…
"""

INHIBITION_HEADER = f"""\
{HEADER}#
# For use with the AlertmanagerConfig object on kube-prometheus-stack: the chart's inhibition rules, with gpuheal's
# alerts excluded. Without it, InfoInhibitor mutes the heartbeat while no other alert fires.
"""

OBJECT_HEADER = f"""\
{HEADER}#
# For clusters whose Alertmanager is configured through objects. Create it in the namespace that gpuheal's alerts
# have in their `namespace` label, and make sure that alertmanagerConfigSelector selects it.
# Your own routes notify people: the operator sets `continue` on this one. An alert that matches here
# does not also reach the receiver of your root route; add a route for gpuheal's alerts there, and
# before it one that drops {WATCHDOG_ALERT}.
# On kube-prometheus-stack also apply kube-prometheus-stack.inhibition.values.yaml.
"""


def inhibition() -> list[dict[str, Any]]:
    """The stock inhibition that never mutes an alert of gpuheal; everyone else's alerts are treated as before."""
    rules: list[dict[str, Any]] = []
    for rule in STOCK_INHIBITION:
        targets = list(rule["target_matchers"])
        if "alertname = InfoInhibitor" not in targets:
            targets.append('fault = ""')
        rules.append({**rule, "target_matchers": targets})
    return rules


def values(params: AlertmanagerParams) -> dict[str, Any]:
    """Values for kube-prometheus-stack: our routes before the chart's, its receivers, and its inhibition without us."""
    return {
        "alertmanager": {
            "alertmanagerSpec": {"secrets": [TOKEN_SECRET]},
            "config": {
                "inhibit_rules": inhibition(),
                "route": {"routes": [*routes(params), *(dict(route) for route in STOCK_ROUTES)]},
                "receivers": [*receivers(params), {"name": NULL_RECEIVER}],
            },
        }
    }


def render_values(params: AlertmanagerParams) -> str:
    """The values as a file."""
    return VALUES_HEADER + people_note(params) + dump(values(params))


def render_inhibition() -> str:
    """The values that only take gpuheal's alerts out of the stock inhibition."""
    return INHIBITION_HEADER + dump({"alertmanager": {"config": {"inhibit_rules": inhibition()}}})


def _matcher(text: str) -> dict[str, str]:
    """A matcher such as `alertname!~"A|B"` in the object's spelling."""
    for sign in ("!~", "=~", "!=", "="):
        name, found, value = text.partition(sign)
        if found and name.isidentifier():
            return {"name": name, "value": value.strip('"'), "matchType": sign}
    raise ValueError(f"not a matcher: {text!r}")


def _route(route: Mapping[str, Any]) -> dict[str, Any]:
    """A route in the object's spelling; children go along."""
    names = {"group_by": "groupBy", "group_wait": "groupWait", "group_interval": "groupInterval"}
    names |= {"repeat_interval": "repeatInterval", "receiver": "receiver", "continue": "continue"}
    found: dict[str, Any] = {}
    for key, value in route.items():
        if key == "matchers":
            # The operator adds the namespace itself.
            found["matchers"] = [_matcher(text) for text in value if not text.startswith("namespace=")]
        elif key == "routes":
            found["routes"] = [_route(child) for child in value]
        else:
            found[names[key]] = value
    return found


def _receiver(receiver: Mapping[str, Any], params: AlertmanagerParams) -> dict[str, Any]:
    """One of our receivers in the object's spelling; the token comes from a Secret beside the object."""
    hooks = []
    for hook in receiver["webhook_configs"]:
        http: dict[str, Any] = {"followRedirects": False}
        if receiver["name"] != DEADMAN_RECEIVER and params.bearer_token_file is not None:
            http["authorization"] = {"type": "Bearer", "credentials": {"name": TOKEN_SECRET, "key": TOKEN_KEY}}
        hooks.append({"url": hook["url"], "sendResolved": hook["send_resolved"], "maxAlerts": 0, "httpConfig": http})
    return {"name": receiver["name"], "webhookConfigs": hooks}


def alertmanager_config(params: AlertmanagerParams, name: str = "gpuheal") -> dict[str, Any]:
    """An AlertmanagerConfig (v1alpha1, which every operator since 0.43 serves) with our routes, without people's.

    Files of TLS settings have no place in an object: ValueError when params name some.
    """
    if params.ca_file or params.cert_file:
        raise ValueError("ca_file, cert_file: an AlertmanagerConfig references certificates in Secrets, not files")
    ours = [route for route in routes(params) if route["receiver"] != params.people_receiver]
    hooked = [receiver for receiver in receivers(params) if receiver["name"] != params.people_receiver]
    return {
        "apiVersion": "monitoring.coreos.com/v1alpha1",
        "kind": "AlertmanagerConfig",
        "metadata": {
            "name": name,
            "namespace": params.namespace,
            "labels": {"app.kubernetes.io/name": "gpuheal", "app.kubernetes.io/component": "alertmanager-config"},
        },
        "spec": {
            # The root takes what none of our routes wants, and does nothing with it.
            "route": {"receiver": NOTHING_RECEIVER, "routes": [_route(route) for route in ours]},
            "receivers": [{"name": NOTHING_RECEIVER}, *(_receiver(receiver, params) for receiver in hooked)],
        },
    }


def render_object(params: AlertmanagerParams) -> str:
    """The AlertmanagerConfig as a file."""
    return OBJECT_HEADER + dump(alertmanager_config(params))


def generated(params: AlertmanagerParams = DEFAULT_PARAMS) -> dict[str, str]:
    """File name → text of everything that belongs into rules/generated/alertmanager/; equal params give equal bytes."""
    own = replace(params, bearer_token_file=OWN_TOKEN_FILE)
    return {
        "alertmanager.yml": render_config(own),
        "alertmanagerconfig.yaml": render_object(params),
        "kube-prometheus-stack.inhibition.values.yaml": render_inhibition(),
        "kube-prometheus-stack.values.yaml": render_values(params),
    }
