"""What the tests of the rules share: the catalogue, the rendered groups, and promtool of either generation."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import build_groups

RULES = Path(__file__).resolve().parents[2] / "rules"


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The committed catalogue."""
    return load_catalogue()


@pytest.fixture(scope="session")
def groups(catalogue: Catalogue) -> tuple[Group, ...]:
    """All groups with default options."""
    return build_groups(catalogue, Options())


@pytest.fixture(scope="session")
def promtool() -> str:
    """promtool of Debian's generation, 2.42: the oldest that must accept the rules."""
    return str(ensure("promtool", Generation("debian")).path)
