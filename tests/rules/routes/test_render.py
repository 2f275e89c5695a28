"""The rendered configurations as data: what may never be missing, and what params are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuheal_rules.catalogue.reader import parse_duration
from gpuheal_rules.routes.alertmanager import (
    PEOPLE_ONLY_ALERTS,
    RESPONDER_RECEIVER,
    WATCHDOG_RECEIVER,
    AlertmanagerParams,
    duration,
    own_config,
    render_config,
)
from gpuheal_rules.routes.command import FORMS, main
from gpuheal_rules.routes.operatorconfig import (
    DEFAULT_PARAMS,
    STOCK_INHIBITION,
    alertmanager_config,
    generated,
    render_values,
    values,
)

ROOT = Path(__file__).parents[3]
URL = "http://responder.example:8080/webhook"


def walk(route: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The route and every route below it."""
    yield route
    for child in route.get("routes", []):
        yield from walk(child)


@pytest.mark.parametrize("name", sorted(generated()))
def test_a_committed_file_is_what_the_generator_makes(name: str) -> None:
    """rules/generated/alertmanager holds exactly the rendered text of every form."""
    assert (ROOT / "rules" / "generated" / "alertmanager" / name).read_text(encoding="utf-8") == generated()[name]


def test_no_other_file_lies_beside_the_generated_ones() -> None:
    """A form that was renamed leaves no stale file behind."""
    folder = ROOT / "rules" / "generated" / "alertmanager"
    assert {path.name for path in folder.iterdir()} == set(generated())


def test_equal_params_render_equal_bytes() -> None:
    """Rendering is a function of the params alone."""
    assert render_config(AlertmanagerParams(webhook_url=URL)) == render_config(AlertmanagerParams(webhook_url=URL))


def test_an_empty_receiver_for_people_is_said_in_the_file() -> None:
    """Valid and silent is the worst kind of configuration: the file itself says that nobody is told yet."""
    empty = AlertmanagerParams(webhook_url=URL, people_receiver="oncall")
    filled = replace(empty, people_config={"webhook_configs": [{"url": "http://p.example/"}]})
    for render in (render_config, render_values):
        assert "# Receiver `oncall` is empty" in render(empty)
        assert "is empty" not in render(filled)


def test_our_own_alertmanager_inhibits_nothing() -> None:
    """Inhibition works on all receivers, so the own configuration has none."""
    assert own_config(AlertmanagerParams(webhook_url=URL))["inhibit_rules"] == []


def test_the_responder_shares_its_receiver_with_nobody() -> None:
    """One integration per receiver of ours: a second one that fails would hold back or repeat the first."""
    config = own_config(AlertmanagerParams(webhook_url=URL, deadman_url="https://deadman.example/x"))
    for receiver in config["receivers"]:
        if receiver["name"].startswith("gpuheal-"):
            assert list(receiver) == ["name", "webhook_configs"]
            assert len(receiver["webhook_configs"]) == 1


def test_every_webhook_of_ours_gets_all_alerts_and_no_redirect() -> None:
    """max_alerts 0, resolved ones to the responder, no redirect that could carry the token elsewhere."""
    config = own_config(AlertmanagerParams(webhook_url=URL, bearer_token_file="/t"))
    hooks = {receiver["name"]: receiver.get("webhook_configs", [{}])[0] for receiver in config["receivers"]}
    assert hooks[RESPONDER_RECEIVER]["send_resolved"] is True
    for name in (RESPONDER_RECEIVER, WATCHDOG_RECEIVER):
        assert hooks[name]["max_alerts"] == 0
        assert hooks[name]["http_config"]["follow_redirects"] is False
        assert hooks[name]["http_config"]["authorization"] == {"type": "Bearer", "credentials_file": "/t"}


def test_tls_files_are_passed_on() -> None:
    """A CA and a client certificate end in the responder's tls_config."""
    params = AlertmanagerParams(webhook_url="https://r.example/x", ca_file="/ca", cert_file="/c", key_file="/k")
    hook = own_config(params)["receivers"][0]["webhook_configs"][0]
    assert hook["http_config"]["tls_config"] == {"ca_file": "/ca", "cert_file": "/c", "key_file": "/k"}


