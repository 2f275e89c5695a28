"""`gpuheal rules lint`: judges rule files and Alertmanager configurations by what has gone wrong in public ones.

    lint([Path("rules")]) -> list of Finding

Nothing is executed and no server is asked; expressions are parsed with promql-parser and their labels followed from
rule to rule. A finding names check, file and rule; `CHECKS` says what each check stands for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path

from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import parse_duration
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.lint import (
    contract as lint_contract,
)
from gpuheal_rules.lint import (
    joins as lint_joins,
)
from gpuheal_rules.lint import (
    metrics as lint_metrics,
)
from gpuheal_rules.lint import (
    promql as lint_promql,
)
from gpuheal_rules.lint import (
    routes as lint_routes,
)
from gpuheal_rules.lint import (
    rules as lint_rules,
)
from gpuheal_rules.lint.clusters import clusters
from gpuheal_rules.lint.flow import Flow
from gpuheal_rules.lint.promql import Subject
from gpuheal_rules.lint.source import Finding, Rule, Sources, read
from gpuheal_rules.site.read import read_site

FOLDER = Path(__file__).resolve().parents[2]

CHECKS = {
    "absent": "absent() only for the whole fleet, never for one node or GPU",
    "alias": "fields that DCGM renamed are queried under both names",
    "annotations": "alerts have summary, description and runbook_url",
    "cluster": "with --cluster-label: no aggregation or match drops the label that identifies the cluster",
    "contract": "alerts, faults, runbooks and policies match each other completely",
    "cost": "no subquery over raw series",
    "dead": "selectors match labels and series that exist",
    "duplicate": "no two rules write the same series",
    "fail-open": "missing data never counts as health",
    "forecast": "forecasts rest on enough samples and are never critical",
    "inhibit": "no inhibition rule can mute a gpuheal alert",
    "join": "joins name their labels and match at most one series",
    "keep-last": "Grafana alerts do not keep their last state on no data",
    "label-flow": "labels used in rules and annotations survive the aggregations before them",
    "labels": "alerts have the contract's labels, with values that stay the same as long as the fault lasts",
    "limit": "no group limit: exceeding it resolves firing alerts",
    "name": "alerts are named GPU…/NVLink… in CamelCase, recorded series level:metric:operation",
    "noise": "no alert on normal load of a busy GPU",
    "origin": "raw series of exporters and responder are selected by job",
    "own-words": "no rule reads node conditions or taints that gpuheal itself sets",
    "portable": "only PromQL that works the same in Prometheus 2.42 and 3.x",
    "presence": "a compared count is 0, not absent, when there is nothing to count",
    "range": "range windows contain at least four samples",
    "read": "files can be read and rules are complete",
    "registration": "rules that read a source are accompanied by an alert on its absence",
    "route": "every alert reaches the responder exactly once, in time, grouped by node",
    "severity": "one of three severities, one per alertname",
    "sticky": "no alert on a value that never resets",
    "syntax": "expressions can be parsed",
    "unit": "numbers match the unit of what they are compared with",
    "xid-change": "no increase, changes or rate on Xid series",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LintOptions:
    """What the linter has to know about the site."""

    scrape_interval: timedelta = timedelta(seconds=15)
    """The longest scrape interval of the sources; windows over raw series hold four of them."""

    catalogue: Catalogue | None = None
    """What the site's rules were built from; None = the catalogue of this package."""

    foreign: bool = False
    """Rules that are not ours: the alert contract (labels, names, faults, routes) is not asked of them."""

    cluster_label: str = ""
    """The label that tells clusters apart; with it, rules are judged as those of a ruler over several clusters."""


CONTRACT_CHECKS = frozenset({"annotations", "contract", "labels", "name", "origin", "route", "severity"})


def lint(paths: Sequence[Path], options: LintOptions | None = None) -> list[Finding]:
    """All findings of the files below `paths`, each once, by file and place; files that cannot be read are findings."""
    options = options or LintOptions()
    catalogue = options.catalogue or _catalogue()
    fields = exported_fields(catalogue)
    sources = read([Path(path) for path in paths])
    findings = list(sources.broken)
    for rules in _sets(sources):
        findings += _of_set(rules, options, fields)
        # Ours must be whole file by file; what others load together is judged together.
        findings += [] if options.foreign else lint_rules.registration(rules)
    findings += lint_rules.registration(sources.rules) if options.foreign else []
    findings += lint_rules.groups(sources)
    for document in sources.of("grafana"):
        findings += lint_rules.keep_last(document.data, document.file)
    findings += _across(sources, catalogue)
    kept = [one for one in findings if not (options.foreign and one.check in CONTRACT_CHECKS)]
    return sorted(set(kept), key=lambda one: (one.file, one.where, one.check, one.problem))


