"""`gpuheal rules`: build the generated files, check them, test them, mutate them; routes for a site."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuheal_rules.site.read import Site

DELEGATED = {
    "coverage": (
        "gpuheal_rules.coverage.command",
        "list the alerts that can never fire, and what is missing",
    ),
    "lint": ("gpuheal_rules.lint.check", "lint rule files and Alertmanager configurations"),
    "mutate": (
        "gpuheal_rules.mutation.mutate",
        "mutation-test the rules: check that the promtool tests catch small changes",
    ),
}
"""Subcommands with a module and options of their own."""

LAB = (
    "requires the package gpuheal-lab, which is not installed; "
    "install the same version as gpuheal, or in a checkout run: pip install ./deploy/lab"
)
FOLDER = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str]) -> int:
    """Run one subcommand and return its exit status: 0 fine, 1 a check failed, 2 wrong input."""
    from gpuheal_rules.errors import ConfigError

    if argv and argv[0] in DELEGATED:
        name = DELEGATED[argv[0]][0]
        if find_spec(name.rpartition(".")[0]) is None:
            print(f"gpuheal rules: `{argv[0]}` {LAB}", file=sys.stderr)
            return 2
        return int(importlib.import_module(name).main(list(argv[1:])))
    try:
        if argv and argv[0] == "alertmanager":
            return _alertmanager(argv[1:])
        args = _parser().parse_args(list(argv))
        status: int = args.run(args)
    except (ConfigError, ValueError) as problem:
        for line in str(problem).splitlines():
            print(f"gpuheal rules: {line}", file=sys.stderr)
        return 2
    return status


def _alertmanager(argv: Sequence[str]) -> int:
    from gpuheal_rules import build
    from gpuheal_rules.routes import command
    from gpuheal_rules.routes.alertmanager import AlertmanagerParams
    from gpuheal_rules.site.read import read_site

    def of_site(path: Path) -> AlertmanagerParams:
        site = read_site(path)
        return build.routed(site.catalogue, site.options)

    return command.main(argv, of_site)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuheal rules", description="Build and check the generated rules, routes, policies and runbooks."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="write the generated files")
    build.add_argument("--out", type=Path, help="output folder (default in a checkout: rules/)")
    build.add_argument("--rules-only", action="store_true", help="print the rules to stdout instead of writing files")
    build.add_argument(
        "--format", choices=("rules", "prometheusrule"), default="rules", help="format of --rules-only (default: rules)"
    )
    _render_options(build)
    build.set_defaults(run=_build)
    check = commands.add_parser("check", help="exit with status 1 if a generated file is out of date")
    check.add_argument("--out", type=Path, help="folder to check (default in a checkout: rules/)")
    check.add_argument(
        "--promtool", help="promtool command; if given, also run `promtool check rules` and the rule tests"
    )
    check.add_argument(
        "--whole",
        action="store_true",
        help="evaluate every rule in each test, not only those that can change its result",
    )
    _render_options(check)
    check.set_defaults(run=_check)
    commands.add_parser(
        "alertmanager", help="print an Alertmanager configuration with gpuheal's routes", add_help=False
    )
    for name, (_module, text) in DELEGATED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _render_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--site", type=Path, metavar="FILE", help="site file with thresholds, alerts and settings; flags override it"
    )
    parser.add_argument("--interval", help="evaluation interval of the main group (default: 15s)")
    parser.add_argument("--slow-interval", help="evaluation interval of the slow group (default: 2m)")
    parser.add_argument("--scrape-interval", help="longest scrape interval of any exporter (default: 15s)")
    parser.add_argument("--namespace", help="value of the alerts' static `namespace` label (default: gpuheal)")
    parser.add_argument(
        "--label-profile",
        choices=("target", "Hostname", "hostname", "old-namespace"),
        help="label that holds the node name in your metrics",
    )
    parser.add_argument(
        "--cluster-label",
        metavar="NAME",
        help="label that identifies the cluster, if one Prometheus or ruler evaluates several clusters",
    )
    parser.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="SOURCE=REGEX",
        help="regular expression for a source's `job` label",
    )
    parser.add_argument("--runbook-base", help="base URL of the runbook pages")
    parser.add_argument("--dashboard-base", help="base URL of the Grafana that has the dashboards")


def _site(args: argparse.Namespace) -> Site:
    """Return what the site's file and the flags say, flags first; tell what the site should know of its settings."""
    from gpuheal_rules.catalogue.load import load_catalogue
    from gpuheal_rules.options import Options, from_arguments
    from gpuheal_rules.site.read import Site, read_site

    site = read_site(args.site) if args.site else Site(catalogue=load_catalogue(), options=Options())
    for warning in site.warnings:
        print(f"{args.site}: warning: {warning}", file=sys.stderr)
    return replace(site, options=from_arguments(vars(args), site.options))


def _build(args: argparse.Namespace) -> int:
    from gpuheal_rules import build, render

    site = _site(args)
    if args.rules_only:
        groups = render.build_groups(site.catalogue, site.options)
        print(render.printed(groups, site.options, args.format), end="")
        return 0
    folder = _folder(args.out, args.site is not None)
    for name in build.write(folder, build.artefacts(site.options, site.catalogue)):
        print(name)
    if not build.makes_cases():
        print(f"gpuheal rules: no promtool tests were generated: their generator {LAB}", file=sys.stderr)
    return 0


def _folder(named: Path | None, site: bool) -> Path:
    """Return the folder of generated files; in a checkout it need not be named, unless it is for a site."""
    if named is None and site:
        raise ValueError("--out is required with --site")
    if named is None and not (FOLDER / "generated").is_dir():
        raise ValueError("--out is required outside of a checkout")
    return named or FOLDER


def _check(args: argparse.Namespace) -> int:
    from gpuheal_rules import build
    from gpuheal_rules.promql import promtool

    site = _site(args)
    folder = _folder(args.out, args.site is not None)
    found = build.artefacts(site.options, site.catalogue)
    wrong = build.drift(folder, found)
    for name in wrong:
        print(f"{folder / name}: out of date; run `gpuheal rules build`", file=sys.stderr)
    if wrong:
        return 1
    if args.promtool:
        problems = promtool.check_rules(args.promtool, [folder / "generated/gpuheal.rules.yaml"])
        problems += promtool.run_tests(
            args.promtool, sorted((folder / "promtool").glob("*.test.yaml")), whole=args.whole
        )
        if problems:
            print(problems, file=sys.stderr)
            return 1
    print("generated files are up to date")
    return 0