def test_only_the_heartbeat_repeats_faster_than_its_group() -> None:
    """repeat below group for the heartbeat, where it makes the beat steady, and nowhere else."""
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def span(text: str) -> int:
        return int(text[:-1]) * seconds[text[-1]]

    config = own_config(AlertmanagerParams(webhook_url=URL, deadman_url="https://deadman.example/x"))
    for route in config["route"]["routes"]:
        beats = "alertname" in str(route["matchers"][-1]) and "Watchdog" in str(route["matchers"])
        assert (span(route["repeat_interval"]) < span(route["group_interval"])) == beats


def test_the_heartbeat_goes_to_nobody_but_the_responder_and_the_dead_man() -> None:
    """The route of the heartbeat ends the search, so people never get it."""
    tree = own_config(AlertmanagerParams(webhook_url=URL, deadman_url="https://deadman.example/x"))["route"]["routes"]
    assert [route["receiver"] for route in tree] == ["gpuheal-deadman", WATCHDOG_RECEIVER, RESPONDER_RECEIVER, "people"]
    assert [route.get("continue", False) for route in tree] == [True, False, True, False]


def test_alerts_about_the_responder_do_not_wake_it() -> None:
    """The responder's route leaves out the alerts that tell people its own state."""
    tree = own_config(AlertmanagerParams(webhook_url=URL))["route"]["routes"]
    matchers = next(route for route in tree if route["receiver"] == RESPONDER_RECEIVER)["matchers"]
    assert f'alertname!~"{"|".join(PEOPLE_ONLY_ALERTS)}"' in matchers


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"webhook_url": "responder:8080"}, "webhook_url"),
        ({"webhook_url": "file:///etc/passwd"}, "webhook_url"),
        ({"deadman_url": "not a url"}, "deadman_url"),
        ({"cert_file": "/c"}, "key_file"),
        ({"heartbeat_repeat_interval": timedelta(seconds=30)}, "heartbeat_repeat_interval"),
        ({"group_interval": timedelta(0)}, "group_interval"),
        ({"repeat_interval": timedelta(seconds=-1)}, "repeat_interval"),
        ({"people_receiver": RESPONDER_RECEIVER}, "people_receiver"),
        ({"people_receiver": ""}, "people_receiver"),
    ],
)
def test_params_that_lose_alerts_are_refused(change: dict[str, Any], word: str) -> None:
    """A value that would drop alerts or beats raises ValueError and names the field."""
    with pytest.raises(ValueError, match=word):
        replace(AlertmanagerParams(webhook_url=URL), **change)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=5), "5m"),
        (timedelta(hours=36), "36h"),
        (timedelta(days=2), "2d"),
    ],
)
def test_durations_are_written_in_the_largest_unit_that_fits(span: timedelta, text: str) -> None:
    """No fraction is ever written: Prometheus' notation has none."""
    assert duration(span) == text


def test_the_values_keep_everything_the_chart_had_in_its_lists() -> None:
    """Helm replaces lists: the chart's routes, receivers and inhibition stand in ours, changed for our alerts only."""
    config = values(DEFAULT_PARAMS)["alertmanager"]["config"]
    assert {"receiver": "null", "matchers": ['alertname = "Watchdog"']} in config["route"]["routes"]
    assert {"name": "null"} in config["receivers"]
    assert len(config["inhibit_rules"]) == len(STOCK_INHIBITION)
    for ours, stock in zip(config["inhibit_rules"], STOCK_INHIBITION, strict=True):
        assert ours["target_matchers"][: len(stock["target_matchers"])] == stock["target_matchers"]
        assert ours.get("source_matchers") == stock.get("source_matchers")
        assert ours.get("equal") == stock.get("equal")


def test_the_values_leave_the_rest_of_the_chart_alone() -> None:
    """Only lists that must change are set; the chart's intervals and root receiver stay."""
    config = values(DEFAULT_PARAMS)["alertmanager"]["config"]
    assert set(config) == {"inhibit_rules", "route", "receivers"}
    assert set(config["route"]) == {"routes"}


def test_the_object_stands_in_the_namespace_its_alerts_carry() -> None:
    """The operator adds the object's namespace as a matcher, so it must be the label's value, and we add none."""
    config = alertmanager_config(replace(DEFAULT_PARAMS, namespace="gpus"))
    assert config["metadata"]["namespace"] == "gpus"
    for route in walk(config["spec"]["route"]):
        assert all(matcher["name"] != "namespace" for matcher in route.get("matchers", []))


