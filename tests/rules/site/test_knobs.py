"""Each knob changes exactly what its row in KNOBS.md says: all rules are compared, for every knob there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.model import SEVERITIES, Number
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.catalogue.texts import words
from gpuheal_rules.errors import ConfigErrors
from gpuheal_rules.options import Options
from gpuheal_rules.promql.reach import needed, selectors
from gpuheal_rules.promql.rule import BLANK, EVIDENCE, STARTED, AlertRule, Group, Record
from gpuheal_rules.render import READ_OUTSIDE, build_groups, group_data, rule_data
from gpuheal_rules.site.knobs import FIXED, Knob, knobs
from gpuheal_rules.site.read import Site, read_site

KNOBS = knobs(load_catalogue(), Options())
Key = tuple[str, str, str]
Change = tuple[Key, str, Any, Any]
"""A rule, the part of it that differs (`presence` when it is only on one side), and that part before and after."""


def site_of(folder: Path, settings: Mapping[str, Any]) -> Site:
    """Return what a file with these settings makes."""
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump(dict(settings)))
    return read_site(file)


def parts(groups: tuple[Group, ...]) -> dict[Key, dict[str, Any]]:
    """Return every rule, and the head of every group, as Prometheus reads it."""
    found: dict[Key, dict[str, Any]] = {}
    for group in groups:
        found[(group.name, "", "")] = {"interval": group_data(group)["interval"]}
        for rule in group.rules:
            labels = {} if isinstance(rule, AlertRule) else dict(rule.labels)
            key = (group.name, rule.name, str(sorted(labels.items())))
            assert key not in found, key
            found[key] = without_queries(rule_data(rule))
    return found


def without_queries(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule without what its description asks: that repeats the evidence's expression, and follows it."""
    if "description" not in rule.get("annotations", {}):
        return rule
    text = re.sub(r"printf `[^`]*`[^)]*\)", "", rule["annotations"]["description"])
    return rule | {"annotations": rule["annotations"] | {"description": text}}


BEFORE = parts(build_groups(load_catalogue(), Options()))


def changes(site: Site) -> list[Change]:
    """Return all that differs between the shipped rules and the site's."""
    after = parts(build_groups(site.catalogue, site.options))
    found: list[Change] = []
    for key in {**BEFORE, **after}:
        old, new = BEFORE.get(key), after.get(key)
        if old is None or new is None:
            found.append((key, "presence", old, new))
        else:
            names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            found += [(key, name, old.get(name), new.get(name)) for name in names]
    return found


def following(found: list[Change], alerts: set[str]) -> list[Change]:
    """Return the changes without those of descriptions, which must be exactly these alerts' and follow the number."""
    texts = {key[1]: (old, new) for key, part, old, new in found if part == "annotations"}
    assert set(texts) == alerts
    for old, new in texts.values():
        assert {**old, "description": ""} == {**new, "description": ""}
        assert re.sub(r"\b[0-9]+[smhd]\b", "N", old["description"]) == re.sub(
            r"\b[0-9]+[smhd]\b", "N", new["description"]
        )
    return [change for change in found if change[1] != "annotations"]


def other_number(folder: Path, name: str) -> float:
    """Return a number the threshold may have and does not have."""
    item = load_catalogue().thresholds[name]
    for number in (item.value + 1, item.value * 0.8, item.value + 0.1, item.most, item.least):
        try:
            site_of(folder, {"thresholds": {name: number}})
        except ConfigErrors:
            continue
        if number != item.value:
            return number
    raise AssertionError(f"{name} has no other value")


def of_threshold(folder: Path, name: str) -> None:
    """A threshold is the number of its constant series, and no rule beside."""
    number = other_number(folder, name)
    (change,) = changes(site_of(folder, {"thresholds": {name: number}}))
    key = ("gpuheal", "gpuheal:threshold", str([("name", name)]))
    assert change == (key, "expr", f"vector({load_catalogue().thresholds[name].value:.12g})", f"vector({number:.12g})")


