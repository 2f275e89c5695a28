"""The command `gpuheal`: one table of subcommands, each loaded only when it is called.

A subcommand is a function `main(argv) -> int`. Exit status: 0 done, 1 not done, 2 wrong use or configuration.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from gpuheal_responder import __version__
from gpuheal_responder.errors import ConfigError, GpuhealError


class Command(NamedTuple):
    """Where a subcommand lives, and what it does in one line."""

    module: str
    does: str


COMMANDS = {
    "serve": Command("gpuheal_responder.commands.serve", "run the responder"),
    "exporter": Command("gpuheal_exporters.main", "export Xid, NVLink and driver metrics of this node"),
    "rules": Command("gpuheal_rules.cli", "build, check and test alert rules, Alertmanager routes and runbooks"),
    "dashboards": Command("gpuheal_dashboards.cli", "build, check and preview the Grafana dashboards"),
    "check": Command("gpuheal_responder.commands.check", "validate settings and policy files"),
    "explain": Command("gpuheal_responder.commands.explain", "show what gpuheal would decide for an alert, and why"),
    "cases": Command("gpuheal_responder.commands.cases", "list cases: target, fault, state, step and blockers"),
    "approve": Command("gpuheal_responder.commands.approve", "approve a proposed step of a case"),
    "hold": Command("gpuheal_responder.commands.hold", "put a node on hold, or release it"),
    "revert": Command(
        "gpuheal_responder.commands.revert", "revert gpuheal's changes to a node: taint, cordon, conditions"
    ),
    "sim": Command("gpuheal_lab.fleet.sim", "export the metrics of a simulated GPU fleet"),
    "demo": Command("gpuheal_lab.demo.main", "heal a simulated fault end to end with real Prometheus and Alertmanager"),
}


def usage() -> str:
    """Return the text of `gpuheal --help`."""
    rows = "\n".join(f"  {name:<10}{command.does}" for name, command in COMMANDS.items())
    return (
        "usage: gpuheal COMMAND ...\n\nGPU fault self-healing for Kubernetes with Prometheus and Alertmanager.\n\n"
        f"commands:\n{rows}\n\nRun `gpuheal COMMAND --help` for details, `gpuheal --version` for the version.\n"
    )


LAB = (
    "requires the package gpuheal-lab, which is not installed; "
    "install the same version as gpuheal, or in a checkout run: pip install ./deploy/lab"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` (default: the process' arguments) names; return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in {"-h", "--help", "help"}:
        print(usage(), end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] in {"-V", "--version"}:
        print(f"gpuheal {__version__}")
        return 0
    command = COMMANDS.get(args[0])
    if command is None:
        print(f"gpuheal: unknown command {args[0]!r}; run `gpuheal --help` for a list", file=sys.stderr)
        return 2
    try:
        return _run(command, args[1:])
    except ModuleNotFoundError as missing:
        if missing.name != "gpuheal_lab":
            raise
        print(f"gpuheal: `{args[0]}` {LAB}", file=sys.stderr)
        return 2


def _run(command: Command, args: Sequence[str]) -> int:
    try:
        status = importlib.import_module(command.module).main(args)
    except SystemExit as end:  # argparse ends this way after --help and wrong arguments
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ConfigError as problem:
        print(f"gpuheal: {problem}", file=sys.stderr)
        return 2
    except GpuhealError as problem:
        print(f"gpuheal: {problem}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    assert isinstance(status, int)
    return status


if __name__ == "__main__":
    sys.exit(main())
