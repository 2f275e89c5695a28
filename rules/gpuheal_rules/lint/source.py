"""Reads what the linter judges: rules, PrometheusRule objects, Alertmanager configurations, Grafana alerts, policies.

What a file is follows from its content, not from its name, so that a folder can be given as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from gpuheal_rules.catalogue.reader import parse_duration

Node = Any
"""A node of promql-parser's tree; the package has no types."""

DEFAULT_INTERVAL = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: the check that found it, where, and what to do about it."""

    check: str
    file: str
    where: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}: {self.check}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One recording or alerting rule; `tree` is None when the expression does not parse."""

    file: str
    group: str
    index: int
    interval: timedelta
    name: str
    alert: bool
    expr: str
    tree: Node | None
    problem: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    wait: timedelta

    @property
    def where(self) -> str:
        """The path people find it under."""
        return f"{self.group}[{self.index}] {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHead:
    """A group's own keys, without its rules."""

    file: str
    name: str
    keys: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that is no rule file: an Alertmanager configuration, a policy file, Grafana's alerts."""

    file: str
    kind: str
    data: Any


@dataclass(slots=True, kw_only=True)
class Sources:
    """Everything read, in order; `broken` are files that could not be read or understood."""

    rules: list[Rule] = field(default_factory=list)
    groups: list[GroupHead] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    runbooks: dict[str, Path] = field(default_factory=dict)
    broken: list[Finding] = field(default_factory=list)

    def of(self, kind: str) -> Iterator[Document]:
        """The documents of one kind."""
        return (document for document in self.documents if document.kind == kind)


def read(paths: Sequence[Path]) -> Sources:
    """Everything below `paths`; unreadable files become findings, never exceptions."""
    sources = Sources()
    for path in _files(paths, sources):
        if path.suffix == ".md":
            if path.parent.name == "runbooks" and path.name != "README.md":
                sources.runbooks[path.stem] = path
            continue
        try:
            documents = list(yaml.load_all(path.read_text(encoding="utf-8"), _Loader))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
            line = str(problem).splitlines()[0]
            sources.broken.append(Finding(check="read", file=str(path), where="", problem=f"cannot be read: {line}"))
            continue
        for data in documents:
            _take(sources, path, data)
        if not any(documents):
            sources.broken.append(_nothing(path, "is empty"))
        elif path in paths and all(kind_of(data) == "unknown" for data in documents):
            sources.broken.append(_nothing(path, "holds no rules, routes, Grafana alerts or policies"))
    return sources


def _nothing(path: Path, why: str) -> Finding:
    return Finding(check="read", file=str(path), where="", problem=f"{why}: nothing is judged")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads a bare `=` as the text it is: people write `matchType: =`, which YAML 1.1 gives a tag of its own."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def listed(value: Any) -> list[Any]:
    """The value when it is a list, else an empty one: a malformed document has nothing there."""
    return value if isinstance(value, list) else []


def mapped(value: Any) -> dict[Any, Any]:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def _files(paths: Sequence[Path], sources: Sources) -> Iterator[Path]:
    for path in dict.fromkeys(paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in {".yaml", ".yml", ".md"} and _wanted(p))
            if not inside:
                sources.broken.append(_nothing(path, "has no .yaml, .yml or .md file"))
            yield from inside
        elif path.is_file():
            yield path
        else:
            sources.broken.append(Finding(check="read", file=str(path), where="", problem="no such file or folder"))


def _wanted(path: Path) -> bool:
    """Neither promtool's test files nor the catalogue are rules."""
    return not (path.name.endswith((".test.yaml", "_test.yaml")) or "catalog" in path.parts)


def kind_of(data: Any) -> str:
    """What a YAML document is: rules, prometheusrule, alertmanager, values, object, grafana, policies or unknown."""
    if not isinstance(data, dict):
        return "unknown"
    objects = {"PrometheusRule": "prometheusrule", "AlertmanagerConfig": "object"}
    if str(data.get("kind")) in objects:
        return objects[str(data["kind"])]
    groups = data.get("groups")
    if isinstance(groups, list):
        nested = [rule for group in groups for rule in listed(mapped(group).get("rules"))]
        return "grafana" if any(isinstance(rule, dict) and "noDataState" in rule for rule in nested) else "rules"
    if "route" in data and "receivers" in data:
        return "alertmanager"
    if isinstance(data.get("alertmanager"), dict):
        return "values"
    return "policies" if "policies" in data else "unknown"


def _take(sources: Sources, path: Path, data: Any) -> None:
    kind = kind_of(data)
    if kind == "prometheusrule":
        data = mapped(data.get("spec"))
    elif kind != "rules":
        sources.documents.append(Document(file=str(path), kind=kind, data=data))
        return
    groups = listed(data.get("groups"))
    if not any(listed(mapped(group).get("rules")) for group in groups):
        sources.broken.append(_nothing(path, "has no rules"))
    for index, group in enumerate(groups):
        if not isinstance(group, dict) or not isinstance(group.get("name"), str):
            where = f"groups[{index}]"
            sources.broken.append(Finding(check="read", file=str(path), where=where, problem="a group without a name"))
            continue
        keys = {key: value for key, value in group.items() if key != "rules"}
        sources.groups.append(GroupHead(file=str(path), name=group["name"], keys=keys))
        interval = _span(group.get("interval"), DEFAULT_INTERVAL)
        for number, rule in enumerate(listed(group.get("rules"))):
            _rule(sources, path, group["name"], number, interval, rule)


def _rule(sources: Sources, path: Path, group: str, index: int, interval: timedelta, raw: Any) -> None:
    name = (raw.get("alert") or raw.get("record")) if isinstance(raw, dict) else None
    if not isinstance(name, str) or "expr" not in raw:
        problem = "a rule needs expr and one of alert and record"
        sources.broken.append(Finding(check="read", file=str(path), where=f"{group}[{index}]", problem=problem))
        return
    expr = str(raw["expr"])
    tree, problem = parse(expr)
    sources.rules.append(
        Rule(
            file=str(path),
            group=group,
            index=index,
            interval=interval,
            name=name,
            alert="alert" in raw,
            expr=expr,
            tree=tree,
            problem=problem,
            labels={str(key): str(value) for key, value in mapped(raw.get("labels")).items()},
            annotations={str(key): str(value) for key, value in mapped(raw.get("annotations")).items()},
            wait=_span(raw.get("for"), timedelta(0)),
        )
    )


def parse(expr: str) -> tuple[Node | None, str]:
    """The tree of an expression, or None and what is wrong with it."""
    try:
        return promql_parser.parse(re.sub(r"#.*", "", expr)), ""
    except ValueError as problem:
        return None, str(problem)


def _span(value: Any, default: timedelta) -> timedelta:
    try:
        return parse_duration(str(value)) if value is not None else default
    except ValueError:
        return default
