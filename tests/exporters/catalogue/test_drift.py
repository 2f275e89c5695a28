"""One catalogue: what exporter, rules, cases and alerts spell must be the rule catalogue's spelling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_exporters.catalogue.resolution import ACTIONS
from gpuheal_exporters.collectors.software import PROCESSES, SOCKETS
from gpuheal_exporters.kernel.driverline import FAULT_KINDS
from gpuheal_rules.catalogue.tables import DATA, tables

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / "exporters/gpuheal_exporters/catalogue/data"
_SERIES = re.compile(r"""gpuheal_software_\w+\{[^}]*?component(?:=~|=)"([^"]+)""")


def catalogue(name: str) -> Any:
    """A file of the rule catalogue."""
    return yaml.load((DATA / name).read_text(), Loader=yaml.CSafeLoader)


@pytest.mark.parametrize("name", sorted(tables()))
def test_a_table_is_what_the_catalogue_makes_of_it(name: str) -> None:
    """Byte for byte; `python -m gpuheal_rules.catalogue.tables FOLDER` remakes it."""
    assert (SHIPPED / name).read_text(encoding="utf-8") == tables()[name]


def test_no_table_lies_beside_the_made_ones() -> None:
    """Every table of the exporter has its source in the catalogue."""
    assert {path.name for path in SHIPPED.iterdir()} == set(tables())


def test_components_and_fault_kinds_are_the_catalogues() -> None:
    """The exporter gives exactly the values that the catalogue names."""
    values = catalogue("exporter.yaml")
    assert {*PROCESSES, *SOCKETS} == set(values["components"])
    assert set(FAULT_KINDS) == set(values["kernel_faults"])


def test_every_action_of_the_catalogue_has_a_rank() -> None:
    """No code, switch code or decode row asks for something that `worse` could not compare."""
    used = {row["action"] for row in catalogue("xids.yaml")["xids"]}
    used |= {row["action"] for row in catalogue("sxids.yaml")["sxids"]}
    used |= {row["action"] for row in catalogue("nvlink5.yaml")["rows"]}
    assert used <= set(ACTIONS)


@pytest.mark.parametrize("folder", ["rules/generated", "rules/promtool"])
def test_rules_and_cases_name_components_as_the_exporter_does(folder: str) -> None:
    """No pattern and no case spells a component in a way that the exporter never gives."""
    known = set(catalogue("exporter.yaml")["components"])
    named = {value for path in (REPOSITORY / folder).rglob("*.yaml") for value in _SERIES.findall(path.read_text())}
    assert {"fabric_manager", "device_plugin"} <= named
    assert named <= known
