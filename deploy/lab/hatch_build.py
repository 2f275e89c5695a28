"""Adds to the wheel what it carries of the rules' package; an editable install finds that in the checkout anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CARRIED = ("cases", "mutation")


class Carry(BuildHookInterface):  # type: ignore[type-arg]
    """The one hook of this distribution."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the generator of promtool cases and its mutants where the rules' package looks for them."""
        if version != "standard":
            return
        rules = Path(self.root).parents[1] / "rules" / "gpuheal_rules"
        for name in CARRIED:
            if not (rules / name).is_dir():
                raise FileNotFoundError(f"{rules / name}: gpuheal-lab is built in a checkout of the whole project")
            build_data["force_include"][str(rules / name)] = f"gpuheal_rules/{name}"
