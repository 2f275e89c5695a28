"""Route and inhibition checks: our configurations are clean, and every way to break one is found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_rules.lint import routes as lint_routes
from gpuheal_rules.lint.check import lint
from gpuheal_rules.lint.flow import Flow
from gpuheal_rules.lint.source import Rule, read
from gpuheal_rules.routes.alertmanager import own_config
from gpuheal_rules.routes.operatorconfig import DEFAULT_PARAMS, STOCK_INHIBITION, alertmanager_config, values

RULES = Path(__file__).parents[3] / "rules" / "generated" / "gpuheal.rules.yaml"
FORMS: dict[str, Callable[[], dict[str, Any]]] = {
    "own": lambda: own_config(DEFAULT_PARAMS),
    "values": lambda: values(DEFAULT_PARAMS),
    "object": lambda: alertmanager_config(DEFAULT_PARAMS),
}


@cache
def generated() -> tuple[list[Rule], Flow]:
    """The generated rules, parsed once."""
    rules = read([RULES]).rules
    return rules, Flow(rules)


def judged(config: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Check and problem of every finding about the configuration, beside all generated alerts."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return of_file(path)


def of_file(path: Path) -> list[tuple[str, str]]:
    """The same for a configuration that is a file already."""
    (document,) = read([path]).documents
    return [(one.check, f"{one.where}: {one.problem}") for one in lint_routes.check(document, *generated())]


@pytest.mark.parametrize("form", FORMS)
def test_our_own_configurations_are_clean(form: str, tmp_path: Path) -> None:
    """Every form routes every generated alert as it should and mutes none."""
    assert judged(FORMS[form](), tmp_path) == []


def route(config: dict[str, Any], receiver: str) -> dict[str, Any]:
    """The first route to a receiver."""
    found: dict[str, Any] = next(one for one in config["route"]["routes"] if one["receiver"] == receiver)
    return found


def hook(config: dict[str, Any], name: str = "gpuheal-responder") -> dict[str, Any]:
    """The webhook of a receiver."""
    found: dict[str, Any] = next(one for one in config["receivers"] if one["name"] == name)["webhook_configs"][0]
    return found


def without(config: dict[str, Any], receiver: str) -> None:
    """Takes the routes to a receiver out."""
    config["route"]["routes"] = [one for one in config["route"]["routes"] if one["receiver"] != receiver]


def last(config: dict[str, Any], receiver: str) -> None:
    """Moves the route to a receiver to the end."""
    moved = route(config, receiver)
    without(config, receiver)
    config["route"]["routes"].append(moved)


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "no route to the responder": (lambda c: without(c, "gpuheal-responder"), "route", "never"),
    "no route for the heartbeat": (lambda c: without(c, "gpuheal-watchdog"), "route", "never|all the time|drop out"),
    "people first, without continue": (lambda c: last(c, "gpuheal-responder"), "route", "never"),
    "the responder twice": (
        lambda c: c["route"]["routes"].insert(0, {**route(c, "gpuheal-responder")}),
        "route",
        "2 times",
    ),
    "no continue to people": (
        lambda c: route(c, "gpuheal-responder").pop("continue"),
        "route",
        "no receiver for on-call",
    ),
    "one group for all nodes": (
        lambda c: route(c, "gpuheal-responder").update(group_by=["cluster"]),
        "route",
        "not grouped by node",
    ),
    "critical waits": (
        lambda c: route(c, "gpuheal-responder")["routes"][0].update(group_wait="30s"),
        "route",
        "is critical and waits 30s",
    ),
    "critical without a route of its own": (lambda c: route(c, "gpuheal-responder").pop("routes"), "route", "waits 5s"),
    "repeat equals group for the heartbeat": (
        lambda c: route(c, "gpuheal-watchdog").update(repeat_interval="30s"),
        "route",
        "heartbeats drop out",
    ),
    "the heartbeat waits": (
        lambda c: route(c, "gpuheal-watchdog").update(group_wait="30s"),
        "route",
        "delays the first beat",
    ),
    "the heartbeat goes on to people": (
        lambda c: route(c, "gpuheal-watchdog").update({"continue": True}),
        "route",
        "all day|2 times",
    ),
    "own state wakes the responder": (
        lambda c: route(c, "gpuheal-responder").update(matchers=['namespace="gpuheal"', 'fault!=""']),
        "route",
        "wakes the responder",
    ),
    "a route that hangs on a node": (
        lambda c: route(c, "gpuheal-responder")["matchers"].append('node=~"gpu-.*"'),
        "route",
        "with arbitrary values",
    ),
    "another namespace": (
        lambda c: route(c, "gpuheal-responder").update(matchers=['namespace="monitoring"']),
        "route",
        "never",
    ),
    "alerts cut off": (lambda c: hook(c).update(max_alerts=10), "route", "max_alerts"),
    "resolved kept back": (lambda c: hook(c).update(send_resolved=False), "route", "send_resolved"),
    "redirects followed": (lambda c: hook(c)["http_config"].pop("follow_redirects"), "route", "redirects"),
    "a shared receiver": (
        lambda c: c["receivers"][0].update(slack_configs=[{"channel": "#gpu"}]),
        "route",
        "shares its receiver",
    ),
    "two webhooks in one receiver": (
        lambda c: c["receivers"][0]["webhook_configs"].append({"url": "http://other/"}),
        "route",
        "shares its receiver",
    ),
    "stock inhibition": (
        lambda c: c.update(inhibit_rules=[dict(one) for one in STOCK_INHIBITION]),
        "inhibit",
        "can mute it",
    ),
    "inhibition by rack without a rack": (
        lambda c: c.update(
            inhibit_rules=[
                {"source_matchers": ['alertname="PDUDown"'], "target_matchers": ['fault=""'], "equal": ["rack"]}
            ]
        ),
        "inhibit",
        "when both alerts lack it",
    ),
    "inhibition by node": (
        lambda c: c.update(
            inhibit_rules=[
                {
                    "source_matchers": ['alertname="NodeDown"', 'node!=""'],
                    "target_matchers": ['node!=""'],
                    "equal": ["node"],
                }
            ]
        ),
        "inhibit",
        "can mute it",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_configuration_is_found(mistake: str, tmp_path: Path) -> None:
    """One change that loses, delays, doubles or mutes alerts gives a finding that names it."""
    change, check, words = MISTAKES[mistake]
    config = own_config(DEFAULT_PARAMS)
    change(config)
    findings = judged(config, tmp_path)
    assert any(found == check and any(word in text for word in words.split("|")) for found, text in findings), findings


@pytest.mark.parametrize("form", ["values", "object"])
def test_the_other_forms_are_read_in_their_own_spelling(form: str, tmp_path: Path) -> None:
    """Taking the heartbeat's route out of values or object is seen as well as in the plain form."""
    config = FORMS[form]()
    tree = config["alertmanager"]["config"] if form == "values" else config["spec"]
    tree["route"]["routes"] = [one for one in tree["route"]["routes"] if one["receiver"] != "gpuheal-watchdog"]
    assert any("GPUHealWatchdog" in text for _, text in judged(config, tmp_path))