def _sets(sources: Sources) -> Iterator[list[Rule]]:
    """Rules by file: each file must be whole by itself, so that it can be loaded alone."""
    for file in dict.fromkeys(rule.file for rule in sources.rules):
        yield [rule for rule in sources.rules if rule.file == file]


@cache
def _catalogue() -> Catalogue:
    """The committed catalogue, read once per process."""
    return load_catalogue()


def exported_fields(catalogue: Catalogue) -> frozenset[str]:
    """The DCGM fields that can be there: dcgm-exporter's defaults and those the catalogue knows, under all names.

    Signals without counters belong to later DCGM releases: today's exporters would not start with them in the CSV.
    """
    ours = {metric for signal in catalogue.signals.values() for metric in signal.metrics}
    return lint_metrics.DEFAULT_COUNTERS | ours


def _of_set(rules: list[Rule], options: LintOptions, fields: frozenset[str]) -> Iterator[Finding]:
    flow = Flow(rules)
    for rule in rules:
        subject = Subject(
            rule=rule,
            flow=flow,
            scrape_interval=options.scrape_interval,
            exported=fields,
            cluster_label=options.cluster_label,
        )
        yield from lint_promql.syntax(subject)
        if rule.tree is not None:
            for check in (*lint_promql.CHECKS, *lint_joins.CHECKS, *lint_metrics.CHECKS, clusters):
                yield from check(subject)
        for check in lint_rules.CHECKS:
            yield from check(subject)
    yield from lint_rules.one_severity(rules)
    yield from lint_rules.duplicates(rules)


def _across(sources: Sources, catalogue: Catalogue) -> Iterator[Finding]:
    """What takes several files together."""
    rules = sources.rules
    flow = Flow(rules[: len(next(_sets(sources), []))])
    for kind in lint_routes.KINDS:
        for document in sources.of(kind):
            yield from lint_routes.check(document, rules, flow)
    for own in _sets(sources):
        yield from lint_contract.alerts(own, catalogue)
        yield from lint_contract.runbooks(own, sources.runbooks)
    yield from lint_contract.policies(list(sources.of("policies")), catalogue)


def main(argv: Sequence[str]) -> int:
    """Print the findings; exit status 0 without any, 1 with some, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="gpuheal rules lint",
        description="Lint Prometheus rules and Alertmanager configurations for GPU monitoring.",
    )
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders (default: gpuheal's own rules)")
    parser.add_argument("--site", type=Path, metavar="FILE", help="site file that the rules were built with")
    parser.add_argument(
        "--scrape-interval", help="longest scrape interval of any exporter (default: 15s, or the site's)"
    )
    parser.add_argument(
        "--cluster-label",
        metavar="NAME",
        help="label that identifies the cluster; lint rules for a ruler that evaluates several clusters",
    )
    parser.add_argument(
        "--foreign",
        action="store_true",
        help="lint rules that are not gpuheal's: skip the checks of gpuheal's alert contract",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="output format (default: text)")
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    args = parser.parse_args(list(argv))
    if args.list:
        for name, meaning in CHECKS.items():
            print(f"{name:13} {meaning}")
        return 0
    options = LintOptions(foreign=args.foreign)
    try:
        if args.site:
            site = read_site(args.site)
            options = replace(options, scrape_interval=site.options.scrape_interval, catalogue=site.catalogue)
            options = replace(options, cluster_label=site.options.cluster_label)
        if args.cluster_label:
            options = replace(options, cluster_label=args.cluster_label)
        if args.scrape_interval:
            options = replace(options, scrape_interval=parse_duration(args.scrape_interval))
    except (ConfigError, ValueError) as problem:
        flag = "--site" if isinstance(problem, ConfigError) else "--scrape-interval"
        print(f"gpuheal rules lint: {flag}: {problem}", file=sys.stderr)
        return 2
    findings = lint(args.paths or [FOLDER / "generated", FOLDER / "runbooks"], options)
    if args.format == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
        print(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}", file=sys.stderr)
    return 1 if findings else 0
