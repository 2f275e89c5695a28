"""What ships around the exporter says what the exporter does: unit, image, README."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
from collections.abc import Sized
from pathlib import Path

import pytest

from gpuheal_exporters.catalogue import codes as catalog
from gpuheal_exporters.catalogue import nvlink5
from gpuheal_exporters.collectors.registry import HARDWARE, KERNEL_LOG
from gpuheal_exporters.options import parse_options

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "deploy/systemd/gpuheal-exporter.service"
IMAGE = REPOSITORY / "deploy/docker/exporter.Dockerfile"
README = REPOSITORY / "exporters/README.md"
PACKAGE = REPOSITORY / "exporters/gpuheal_exporters"


def unit() -> dict[str, str]:
    """The [Service] section."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def instruction(name: str) -> list[str]:
    """The JSON arguments of the image's last instruction of that name."""
    found = re.findall(rf"^{name} (\[.*\])$", IMAGE.read_text(), re.MULTILINE)
    arguments: list[str] = json.loads(found[-1])
    return arguments


def test_the_unit_starts_the_exporter_with_options_it_has() -> None:
    """After systemd's substitutions the command line is one that the exporter accepts."""
    service = unit()
    more = re.fullmatch(r'GPUHEAL_EXPORTER_OPTIONS="(.*)"', service["Environment"])
    assert more is not None
    command = service["ExecStart"].replace("$GPUHEAL_EXPORTER_OPTIONS", more[1])
    command = command.replace("${STATE_DIRECTORY}", "/var/lib/gpuheal").replace("${CREDENTIALS_DIRECTORY}", "/run/c")
    program, part, *arguments = shlex.split(command)
    assert (Path(program).name, part) == ("gpuheal", "exporter")
    options = parse_options(arguments)
    assert options.token_file == Path("/run/c/token")
    assert options.state_dir == Path("/var/lib") / service["StateDirectory"]


def test_the_unit_keeps_what_the_exporter_needs_and_no_more() -> None:
    """One capability for /dev/kmsg; nothing that would hide the log or the GPUs."""
    service = unit()
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_SYSLOG"
    assert not {"PrivateDevices", "ProtectKernelLogs", "ProtectProc"} & set(service)
    assert service["Restart"] == "always"


def test_the_image_starts_the_exporter_with_options_it_has() -> None:
    """Entry point and arguments together are a command line the exporter accepts; so is the one in its comment."""
    program, part = instruction("ENTRYPOINT")
    assert (program, part) == ("gpuheal", "exporter")
    assert parse_options(instruction("CMD")).host == "0.0.0.0"
    comment = re.search(r"gpuheal-exporter (--root /host .*)$", IMAGE.read_text(), re.MULTILINE)
    assert comment is not None
    assert parse_options(shlex.split(comment[1])).root == Path("/host")


def test_the_readme_commands_are_accepted() -> None:
    """Every `gpuheal exporter` command of the README parses."""
    commands = re.findall(r"gpuheal exporter([^#\n`|]*)", README.read_text())
    assert len(commands) >= 3
    for command in commands:
        parse_options(shlex.split(command))


def test_the_readme_example_runs() -> None:
    """The Python block of the README runs as it stands, its assertions included."""
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(block, str(README), "exec"), {})


def modules(folder: Path) -> set[str]:
    """The modules of a folder by name."""
    return {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}


def rooms() -> list[Path]:
    """The folders of the package that hold modules."""
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def test_the_readme_map_names_every_room() -> None:
    """The map has a row for each room and each module that is in none, names nothing else, and fits one look."""
    section = README.read_text().split("## Map\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    first = [row.split("|")[1] for row in rows]
    named = [name for cell in first for name in re.findall(r"`([a-z0-9_./]+)`", cell)]
    assert sorted(named) == sorted([f"{room.name}/" for room in rooms()] + [f"{name}.py" for name in modules(PACKAGE)])
    assert len(rows) <= 15


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.name)
def test_a_room_names_every_module_it_holds(room: Path) -> None:
    """The docstring of a room is its map: every module is in its list, and none that does not exist.

    Collectors are listed in their registry instead.
    """
    collectors = [each.build.__module__ for each in KERNEL_LOG] + [each.build.__module__ for each in HARDWARE]
    registered = {module.rpartition(".")[2] for module in collectors if room.name == "collectors"}
    text = (room / "__init__.py").read_text()
    entries = re.findall(r"^- .*$", text, re.MULTILINE)
    heads = [part.partition(":")[0] for entry in entries for part in re.split(r"; (?=`)", entry)]
    assert {name for head in heads for name in re.findall(r"`([a-z0-9_]+)`", head)} == modules(room) - registered


@pytest.mark.parametrize(("name", "rows"), [("xids", 176), ("sxids", 421), ("nvlink5", 98)])
def test_the_tables_ship_with_the_package(name: str, rows: int) -> None:
    """The wheel takes every file of the package, and the tables are in it whole."""
    tables: dict[str, Sized] = {"xids": catalog.xid_rows(), "sxids": catalog.sxid_rows(), "nvlink5": nvlink5.table()}
    assert len(tables[name]) == rows


def test_docstrings_say_what_is_true_after_the_call() -> None:
    """A function's docstring begins with a verb, as an order: `Return the …`, not `The …` or `Returns …`."""
    wrong = re.compile(r"(?:The|A|An|Every|Each|What|Whether|True|False|It|There|Nothing)\b|[A-Z][a-z]+[^s]s\b")
    found = [
        f"{path.name}: {node.name}: {text.splitlines()[0]}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)) and wrong.match(text)
    ]
    assert found == []
