"""Everything that is generated, as texts by path; `check` compares them with the files byte by byte."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from gpuheal_rules import policies, runbook
from gpuheal_rules.catalogue import counters
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.render import HEADER, build_groups, prometheus_rules, rule_file, to_yaml
from gpuheal_rules.routes import operatorconfig
from gpuheal_rules.routes.alertmanager import AlertmanagerParams
from gpuheal_rules.site import knobs

PROMTOOL = "promtool"
OWNED = ("generated", PROMTOOL, "runbooks")
"""Folders that hold generated files only; a file there that nothing generates is drift too."""

MARK = "by `gpuheal rules build`"
"""Only files that say so are ever removed."""


def makes_cases() -> bool:
    """Return whether promtool cases can be made: their generator comes with the package gpuheal-lab."""
    return find_spec("gpuheal_rules.cases") is not None


def artefacts(options: Options | None = None, catalogue: Catalogue | None = None) -> dict[str, str]:
    """Return every generated text by its path below the part's folder; promtool cases only where they can be made.

    A site builds with options and a catalogue of its own (`gpuheal_rules.site`).
    """
    options, shipped = options or Options(), load_catalogue()
    catalogue = catalogue or shipped
    groups = build_groups(catalogue, options)
    found = {"generated/gpuheal.rules.yaml": rule_file(groups)}
    for index, document in enumerate(prometheus_rules(groups, options)):
        suffix = "" if index == 0 else f"-{index + 1}"
        found[f"generated/prometheusrule{suffix}.yaml"] = HEADER + to_yaml(document)
    routes = operatorconfig.generated(routed(catalogue, options))
    found |= {f"generated/alertmanager/{name}": text for name, text in routes.items()}
    found["generated/dcgm-counters.csv"] = counters.render(catalogue)
    found["generated/dcgm-metrics.configmap.yaml"] = counters.MADE + to_yaml(counters.config_map(catalogue))
    found |= {f"generated/policies/{name}": text for name, text in policies.files(catalogue).items()}
    found |= {f"runbooks/{name}": text for name, text in runbook.pages(catalogue, options).items()}
    if catalogue is not shipped and makes_cases():
        from gpuheal_rules.cases.site import site_files

        found |= {f"{PROMTOOL}/{name}": text for name, text in site_files(catalogue, shipped).items()}
    if options != Options() or catalogue is not shipped:
        return found
    found["KNOBS.md"] = knobs.page(catalogue, options)
    if makes_cases():
        from gpuheal_rules.cases.build import promtool_files

        found |= {f"{PROMTOOL}/{name}": text for name, text in promtool_files(catalogue).items()}
    return found


def routed(catalogue: Catalogue, options: Options) -> AlertmanagerParams:
    """Return what the site decides about the way of its alerts."""
    params = operatorconfig.DEFAULT_PARAMS
    told = tuple(name for name in params.people_only_alerts if name not in catalogue.silenced)
    return replace(params, namespace=options.namespace, people_only_alerts=told)


def write(folder: Path, found: dict[str, str]) -> list[str]:
    """Write the files below `folder`, remove generated files that are no longer made, and return what changed."""
    changed = []
    for name, text in found.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    for name in stale(folder, found):
        if MARK in (folder / name).read_text(encoding="utf-8"):
            (folder / name).unlink()
            changed.append(name)
    return changed


def stale(folder: Path, found: dict[str, str]) -> list[str]:
    """Return files of the generated folders that nothing generates; promtool cases only where they can be made."""
    present = [
        path.relative_to(folder).as_posix()
        for top in OWNED
        if top != PROMTOOL or makes_cases()
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    ]
    return [name for name in present if name not in found]


def drift(folder: Path, found: dict[str, str]) -> list[str]:
    """Return the paths whose file is missing, differs, or should not exist."""
    wrong = [
        name
        for name, text in found.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode()
    ]
    return wrong + stale(folder, found)
