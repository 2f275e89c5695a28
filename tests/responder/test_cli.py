"""The command line: what is listed, what is refused, and with which exit status."""

from __future__ import annotations

import sys
import types

import pytest

from gpuheal_responder import __version__, cli
from gpuheal_responder.errors import ConfigError, ObserveError


def stand_in(monkeypatch: pytest.MonkeyPatch, main: object) -> None:
    """Put a subcommand `probe` with this main into the table."""
    module = types.ModuleType("gpuheal_test_probe")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command(module.__name__, "a test's own"))


def test_help_lists_every_command_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """`gpuheal --help` names each command of the table and what it does, and ends well."""
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name:<10}{command.does}\n" in out


def test_no_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the usage goes to stderr and the exit status is 2."""
    assert cli.main([]) == 2
    assert capsys.readouterr().err.startswith("usage: gpuheal")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`gpuheal --version` prints the package's version."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpuheal {__version__}\n"


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command names itself on stderr, exit status 2."""
    assert cli.main(["heal"]) == 2
    assert "unknown command 'heal'" in capsys.readouterr().err


def test_a_config_error_is_a_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ConfigError reaches the operator as one line, not as a traceback."""

    def broken(argv: list[str]) -> int:
        raise ConfigError("policies.yaml", "policies[2].steps", "missing")

    stand_in(monkeypatch, broken)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "gpuheal: policies.yaml: policies[2].steps: missing\n"


def test_a_failure_is_a_message_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any other failure that gpuheal tells apart is one line and status 1."""

    def blind(argv: list[str]) -> int:
        raise ObserveError("kubernetes", "connection refused")

    stand_in(monkeypatch, blind)
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err == "gpuheal: kubernetes: connection refused\n"


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (2, 2), ("message", 1)])
def test_argparse_exits_become_the_status(monkeypatch: pytest.MonkeyPatch, code: object, status: int) -> None:
    """A subcommand's SystemExit ends only the subcommand: main returns its status."""

    def leaving(argv: list[str]) -> int:
        raise SystemExit(code)

    stand_in(monkeypatch, leaving)
    assert cli.main(["probe", "--help"]) == status


def test_arguments_reach_the_command_and_its_status_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gets exactly the arguments after its name; what it returns is the exit status."""
    got: list[str] = []

    def noting(argv: list[str]) -> int:
        got.extend(argv)
        return 7

    stand_in(monkeypatch, noting)
    assert cli.main(["probe", "--x", "y"]) == 7
    assert got == ["--x", "y"]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_of_the_table_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each listed command can be loaded and says what it takes."""
    assert cli.main([name, "--help"]) == 0
    assert f"usage: gpuheal {name}" in capsys.readouterr().out
