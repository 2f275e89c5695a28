"""What `servers.yaml` says, as values: which servers there are, how one is recognised, where one can come from."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gpuheal_lab.servers.process import LabError

DATA = Path(__file__).with_name("servers.yaml")


class Generation(enum.StrEnum):
    """Which of the two supported generations: Debian's, which old clusters run, or the current one."""

    DEBIAN = "debian"
    CURRENT = "current"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Version:
    """A dotted version, comparable; parts not given count as 0."""

    major: int
    minor: int = 0
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """`3`, `3.13` or `3.13.5`, with or without a leading v. Raises ValueError."""
        parts = [int(part) for part in text.removeprefix("v").split(".")[:3]]
        return cls(major=parts[0], minor=parts[1] if len(parts) > 1 else 0, patch=parts[2] if len(parts) > 2 else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Versions from `at_least` up to but without `below`."""

    at_least: Version
    below: Version

    def __contains__(self, version: Version) -> bool:
        return self.at_least <= version < self.below

    def __str__(self) -> str:
        return f">= {self.at_least}, < {self.below}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianPackage:
    """A Debian package and the file in it; `needs_install`: the file does not run from where it was only unpacked."""

    package: str
    binary: str
    needs_install: bool = False
    service: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoModule:
    """A Go module at the version known to build, with the dependencies that have to be raised for it."""

    module: str
    version: str
    reason: str
    raise_: Mapping[str, str]
    tags: tuple[str, ...] = ()
    staging: str = ""
    godebug: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoBuild:
    """One command of a module; `stamp` is the linker variable that carries the version."""

    module: GoModule
    package: str
    minutes: int
    stamp: str = ""
    stamp_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerImage:
    """An image, its tag per generation, and the file in it to run."""

    image: str
    tags: Mapping[Generation, str]
    entrypoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One server: how to recognise it and every way it can be had."""

    name: str
    also_called: tuple[str, ...]
    assets: bool
    probe_args: tuple[str, ...]
    probe_pattern: re.Pattern[str]
    generations: Mapping[Generation, Span]
    debian: DebianPackage | None
    go: GoBuild | None
    docker: DockerImage | None

    @property
    def variable(self) -> str:
        """The environment variable that names a binary to use instead of any other: GPUHEAL_KUBE_APISERVER."""
        return "GPUHEAL_" + self.name.upper().replace("-", "_")

    @property
    def go_version(self) -> str:
        """The version a Go build reports, such as 3.13.5; empty without a Go build."""
        if self.go is None:
            return ""
        version = Version.parse(self.go.module.version)
        if (
            self.go.module.module == "github.com/prometheus/prometheus"
        ):  # its module is numbered 0.<100 * major + minor>
            return f"{version.minor // 100}.{version.minor % 100}.{version.patch}"
        return str(version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All servers, and the Go toolchain that builds them."""

    servers: Mapping[str, ServerSpec]
    go_at_least: Version
    go_wheel: str

    def spec(self, name: str) -> ServerSpec:
        """The server of that name; raises LabError listing the names there are."""
        if name not in self.servers:
            raise LabError(f"no server is called {name!r}; there are {', '.join(self.servers)}")
        return self.servers[name]


def load(path: Path = DATA) -> Catalog:
    """The catalogue read from `servers.yaml`; raises KeyError or ValueError on a malformed one (a test reads it)."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    modules = {name: _module(entry) for name, entry in raw["modules"].items()}
    return Catalog(
        servers={name: _server(name, entry, modules) for name, entry in raw["servers"].items()},
        go_at_least=Version.parse(raw["go"]["at_least"]),
        go_wheel=raw["go"]["wheel"],
    )


def _module(raw: Mapping[str, Any]) -> GoModule:
    return GoModule(
        module=raw["module"],
        version=raw["version"],
        reason=raw["reason"],
        raise_=raw.get("raise", {}),
        tags=tuple(raw.get("tags", ())),
        staging=raw.get("staging", ""),
        godebug=raw.get("godebug", ""),
    )


def _server(name: str, raw: Mapping[str, Any], modules: Mapping[str, GoModule]) -> ServerSpec:
    go = raw.get("go")
    docker = raw.get("docker")
    return ServerSpec(
        name=name,
        also_called=tuple(raw.get("also_called", ())),
        assets=raw.get("assets", False),
        probe_args=tuple(raw["probe"]["args"]),
        probe_pattern=re.compile(raw["probe"]["pattern"]),
        generations={
            Generation(key): Span(at_least=Version.parse(span["at_least"]), below=Version.parse(span["below"]))
            for key, span in raw["generations"].items()
        },
        debian=DebianPackage(**raw["debian"]) if "debian" in raw else None,
        go=GoBuild(**{**go, "module": modules[go["module"]]}) if go else None,
        docker=DockerImage(
            image=docker["image"],
            tags={Generation(key): tag for key, tag in docker["tags"].items()},
            entrypoint=docker["entrypoint"],
        )
        if docker
        else None,
    )
