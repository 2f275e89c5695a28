"""`gpuheal rules`: build the generated files, check them, test them, mutate them; routes for a site."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

DELEGATED = {
    "alertmanager": ("gpuheal_rules.routes.command", "print an Alertmanager configuration with gpuheal's routes"),
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
    args = _parser().parse_args(list(argv))
    try:
        status: int = args.run(args)
    except (ConfigError, ValueError) as problem:
        print(f"gpuheal rules: {problem}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuheal rules", description="Build and check the generated rules, routes, policies and runbooks."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="write the generated files")
    build.add_argument("--out", type=Path, help="output folder (default in a checkout: rules/)")
    _render_options(build)
    build.set_defaults(run=_build)
    check = commands.add_parser("check", help="exit with status 1 if a generated file is out of date")
    check.add_argument("--out", type=Path, help="folder to check (default in a checkout: rules/)")
    check.add_argument(
        "--promtool", help="promtool command; if given, also run `promtool check rules` and the rule tests"
    )
    check.set_defaults(run=_check)
    for name, (_module, text) in DELEGATED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _render_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rules-only", action="store_true", help="print a single rule file to stdout instead of writing files"
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
    parser.add_argument("--dashboard-base", help="base URL of the dashboards")


def _build(args: argparse.Namespace) -> int:
    from gpuheal_rules import build, render
    from gpuheal_rules.catalogue import load as catalogue
    from gpuheal_rules.options import from_arguments

    options = from_arguments(vars(args))
    if args.rules_only:
        print(render.rule_file(render.build_groups(catalogue.load_catalogue(), options)), end="")
        return 0
    for name in build.write(_folder(args.out), build.artefacts(options)):
        print(name)
    if not build.makes_cases():
        print(f"gpuheal rules: no promtool tests were generated: their generator {LAB}", file=sys.stderr)
    return 0


def _folder(named: Path | None) -> Path:
    """Return the folder of generated files; in a checkout it need not be named."""
    if named is None and not (FOLDER / "generated").is_dir():
        raise ValueError("--out is required outside of a checkout")
    return named or FOLDER


def _check(args: argparse.Namespace) -> int:
    from gpuheal_rules import build
    from gpuheal_rules.promql import promtool

    folder = _folder(args.out)
    found = build.artefacts()
    wrong = build.drift(folder, found)
    for name in wrong:
        print(f"{folder / name}: out of date; run `gpuheal rules build`", file=sys.stderr)
    if wrong:
        return 1
    if args.promtool:
        problems = promtool.check_rules(args.promtool, [folder / "generated/gpuheal.rules.yaml"])
        problems += promtool.run_tests(args.promtool, sorted((folder / "promtool").glob("*.test.yaml")))
        if problems:
            print(problems, file=sys.stderr)
            return 1
    print("generated files are up to date")
    return 0