def other_value(item: Number) -> float | str:
    """Return a value that the number of single rules may have and does not have, as the site's file has it."""
    value = {"tier_training": 0.95, "tier_inference": 0.5}.get(item.name, item.most)
    return format_duration(timedelta(seconds=value)) if item.duration else value


def rule_of(key: Key, said: str) -> bool:
    """Return whether a rule is the one that `changes` names: an alert, or a series with some of its labels."""
    name, _, labels = said.partition("{")
    wanted = re.findall(r'(\w+)="([^"]*)"', labels)
    return key[1] == name and all(f"({label!r}, {value!r})" in key[2] for label, value in wanted)


def of_number(folder: Path, name: str) -> None:
    """A number of single rules changes exactly the rules that it names, and in them nothing but that number."""
    item = load_catalogue().numbers[name]
    telling = {alert.name for _fault, alert in load_catalogue().alerts() if name in words(alert)}
    found = following(changes(site_of(folder, {"thresholds": {name: other_value(item)}})), telling)
    named = {key for key in BEFORE for said in item.changes if rule_of(key, said)}
    assert {key for key, *_ in found} == named
    for key, part, old, new in found:
        assert part == "expr", key
        assert without_numbers(new) == without_numbers(old), key
        assert len(set(NUMBERS.findall(new)) - set(NUMBERS.findall(old))) == 1, key


def of_any_threshold(folder: Path, name: str) -> None:
    """A threshold is a constant series; others stand in the rules that they name."""
    (of_number if name in load_catalogue().numbers else of_threshold)(folder, name)


def of_hold(folder: Path, slug: str) -> None:
    """A hold is the seconds in the evidence of the fault's own Xids."""
    hold = load_catalogue().faults[slug].hold
    assert hold is not None
    found = changes(site_of(folder, {"holds": {slug: "7h"}}))
    assert found
    for key, part, old, new in found:
        assert (key[1], part) == (EVIDENCE, "expr")
        assert f"('fault', '{slug}')" in key[2]
        assert new == old.replace(f"time() - {hold.total_seconds():g}", f"time() - {7 * 3600}")


def of_alert(folder: Path, name: str, part: str) -> None:
    """`for`, `keep_firing_for` and `severity` change that of one alert."""
    alert = next(alert for _fault, alert in load_catalogue().alerts() if alert.name == name)
    values = {"severity": next(severity for severity in SEVERITIES if severity != alert.severity)}
    value = values.get(part, "7m")
    found = changes(site_of(folder, {"alerts": {name: {part: value}}}))
    ((key, field, old, new),) = following(found, {name} if part == "for" and "for" in words(alert) else set())
    assert key == ("gpuheal", name, "[]")
    if part == "severity":
        assert (field, new) == ("labels", {**old, "severity": value})
    else:
        was = format_duration(alert.wait) if part == "for" and alert.wait else None
        assert (field, old, new) == (part, was, value)


def of_text(folder: Path, name: str) -> None:
    """Namespace and addresses change one label or annotation of every alert."""
    value = "ops" if name == "namespace" else "https://wiki.example/x"
    found = changes(site_of(folder, {name: value}))
    assert {key[1] for key, *_ in found} == {alert.name for _fault, alert in load_catalogue().alerts()}
    key_of = {"namespace": "namespace", "runbook_base": "runbook_url", "dashboard_base": "dashboard_url"}[name]
    for key, part, old, new in found:
        assert part == ("labels" if name == "namespace" else "annotations")
        assert {k for k in {**old, **new} if old.get(k) != new.get(k)} == {key_of}
        if name == "dashboard_base":
            assert new[key_of].startswith(f"{value}/d/gpuheal-")
        else:
            assert new[key_of] == (f"{value}/{key[1]}" if name == "runbook_base" else value)


NUMBERS = re.compile(r"(?<![\w.])[0-9][0-9.]*(?:ms|s|m|h|d)?(?:[0-9]+(?:ms|s|m|h|d))*\b")


def without_numbers(expr: str) -> str:
    """Return the expression without its numbers and durations."""
    return NUMBERS.sub("N", expr)