def test_an_object_in_a_foreign_namespace_is_found(tmp_path: Path) -> None:
    """The operator adds the object's namespace as a matcher: in another one no alert of ours arrives."""
    config = alertmanager_config(DEFAULT_PARAMS)
    config["metadata"]["namespace"] = "monitoring"
    findings = judged(config, tmp_path)
    assert sum("reaches the responder never" in text for _, text in findings) > 10


def test_old_style_matchers_are_understood(tmp_path: Path) -> None:
    """A route with `match:` maps, as before Alertmanager 0.22, is judged like one with matchers."""
    config = own_config(DEFAULT_PARAMS)
    first = route(config, "gpuheal-watchdog")
    first.pop("matchers")
    first["match"] = {"alertname": "GPUHealWatchdog"}
    assert judged(config, tmp_path) == []


def test_a_bare_equals_sign_is_read_as_text(tmp_path: Path) -> None:
    """`matchType: =` without quotes, as many objects have it, is judged like the quoted one."""
    path = tmp_path / "object.yaml"
    text = (RULES.parent / "alertmanager" / "alertmanagerconfig.yaml").read_text(encoding="utf-8")
    assert "matchType: '='" in text
    path.write_text(text.replace("matchType: '='", "matchType: ="))
    assert of_file(path) == []
    path.write_text(text.replace("matchType: '='", "matchType: =").replace("GPUHealWatchdog", "GPUHealDog"))
    assert of_file(path) != []


def test_lint_judges_configurations_beside_rules(tmp_path: Path) -> None:
    """The whole linter, given rules and a configuration, says what the route checks say."""
    config = own_config(DEFAULT_PARAMS)
    without(config, "gpuheal-watchdog")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    found = [(one.check, f"{one.where}: {one.problem}") for one in lint([RULES, path]) if one.file == str(path)]
    assert sorted(found) == sorted(of_file(path))
    assert found
