"""What others make of our configuration: Helm's merge, the operator's translation, and the chart's stock configuration.

Written from the documented behaviour, so that the result can be given to a real Alertmanager without Helm and operator.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuheal_rules.routes.operatorconfig import STOCK_INHIBITION, TOKEN_KEY

# kube-prometheus-stack's alertmanager.config as in the chart's values.yaml; templates are left out, they are files of
# the Alertmanager's pod.
STOCK: dict[str, Any] = {
    "global": {"resolve_timeout": "5m"},
    "inhibit_rules": [dict(rule) for rule in STOCK_INHIBITION],
    "route": {
        "group_by": ["namespace"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "12h",
        "receiver": "null",
        "routes": [{"receiver": "null", "matchers": ['alertname = "Watchdog"']}],
    },
    "receivers": [{"name": "null"}],
}


def helm_merge(stock: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's values with a user's on top, as Helm does it: maps are merged, everything else is replaced."""
    merged = copy.deepcopy(dict(stock))
    for key, value in values.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, dict)
        merged[key] = helm_merge(below, value) if both and isinstance(below, dict) else copy.deepcopy(value)
    return merged


def operator_translate(
    config: Mapping[str, Any], stock: Mapping[str, Any], secrets: Mapping[str, Path]
) -> dict[str, Any]:
    """Alertmanager's configuration after the operator took in an AlertmanagerConfig.

    Its route comes first with `continue: true` and the namespace's matcher, its receivers get the prefix
    `namespace/name/`; `secrets` stand in for what the operator reads from the cluster.
    """
    namespace, name = config["metadata"]["namespace"], config["metadata"]["name"]
    merged = copy.deepcopy(dict(stock))
    top = _route(config["spec"]["route"], f"{namespace}/{name}/")
    top["matchers"] = [f'namespace="{namespace}"', *top.get("matchers", [])]
    top["continue"] = True
    merged["route"]["routes"] = [top, *merged["route"].get("routes", [])]
    merged["receivers"] += [_receiver(item, f"{namespace}/{name}/", secrets) for item in config["spec"]["receivers"]]
    return merged


def _route(route: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    plain = {
        "groupBy": "group_by",
        "groupWait": "group_wait",
        "groupInterval": "group_interval",
        "repeatInterval": "repeat_interval",
        "continue": "continue",
    }
    found: dict[str, Any] = {plain[key]: value for key, value in route.items() if key in plain}
    if "receiver" in route:
        found["receiver"] = prefix + route["receiver"]
    if "matchers" in route:
        found["matchers"] = [f'{m["name"]}{m["matchType"]}"{m["value"]}"' for m in route["matchers"]]
    if "routes" in route:
        found["routes"] = [_route(child, prefix) for child in route["routes"]]
    return found


def _receiver(receiver: Mapping[str, Any], prefix: str, secrets: Mapping[str, Path]) -> dict[str, Any]:
    hooks = []
    for hook in receiver.get("webhookConfigs", []):
        http: dict[str, Any] = {"follow_redirects": hook["httpConfig"]["followRedirects"]}
        if "authorization" in hook["httpConfig"]:
            reference = hook["httpConfig"]["authorization"]["credentials"]
            assert reference["key"] == TOKEN_KEY
            http["authorization"] = {"type": "Bearer", "credentials": secrets[reference["name"]].read_text().strip()}
        hooks.append(
            {
                "url": hook["url"],
                "send_resolved": hook["sendResolved"],
                "max_alerts": hook["maxAlerts"],
                "http_config": http,
            }
        )
    found: dict[str, Any] = {"name": prefix + receiver["name"]}
    if hooks:
        found["webhook_configs"] = hooks
    return found