def numbers_of(expr: str) -> set[str]:
    """Return the numbers and durations of an expression that mean more than none, one and DCGM's blank."""
    return set(NUMBERS.findall(re.sub(r'"[^"]*"', '""', expr))) - {"0", "1", BLANK}


def of_interval(folder: Path, name: str) -> None:
    """An interval changes its group, and numbers of rules, never their form: when Prometheus counts as just started."""
    found = changes(site_of(folder, {name: "45s"}))
    heads = [key[0] for key, part, *_ in found if part == "interval"]
    assert heads == {"interval": ["gpuheal"], "slow_interval": ["gpuheal-slow"], "scrape_interval": []}[name]
    rest = [change for change in found if change[1] != "interval"]
    assert rest
    for key, part, old, new in rest:
        assert part == "expr", key
        assert without_numbers(new) == without_numbers(old), key
        assert name == "scrape_interval" or key[:2] == ("gpuheal", STARTED), key


def of_job(folder: Path, source: str) -> None:
    """A job's pattern stands where the shipped one stood, and nowhere else."""
    shipped = Options().jobs[source]
    found = changes(site_of(folder, {"jobs": {source: r"our\.own"}}))
    assert found
    for _key, part, old, new in found:
        assert part == "expr"
        assert new == old.replace(shipped, r"our\\.own")
    touched = {key for key, *_ in found}
    assert touched == {key for key, rule in BEFORE.items() if shipped in rule.get("expr", "")}


def of_profile(folder: Path) -> None:
    """A label profile changes only rules that read dcgm-exporter's series or targets."""
    found = changes(site_of(folder, {"label_profile": "Hostname"}))
    assert found
    for key, part, old, new in found:
        text = str(new if part == "presence" else old)
        assert "DCGM_" in text or "dcgm" in text, key
        assert part in ("expr", "presence"), key


def of_cluster(folder: Path) -> None:
    """With a cluster's label each grouping and match has it as well, and nothing else differs."""
    found = changes(site_of(folder, {"cluster_label": "region_x"}))
    assert found
    for key, part, old, new in found:
        assert part == "expr", key
        assert re.sub(r" by \(region_x\) |region_x(, )?|\s", "", new) == re.sub(r"\s", "", old), key


def of_fault_off(folder: Path, slug: str) -> None:
    """Of a fault that is switched off no rule is left, what only it needed is gone, and other alerts are untouched."""
    fault = load_catalogue().faults[slug]
    site = site_of(folder, {"disabled": [slug]})
    found = changes(site)
    assert all(part in ("expr", "presence") for _key, part, *_ in found)
    gone = {key for key, part, _old, new in found if part == "presence" and new is None}
    assert len(gone) == len([part for _key, part, *_ in found if part == "presence"]), "a rule was added"
    assert {key[1] for key in gone if ":" not in key[1]} == {alert.name for alert in fault.alerts}
    assert {key for key in BEFORE if f"('fault', '{slug}')" in key[2]} <= gone
    nothing_else(site, slug)
    for key, part, old, new in found:
        if part == "expr":
            assert len(new) < len(old), key
            assert "ALERTS" not in key[1]
            assert ":" in key[1], f"another alert reads otherwise: {key}"


def nothing_else(site: Site, slug: str) -> None:
    """No rule names the fault, and every record is read by a rule, by somebody outside, or was made for people."""
    groups = build_groups(site.catalogue, site.options)
    rules = [rule for group in groups for rule in group.rules]
    named = re.compile(rf'fault=~?"([^"]*\|)?{slug}(\|[^"]*)?"')
    kernel = {alert.name for alert in site.catalogue.faults.get(slug, load_catalogue().faults[slug]).alerts}
    assert [rule.name for rule in rules if named.search(rule.expr) and rule.name not in kernel] == []
    read = [selector for rule in rules for selector in selectors(rule.expr)]
    shipped = [selector.name for group in build_groups(load_catalogue(), Options()) for rule in group.rules
               for selector in selectors(rule.expr)]  # fmt: skip
    for rule in rules:
        if isinstance(rule, Record) and rule.name in shipped and rule.name not in READ_OUTSIDE:
            assert any(selector.reads(rule) for selector in read), f"nobody reads {rule.name} {rule.labels}"
    assert needed(groups, build_groups(load_catalogue(), Options()), READ_OUTSIDE) == groups


