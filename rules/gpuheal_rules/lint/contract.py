"""Checks that alerts, fault kinds, runbooks and policies are complete against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.promql import found
from gpuheal_rules.lint.source import Document, Finding, Rule, listed, mapped
from gpuheal_rules.policies import ACTIONS
from gpuheal_rules.routes.alertmanager import WATCHDOG_ALERT


def alerts(rules: Sequence[Rule], catalogue: Catalogue) -> Iterator[Finding]:
    """Every alert is one of the catalogue's, under its fault; a set with the heartbeat has all of them."""
    known = {alert.name: (fault, alert) for fault, alert in catalogue.alerts()}
    seen = {rule.name: rule for rule in rules if rule.alert}
    for rule in seen.values():
        slug = rule.labels.get("fault", "")
        if not slug:
            continue  # the labels check says so
        if slug not in catalogue.faults:
            yield found(rule, "contract", f"fault {slug!r} is not in the catalogue")
        elif rule.name not in known:
            yield found(rule, "contract", f"alert {rule.name} does not belong to any fault in the catalogue")
        elif known[rule.name][0].slug != slug:
            yield found(rule, "contract", f"alert {rule.name} belongs to {known[rule.name][0].slug}, not to {slug}")
        elif known[rule.name][1].severity != rule.labels.get("severity"):
            problem = f"severity is {known[rule.name][1].severity} in the catalogue, {rule.labels.get('severity')} here"
            yield found(rule, "severity", problem)
    heartbeat = seen.get(WATCHDOG_ALERT)
    if heartbeat is None:
        return
    for name in known.keys() - seen.keys():
        yield found(heartbeat, "contract", f"alert {name} of fault {known[name][0].slug} is in no rule file")


def runbooks(rules: Sequence[Rule], pages: Mapping[str, Path]) -> Iterator[Finding]:
    """Every alert has a page under its name, every page an alert, and the alert's address ends in its name."""
    if not pages:
        return
    names = {rule.name: rule for rule in rules if rule.alert}
    for name, rule in names.items():
        if name not in pages:
            yield found(rule, "contract", f"no runbook page {name}.md")
        url = rule.annotations.get("runbook_url", "")
        if url and url.rstrip("/").rpartition("/")[2].removesuffix(".md") != name:
            yield found(rule, "contract", f"runbook_url {url} does not lead to {name}")
    for name, path in pages.items():
        if name not in names:
            yield Finding(check="contract", file=str(path), where="", problem="runbook page without an alert")


def policies(documents: Sequence[Document], catalogue: Catalogue) -> Iterator[Finding]:
    """Policies name faults and steps that exist, and every fault that is acted on has a policy."""
    used: set[str] = set()
    for document in documents:
        for index, policy in enumerate(listed(document.data.get("policies"))):
            where = f"policies[{index}]"
            for step in listed(mapped(policy).get("steps")):
                action = next(iter(step), "") if isinstance(step, dict) else step
                if action not in ACTIONS:
                    problem = f"step {action!r} has no executor"
                    yield Finding(check="contract", file=document.file, where=where, problem=problem)
            for slug in _faults(policy):
                used.add(slug)
                if slug not in catalogue.faults:
                    problem = f"fault {slug!r} is not in the catalogue"
                    yield Finding(check="contract", file=document.file, where=where, problem=problem)
    if not documents:
        return
    for slug, fault in catalogue.faults.items():
        if fault.acted_on and slug not in used:
            problem = f"fault {slug} is acted on by its ladder ({', '.join(fault.ladder)}) and has no policy"
            yield Finding(check="contract", file=documents[0].file, where="", problem=problem)


def _faults(policy: Any) -> list[str]:
    """The faults a policy matches, in either spelling: one slug or a list."""
    chosen = mapped(mapped(policy).get("match"))
    raw = chosen.get("fault") or chosen.get("faults")
    return [raw] if isinstance(raw, str) else [str(slug) for slug in listed(raw)]
