"""`gpuheal dashboards`: build the Grafana dashboards, check the generated ones, preview them without Grafana."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.options import Options
from gpuheal_rules.site.read import Site, read_site

FOLDER = Path(__file__).resolve().parent.parent / "generated"
SDK = "requires the package grafana-foundation-sdk (pip install 'grafana-foundation-sdk==0.0.21')"


def main(argv: Sequence[str]) -> int:
    """Run one subcommand and return its exit status: 0 done, 1 not done, 2 wrong input."""
    if argv and argv[0] == "preview":
        from gpuheal_dashboards.preview import command

        return command.main(argv[1:])
    args = _parser().parse_args(list(argv))
    if find_spec("grafana_foundation_sdk") is None:
        print(f"gpuheal dashboards: `{argv[0]}` {SDK}", file=sys.stderr)
        return 2
    try:
        site = read_site(args.site) if args.site else Site(catalogue=load_catalogue(), options=Options())
        folder = _folder(args.out, args.site is not None)
        status: int = args.run(folder, artefacts(site))
    except (ConfigError, ValueError) as problem:
        for line in str(problem).splitlines():
            print(f"gpuheal dashboards: {line}", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"gpuheal dashboards: {problem.filename}: {problem.strerror}", file=sys.stderr)
        return 1
    return status


def artefacts(site: Site) -> dict[str, str]:
    """Return the generated files of a site, by name. Needs grafana-foundation-sdk."""
    from gpuheal_dashboards.boards.all import boards
    from gpuheal_dashboards.grafana import render

    return {f"{board.uid}.json": render(board) for board in boards(site.options, site.catalogue)}


def drift(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Return the files of `folder` that are missing, differ, or are generated no more."""
    there = {path.name for path in folder.glob("*.json")}
    differ = {name for name, text in files.items() if name in there and (folder / name).read_text("utf-8") != text}
    return sorted(differ | (files.keys() ^ there))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuheal dashboards", description="Build, check and preview the Grafana dashboards."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("build", _build, "write the dashboards as JSON"),
        ("check", _check, "exit with status 1 if a generated file is out of date"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--out", type=Path, help="folder of the files (default in a checkout: dashboards/generated)"
        )
        command.add_argument(
            "--site", type=Path, metavar="FILE", help="site file of the rules: jobs, labels, runbooks, own faults"
        )
        command.set_defaults(run=run)
    commands.add_parser("preview", help="draw all dashboards from a Prometheus as one HTML page", add_help=False)
    return parser


def _folder(named: Path | None, site: bool) -> Path:
    if named is None and site:
        raise ValueError("--out is required with --site")
    if named is None and not FOLDER.is_dir():
        raise ValueError("--out is required outside of a checkout")
    return named or FOLDER


def _build(folder: Path, files: Mapping[str, str]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for name in drift(folder, files):
        if name in files:
            (folder / name).write_text(files[name], encoding="utf-8")
            print(name)
        else:
            print(f"gpuheal dashboards: {folder / name} is generated no more; remove it", file=sys.stderr)
    return 0


def _check(folder: Path, files: Mapping[str, str]) -> int:
    wrong = drift(folder, files)
    for name in wrong:
        print(f"{folder / name}: out of date; run `gpuheal dashboards build`", file=sys.stderr)
    if not wrong:
        print("generated dashboards are up to date")
    return 1 if wrong else 0