def of_alert_off(folder: Path, name: str) -> None:
    """An alert that is switched off takes along only what nobody else reads."""
    found = changes(site_of(folder, {"disabled": [name]}))
    assert all(part == "presence" and new is None for _key, part, _old, new in found)
    assert [key[1] for key, *_ in found if ":" not in key[1]] == [name]
    assert not [key for key, *_ in found if key[1] == EVIDENCE]


def check_of(knob: Knob) -> Callable[[Path], None]:
    """Return the check that a knob's row promises."""
    section, _, name = knob.path.partition(".")
    if knob.path.startswith("disabled"):
        name = knob.path.partition("[")[2].rstrip("]")
        check = of_fault_off if name in load_catalogue().faults else of_alert_off
        return lambda folder: check(folder, name)
    if section == "alerts":
        alert, _, part = name.partition(".")
        return lambda folder: of_alert(folder, alert, part)
    if knob.path in ("label_profile", "cluster_label"):
        return {"label_profile": of_profile, "cluster_label": of_cluster}[knob.path]
    by_section = {"thresholds": of_any_threshold, "holds": of_hold, "jobs": of_job}
    if section in by_section:
        return lambda folder: by_section[section](folder, name)
    return lambda folder: (of_interval if "interval" in knob.path else of_text)(folder, knob.path)


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.path)
def test_a_knob_changes_exactly_what_it_says(knob: Knob, tmp_path: Path) -> None:
    """With another value of this knob only the rules of its row differ, and in exactly that part."""
    check_of(knob)(tmp_path)


def test_every_number_of_the_rules_is_a_knob_or_said_to_be_none(tmp_path: Path) -> None:
    """What no knob moves stands in a rule that is listed with the reason; a listed rule has such a number."""
    catalogue = load_catalogue()
    settings: list[dict[str, Any]] = [{name: "45s"} for name in ("scrape_interval", "interval", "slow_interval")]
    settings += [{"holds": {slug: "7h"}} for slug, fault in catalogue.faults.items() if fault.hold]
    settings += [{"thresholds": {name: other_value(item)}} for name, item in catalogue.numbers.items()]
    moved: dict[Key, set[str]] = {}
    for setting in settings:
        for key, part, old, new in changes(site_of(tmp_path, setting)):
            if part == "expr":
                moved.setdefault(key, set()).update(numbers_of(old) - numbers_of(new))
    used = set()
    for key, rule in BEFORE.items():
        left = numbers_of(rule.get("expr", "")) - moved.get(key, set())
        if left and key[1] != "gpuheal:threshold":
            listed = [name for name in FIXED if re.fullmatch(name, key[1])]
            assert listed, f"{key}: {left}"
            used.update(listed)
    assert used == set(FIXED)


def test_every_alert_threshold_and_fault_has_its_knobs() -> None:
    """What is in the catalogue can be set: nothing is left out of the list but the heartbeat."""
    catalogue, paths = load_catalogue(), {knob.path for knob in KNOBS}
    assert len(paths) == len(KNOBS)
    assert {f"thresholds.{name}" for name in (*catalogue.thresholds, *catalogue.numbers)} <= paths
    for fault, alert in catalogue.alerts():
        for part in ("for", "keep_firing_for", "severity"):
            assert (f"alerts.{alert.name}.{part}" in paths) is (fault.slug != "watchdog")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """Without a setting the site's rules are the shipped ones."""
    file = tmp_path / "site.yaml"
    for text in ("", "# nothing yet\n", "thresholds:\n  # temperature_enter_celsius: 90\n"):
        file.write_text(text)
        site = read_site(file)
        assert changes(site) == []
        assert site.warnings == ()