def test_the_object_names_only_receivers_it_defines() -> None:
    """Every receiver of a route is in the object, as the operator demands; people's is not."""
    spec = alertmanager_config(DEFAULT_PARAMS)["spec"]
    defined = {receiver["name"] for receiver in spec["receivers"]}
    used = {route["receiver"] for route in walk(spec["route"]) if "receiver" in route}
    assert used == defined
    assert "people" not in defined


def test_the_object_holds_no_secret() -> None:
    """The token is a reference to a Secret."""
    text = yaml.safe_dump(alertmanager_config(DEFAULT_PARAMS))
    assert "credentials_file" not in text
    assert "/etc/" not in text


def test_an_object_with_tls_files_is_refused() -> None:
    """Files on the Alertmanager's disk have no place in an object; the error says what to use."""
    with pytest.raises(ValueError, match="Secrets"):
        alertmanager_config(replace(DEFAULT_PARAMS, ca_file="/ca"))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_command_prints_one_form(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each form is printed as the committed file has it, apart from what the arguments change."""
    assert main([form]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == yaml.safe_load(FORMS[form](DEFAULT_PARAMS))


def test_gpuheal_rules_alertmanager_is_a_command() -> None:
    """The console command prints a form, lists itself among the others, and refuses an unknown form with status 2."""

    def gpuheal(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "import sys; from gpuheal_responder.cli import main; sys.exit(main())"]
        return subprocess.run([*command, "rules", *words], capture_output=True, text=True, timeout=60, check=False)

    printed = gpuheal("alertmanager", "own")
    assert (printed.returncode, printed.stdout) == (0, FORMS["own"](DEFAULT_PARAMS))
    assert "alertmanager" in gpuheal("--help").stdout
    assert gpuheal("alertmanager", "carrier-pigeon").returncode == 2


def test_the_command_takes_the_site_s_own_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Address, token, certificates, namespace, dead man and people's receiver reach the configuration."""
    given = {"--webhook-url": "https://r.example/webhook", "--bearer-token-file": "/t", "--ca-file": "/ca"}
    given |= {"--namespace": "gpus", "--deadman-url": "https://d.example/x", "--people-receiver": "oncall"}
    assert main(["own", *(word for pair in given.items() for word in pair)]) == 0
    text = capsys.readouterr().out
    assert all(value in text for value in given.values())


def test_the_command_refuses_what_would_lose_alerts(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and the reason, nothing on stdout."""
    assert main(["own", "--webhook-url", "responder:8080"]) == 2
    out, err = capsys.readouterr()
    assert (out, "webhook_url" in err) == ("", True)


SPANS = st.integers(min_value=1, max_value=10**7).map(lambda seconds: timedelta(seconds=seconds))


@settings(deadline=None, max_examples=50)
@given(wait=SPANS, interval=SPANS, repeat=SPANS, deadman=st.booleans(), token=st.booleans())
def test_any_intervals_keep_every_promise(
    wait: timedelta, interval: timedelta, repeat: timedelta, deadman: bool, token: bool
) -> None:
    """Whatever a site sets, durations are whole, the heartbeat ends its search and the responder's route goes on."""
    params = AlertmanagerParams(
        webhook_url=URL,
        group_wait=wait,
        group_interval=interval,
        repeat_interval=repeat,
        deadman_url="https://deadman.example/x" if deadman else None,
        bearer_token_file="/t" if token else None,
    )
    config = yaml.safe_load(render_config(params))
    for route in walk(config["route"]):
        for key in ("group_wait", "group_interval", "repeat_interval"):
            assert re.fullmatch(r"\d+(d|h|m|s|ms)", route.get(key, "0s"))
            assert key not in route or parse_duration(route[key]) >= timedelta(0)
    tree = {route["receiver"]: route for route in config["route"]["routes"]}
    assert parse_duration(tree[RESPONDER_RECEIVER]["group_interval"]) == interval
    assert tree[RESPONDER_RECEIVER]["continue"] is True
    assert "continue" not in tree[WATCHDOG_RECEIVER]
    assert ("gpuheal-deadman" in tree) == deadman
