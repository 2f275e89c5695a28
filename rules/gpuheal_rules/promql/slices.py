"""What a promtool test needs of the rules: those that can change its answers, and no others.

promtool evaluates every rule at every step, so a test of one GPU and one alert pays for three hundred rules. A rule
that nothing asked for reads, directly or through others, cannot change what is asked; nor can one that finds no series
to read. An error in its evaluation would go unnoticed, though, so at night all rules are evaluated
(`gpuheal rules check --promtool P --whole`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gpuheal_rules.promql.reach import Selector, selectors
from gpuheal_rules.promql.rule import Record
from gpuheal_rules.promql.yields import can_yield

WORTH = 0.85
"""A file is cut up when less than this share of its evaluations is left: writing the parts takes a while, too."""

_ALERTS = frozenset({"ALERTS", "ALERTS_FOR_STATE"})
_RECORDED = re.compile(r"\b(?:gpuheal:[\w:]+|ALERTS(?:_FOR_STATE)?)\b")
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Rules:
    """The groups of a rule file, and who reads whom."""

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self.groups = groups
        self._rules = [rule for group in groups for rule in group["rules"]]
        self._shown = [_shown(rule) for rule in self._rules]
        self._places: dict[str, list[int]] = defaultdict(list)
        for index, shown in enumerate(self._shown):
            self._places[shown.name].append(index)

    def __len__(self) -> int:
        return len(self._rules)

    def read_by(self, expr: str) -> Iterator[int]:
        """The places of the rules whose series an expression may read directly."""
        for selector in selectors(expr):
            wanted = _of_alerts(selector)
            places = self._places[wanted.name] if wanted.name else range(len(self))
            yield from (index for index in places if not wanted.name or wanted.reads(self._shown[index]))

    def needed(self, test: Mapping[str, Any]) -> frozenset[int]:
        """Return the places of the rules that can change what a test asks for."""
        asked = {alert["alertname"] for alert in test.get("alert_rule_test", ())}
        left = [i for i, rule in enumerate(self._rules) if rule.get("alert") in asked and "alert" in rule]
        left += [i for query in test.get("promql_expr_test", ()) for i in self.read_by(query["expr"])]
        found = set(left)
        while left:
            rule = self._rules[left.pop()]
            texts = " ".join(rule.get("annotations", {}).values())
            for read in (rule["expr"], *_RECORDED.findall(texts)):
                new = set(self.read_by(read)) - found
                found |= new
                left += new
        return frozenset(found)

    def alive(self, test: Mapping[str, Any]) -> frozenset[int]:
        """Return the places of the rules that may have a result from the series of a test."""
        given: dict[str, list[dict[str, str]]] = {}
        for series in test.get("input_series") or ():
            (read,) = selectors(series["series"])
            given.setdefault(read.name, []).append({label: value for label, _equals, value in read.matchers})
        found: set[int] = set()

        def shows(selector: Selector) -> bool:
            wanted = _of_alerts(selector)
            if not wanted.name or any(map(wanted.finds, given.get(wanted.name, ()))):
                return True
            return any(index in found and wanted.reads(self._shown[index]) for index in self._places[wanted.name])

        before = -1
        while len(found) > before:
            before = len(found)
            rest = [index for index in range(len(self)) if index not in found]
            found.update([index for index in rest if can_yield(self._shown[index].expr, shows)])
        return frozenset(found)

    def only(self, places: frozenset[int]) -> list[dict[str, Any]]:
        """Return the groups with the rules of these places."""
        keep = {id(self._rules[index]) for index in places}
        groups = [{**group, "rules": [r for r in group["rules"] if id(r) in keep]} for group in self.groups]
        return [group for group in groups if group["rules"]]


def sliced(file: Path, folder: Path) -> list[Path]:
    """Write the parts of a promtool test file with the rules they need into a folder; return their test files.

    Where that would save little, [file] is returned and nothing is written.
    """
    document = _loaded(file)
    paths = [path for name in document["rule_files"] for path in sorted(file.parent.glob(name))]
    rules = Rules([g for path in paths for g in _loaded(path)["groups"]])
    parts: dict[frozenset[int], list[dict[str, Any]]] = {}
    work = 0.0
    for test in document["tests"]:
        places = rules.needed(test) & rules.alive(test)
        parts.setdefault(places, []).append(test)
        work += _steps(test) * len(places)
    if work > WORTH * len(rules) * sum(map(_steps, document["tests"])):
        return [file]
    return [
        _written(folder / f"{file.name.partition('.')[0]}-{number}", rules.only(places), {**document, "tests": tests})
        for number, (places, tests) in enumerate(parts.items())
    ]


def _of_alerts(selector: Selector) -> Selector:
    return replace(selector, name="ALERTS") if selector.name in _ALERTS else selector


def _shown(rule: Mapping[str, Any]) -> Record:
    """Return the series that a rule shows, with the labels that are the same for all of them."""
    labels = {label: text for label, text in rule.get("labels", {}).items() if "{{" not in text}
    if "alert" in rule:
        return Record(name="ALERTS", expr=rule["expr"], labels={**labels, "alertname": rule["alert"]})
    return Record(name=rule["record"], expr=rule["expr"], labels=labels)


def _loaded(file: Path) -> Any:
    return yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506  # safe: built on SafeLoader


def _written(base: Path, groups: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> Path:
    rules, tests = base.with_suffix(".rules.yaml"), base.with_suffix(".test.yaml")
    rules.write_text(yaml.dump({"groups": groups}, Dumper=_DUMPER), encoding="utf-8")
    tests.write_text(yaml.dump({**document, "rule_files": [rules.name]}, Dumper=_DUMPER), encoding="utf-8")
    return tests


def _steps(test: Mapping[str, Any]) -> float:
    """Return how long promtool evaluates a test, in seconds of its own time."""
    asked = [*test.get("alert_rule_test", ()), *test.get("promql_expr_test", ())]
    return max((_seconds(str(one["eval_time"])) for one in asked), default=0.0)


def _seconds(duration: str) -> float:
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION.findall(duration))
