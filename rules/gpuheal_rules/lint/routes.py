"""Checks on Alertmanager configurations: every alert reaches the responder exactly once, and nothing can mute it.

Labels that are not static (node, rack, the site's own) count as "may be anything": a route must not depend on them, and
an inhibition that could hit them counts as a hit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuheal_rules.catalogue.reader import parse_duration
from gpuheal_rules.lint.flow import Flow
from gpuheal_rules.lint.source import Document, Finding, Rule, listed, mapped
from gpuheal_rules.routes.alertmanager import (
    PEOPLE_ONLY_ALERTS,
    RESPONDER_RECEIVER,
    WATCHDOG_ALERT,
    WATCHDOG_RECEIVER,
)

KINDS = ("alertmanager", "values", "object")
DEFAULTS = {"group_wait": "30s", "group_interval": "5m", "repeat_interval": "4h"}
"""Alertmanager's own, when no route says otherwise."""

MATCHER = re.compile(r"""\s*"?([A-Za-z_][A-Za-z0-9_]*)"?\s*(=~|!~|!=|=)\s*(.*?)\s*""")
SNAKE = {
    "groupBy": "group_by",
    "groupWait": "group_wait",
    "groupInterval": "group_interval",
    "repeatInterval": "repeat_interval",
    "webhookConfigs": "webhook_configs",
    "sendResolved": "send_resolved",
    "maxAlerts": "max_alerts",
    "httpConfig": "http_config",
    "followRedirects": "follow_redirects",
    "sourceMatch": "source_matchers",
    "targetMatch": "target_matchers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A route that takes an alert, with what it inherited; `sure` is False when that hangs on a label nobody knows."""

    receiver: str
    keys: Mapping[str, Any]
    sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An alert as Alertmanager sees it: static labels, and the labels it may have besides."""

    name: str
    labels: Mapping[str, str]
    open: frozenset[str]


def check(document: Document, rules: Sequence[Rule], flow: Flow) -> Iterator[Finding]:
    """Every finding of one configuration, judged against the alerts of `rules`."""
    config = normal(document)
    route = config.get("route")
    if not isinstance(route, dict):
        return
    inhibition = [mapped(rule) for rule in listed(config.get("inhibit_rules"))]
    yield from _receivers(document, [mapped(receiver) for receiver in listed(config.get("receivers"))])
    yield from _equal(document, inhibition)
    for alert in _alerts(rules, flow):
        hits = list(match(route, alert, {**DEFAULTS}))
        yield from _reached(document, alert, hits)
        yield from _muted(document, alert, inhibition)


def _alerts(rules: Sequence[Rule], flow: Flow) -> Iterator[Sent]:
    """gpuheal's own alerts among the rules, each once."""
    seen = set()
    for rule in rules:
        if rule.alert and rule.labels.get("fault") and rule.name not in seen:
            seen.add(rule.name)
            names = frozenset() if rule.tree is None else flow.shape(rule.tree).names
            yield Sent(name=rule.name, labels={**rule.labels, "alertname": rule.name}, open=names - set(rule.labels))


def normal(document: Document) -> dict[str, Any]:
    """The configuration in Alertmanager's own spelling, whichever form it came in."""
    if document.kind == "alertmanager":
        return dict(document.data)
    if document.kind == "values":
        config = dict(mapped(document.data["alertmanager"].get("config")))
        if isinstance(config.get("route"), dict):
            config["route"] = {"receiver": "null", **config["route"]}
        return config
    spec = mapped(_snake(document.data.get("spec")))
    namespace = mapped(document.data.get("metadata")).get("namespace", "")
    # prometheus-operator adds these two to the object's route (pkg/alertmanager/amcfg.go).
    top = {**mapped(spec.get("route")), "continue": True, "matchers": [f'namespace="{namespace}"']}
    return {**spec, "route": {"receiver": "null", "routes": [top]}}


def _snake(data: Any) -> Any:
    if isinstance(data, dict):
        if {"name", "matchType"} <= set(data):
            return f'{data["name"]}{data["matchType"]}"{data.get("value", "")}"'
        return {SNAKE.get(key, key): _snake(value) for key, value in data.items()}
    return [_snake(item) for item in data] if isinstance(data, list) else data


def match(route: Mapping[str, Any], alert: Sent, inherited: Mapping[str, Any], sure: bool = True) -> Iterator[Hit]:
    """The routes that take the alert, in Alertmanager's order (dispatch.Route.Match)."""
    fits = matches(route, alert)
    if fits is False:
        return
    sure = sure and fits is True
    keys = {**inherited, **{k: v for k, v in route.items() if k not in {"routes", "matchers", "continue", "match"}}}
    taken = False
    for child in map(mapped, listed(route.get("routes"))):
        hits = list(match(child, alert, keys, sure))
        yield from hits
        taken |= any(hit.sure for hit in hits)
        if any(hit.sure for hit in hits) and not child.get("continue", False):
            return
    if not taken:
        yield Hit(receiver=str(keys.get("receiver", "")), keys=keys, sure=sure)


def matches(route: Mapping[str, Any], alert: Sent, key: str = "matchers") -> bool | None:
    """Whether all matchers fit: True, False, or None when one hangs on a label that is not known."""
    verdict: bool | None = True
    old = {name: f'{name}="{value}"' for name, value in mapped(route.get(key.removesuffix("ers"))).items()}
    for text in [*listed(route.get(key)), *old.values()]:
        one = _fits(str(text), alert)
        if one is False:
            return False
        verdict = None if one is None else verdict
    return verdict


def _fits(text: str, alert: Sent) -> bool | None:
    found = MATCHER.fullmatch(text)
    if found is None:
        return None
    name, sign, value = found[1], found[2], found[3].strip().strip('"').strip("'")
    if name in alert.open or (name not in alert.labels and name in {"cluster", "prometheus"}):
        return None
    actual = alert.labels.get(name, "")
    equal = re.fullmatch(value, actual) is not None if sign.endswith("~") else actual == value
    return equal == (sign in {"=", "=~"})


def _finding(document: Document, where: str, check: str, problem: str, hint: str = "") -> Finding:
    return Finding(check=check, file=document.file, where=where, problem=problem, hint=hint)


def _reached(document: Document, alert: Sent, hits: Sequence[Hit]) -> Iterator[Finding]:
    """The responder gets the alert once and in time, the heartbeat apart from everything else."""
    ours = [hit for hit in hits if hit.receiver in {RESPONDER_RECEIVER, WATCHDOG_RECEIVER}]
    where = alert.name
    if any(not hit.sure for hit in hits):
        yield _finding(document, where, "route", "its route depends on a label with arbitrary values")
    if alert.name in PEOPLE_ONLY_ALERTS:
        if ours:
            yield _finding(
                document, where, "route", "notifies on-call about the responder, but also wakes the responder"
            )
        return
    if len(ours) != 1:
        times = "never" if not ours else f"{len(ours)} times"
        yield _finding(document, where, "route", f"reaches the responder {times}", "exactly once")
        return
    keys = ours[0].keys
    if alert.name == WATCHDOG_ALERT:
        yield from _heartbeat(document, keys, hits)
        return
    grouped = set(map(str, listed(keys.get("group_by"))))
    if "node" in alert.open and not grouped & {"node", "..."}:
        yield _finding(
            document, where, "route", "is not grouped by node: an alert storm becomes one huge message", "group_by"
        )
    if alert.labels.get("severity") == "critical" and _seconds(keys["group_wait"]) > 0:
        yield _finding(document, where, "route", f"is critical and waits {keys['group_wait']}", "group_wait: 0s")
    people = [hit for hit in hits if hit.receiver not in {RESPONDER_RECEIVER, "null"}]
    if not people and document.kind == "alertmanager" and alert.labels.get("severity") != "info":
        yield _finding(document, where, "route", "reaches no receiver for on-call")


def _heartbeat(document: Document, keys: Mapping[str, Any], hits: Sequence[Hit]) -> Iterator[Finding]:
    if _seconds(keys["repeat_interval"]) >= _seconds(keys["group_interval"]):
        problem = f"repeat {keys['repeat_interval']} is not below group interval {keys['group_interval']}"
        problem += ": heartbeats drop out"
        yield _finding(document, WATCHDOG_ALERT, "route", problem)
    if _seconds(keys["group_wait"]) > 0:
        yield _finding(document, WATCHDOG_ALERT, "route", "group_wait delays the first beat", "group_wait: 0s")
    others = {hit.receiver for hit in hits} - {WATCHDOG_RECEIVER, RESPONDER_RECEIVER}
    for name in sorted(name for name in others if not name.startswith("gpuheal-") and name != "null"):
        yield _finding(
            document,
            WATCHDOG_ALERT,
            "route",
            f"also goes to {name}, all the time",
            "stop at its route (continue: false)",
        )


def _seconds(text: Any) -> float:
    try:
        return parse_duration(str(text)).total_seconds()
    except ValueError:
        return 0.0


def _muted(document: Document, alert: Sent, inhibit_rules: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """No inhibition can have the alert as its target."""
    for index, rule in enumerate(inhibit_rules):
        if matches(rule, alert, "target_matchers") is not False:
            problem = f"inhibit_rules[{index}] can mute it, also for the responder"
            yield _finding(document, alert.name, "inhibit", problem, 'add fault = "" to its target_matchers')


def _equal(document: Document, inhibit_rules: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """A label in `equal` exists on both sides: two alerts that both lack it count as equal."""
    for index, rule in enumerate(inhibit_rules):
        for label in map(str, listed(rule.get("equal"))):
            sides = [str(text) for side in ("source_matchers", "target_matchers") for text in listed(rule.get(side))]
            named = [text for text in sides if (found := MATCHER.fullmatch(text)) and found[1] == label]
            if label not in {"namespace", "alertname"} and len(named) < 2:
                problem = f"equal: {label} also holds when both alerts lack it"
                yield _finding(document, f"inhibit_rules[{index}]", "inhibit", problem, f'{label} != "" on both sides')


def _receivers(document: Document, receivers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """The responder's receivers hold one webhook that gets everything and follows nothing."""
    for receiver in receivers:
        name = str(receiver.get("name", ""))
        if name not in {RESPONDER_RECEIVER, WATCHDOG_RECEIVER}:
            continue
        kinds = [key for key in receiver if str(key).endswith("_configs")]
        hooks = [mapped(hook) for hook in listed(receiver.get("webhook_configs"))]
        if kinds != ["webhook_configs"] or len(hooks) != 1:
            yield _finding(document, name, "route", "shares its receiver: a failing one delays the other")
        for hook in hooks:
            if hook.get("max_alerts", 0):
                yield _finding(
                    document, name, "route", "max_alerts: truncated alerts count as delivered and are never sent"
                )
            if hook.get("send_resolved", True) is False and name == RESPONDER_RECEIVER:
                yield _finding(document, name, "route", "send_resolved is off")
            if mapped(hook.get("http_config")).get("follow_redirects", True):
                yield _finding(document, name, "route", "follows redirects with the token", "follow_redirects: false")
