"""`gpuheal rules`: build the generated files, check them, test them, mutate them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

DELEGATED = {
    "lint": ("gpuheal_rules.lint.check", "judge rule files and Alertmanager configurations"),
    "mutate": ("gpuheal_rules.mutation.mutate", "prove that the tests notice small wrong changes of the rules"),
}
"""Subcommands with a module and options of their own."""

FOLDER = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str]) -> int:
    """Run one subcommand and return its exit status: 0 fine, 1 a check failed, 2 wrong input."""
    from gpuheal_rules.errors import ConfigError

    if argv and argv[0] in DELEGATED:
        module = importlib.import_module(DELEGATED[argv[0]][0])
        return int(module.main(list(argv[1:])))
    args = _parser().parse_args(list(argv))
    try:
        status: int = args.run(args)
    except (ConfigError, ValueError) as problem:
        print(f"gpuheal rules: {problem}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpuheal rules", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="write the generated files")
    build.add_argument("--out", type=Path, default=FOLDER, help="folder to write below (default: the part's own)")
    _render_options(build)
    build.set_defaults(run=_build)
    check = commands.add_parser("check", help="fail when a generated file differs from what would be built")
    check.add_argument("--out", type=Path, default=FOLDER, help="folder to compare with (default: the part's own)")
    check.add_argument("--promtool", help="also run promtool's lint and tests with this command")
    check.set_defaults(run=_check)
    for name, (_module, text) in DELEGATED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _render_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules-only", action="store_true", help="print one rule file instead of writing files")
    parser.add_argument("--interval", help="evaluation interval of the main group (default 15s)")
    parser.add_argument("--slow-interval", help="evaluation interval of the slow group (default 2m)")
    parser.add_argument("--scrape-interval", help="longest scrape interval of the sources (default 15s)")
    parser.add_argument("--namespace", help="static label `namespace` of the alerts (default gpuheal)")
    parser.add_argument(
        "--label-profile", choices=("target", "Hostname", "hostname", "old-namespace"), help="where node names are"
    )
    parser.add_argument("--job", action="append", default=[], metavar="SOURCE=REGEX", help="job label of a source")
    parser.add_argument("--runbook-base", help="address below which runbook pages are served")
    parser.add_argument("--dashboard-base", help="address of the dashboards")


def _build(args: argparse.Namespace) -> int:
    from gpuheal_rules import build, render
    from gpuheal_rules.catalogue import load as catalogue
    from gpuheal_rules.options import from_arguments

    options = from_arguments(vars(args))
    if args.rules_only:
        print(render.rule_file(render.build_groups(catalogue.load_catalogue(), options)), end="")
        return 0
    for name in build.write(args.out, build.artefacts(options)):
        print(name)
    return 0


def _check(args: argparse.Namespace) -> int:
    from gpuheal_rules import build
    from gpuheal_rules.promql import promtool

    found = build.artefacts()
    wrong = build.drift(args.out, found)
    for name in wrong:
        print(f"{args.out / name}: differs from what `gpuheal rules build` makes", file=sys.stderr)
    if wrong:
        return 1
    if args.promtool:
        problems = promtool.check_rules(args.promtool, [args.out / "generated/gpuheal.rules.yaml"])
        problems += promtool.run_tests(args.promtool, sorted((args.out / "promtool").glob("*.test.yaml")))
        if problems:
            print(problems, file=sys.stderr)
            return 1
    print("generated files are up to date")
    return 0
