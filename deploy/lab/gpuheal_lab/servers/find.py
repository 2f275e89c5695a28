"""Finds or installs the real servers that tests and the demo run against.

    python -m gpuheal_lab.servers ensure prometheus alertmanager --generation current
    python -m gpuheal_lab.servers list

`find` looks only at what is there; `ensure` also unpacks, builds or pulls. Versions and reasons: servers.yaml.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuheal_lab.servers.process import LabError
from gpuheal_lab.servers.sources import QUICK_WAYS, WAYS, BadVariable, Search, Server
from gpuheal_lab.servers.spec import Catalog, Generation, load

__all__ = ["Attempt", "Generation", "Server", "ServerUnavailable", "cache_root", "ensure", "find", "main"]

CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # Docker's and Podman's own marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way tried, and what it said."""

    way: str
    said: str


class ServerUnavailable(LabError):
    """No way led to the server; the message lists every way tried and what it said."""

    def __init__(self, name: str, generation: Generation | None, attempts: Sequence[Attempt], hint: str = "") -> None:
        self.attempts = tuple(attempts)
        wanted = f"{name} ({generation} generation)" if generation else name
        lines = [f"  {attempt.way}: {attempt.said}" for attempt in attempts]
        super().__init__("\n".join([f"{wanted} cannot be had on this machine:", *lines, *([hint] if hint else [])]))


def cache_root(env: Mapping[str, str] = os.environ) -> Path:
    """Where built and unpacked servers live: $GPUHEAL_CACHE, $XDG_CACHE_HOME/gpuheal or ~/.cache/gpuheal."""
    if env.get("GPUHEAL_CACHE"):
        return Path(env["GPUHEAL_CACHE"])
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "gpuheal"
    return Path(env.get("HOME") or Path.home()) / ".cache" / "gpuheal"


def search_for(
    name: str,
    generation: Generation | None,
    *,
    env: Mapping[str, str] = os.environ,
    catalog: Catalog | None = None,
) -> Search:
    """The search on this machine; raises LabError for a name the catalogue doesn't have."""
    catalog = catalog or load()
    asked = bool(env.get("GPUHEAL_APT_INSTALL"))
    return Search(
        spec=catalog.spec(name),
        generation=generation,
        catalog=catalog,
        cache=cache_root(env),
        env=env,
        say=lambda text: print(f"gpuheal-lab: {text}", file=sys.stderr, flush=True),
        is_root=os.geteuid() == 0,
        may_install=asked or bool(env.get("CI")) or any(mark.exists() for mark in CONTAINER_MARKS),
    )


def ensure(name: str, generation: Generation | None = None, *, env: Mapping[str, str] = os.environ) -> Server:
    """The server can be launched; it was unpacked, built or pulled if need be (minutes). Raises ServerUnavailable."""
    return resolve(search_for(name, generation, env=env), quick=False)


def find(name: str, generation: Generation | None = None, *, env: Mapping[str, str] = os.environ) -> Server:
    """The server as it is on this machine already, nothing changed. Raises ServerUnavailable."""
    return resolve(search_for(name, generation, env=env), quick=True)


def resolve(search: Search, *, quick: bool) -> Server:
    """The first server a way gives; with `quick` only the ways that change nothing are tried."""
    attempts: list[Attempt] = []
    for way, fetch in WAYS:
        if quick and way not in QUICK_WAYS:
            continue
        try:
            return fetch(search)
        except BadVariable as error:
            attempts.append(Attempt(way=way, said=str(error)))
            break
        except (LabError, OSError) as error:
            attempts.append(Attempt(way=way, said=str(error)))
    generation = f" --generation {search.generation}" if search.generation else ""
    hint = f"try: python -m gpuheal_lab.servers ensure {search.spec.name}{generation}" if quick else ""
    raise ServerUnavailable(search.spec.name, search.generation, attempts, hint)


def main(argv: Sequence[str]) -> int:
    """The command line; exit status 1 when a server cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m gpuheal_lab.servers.find", description="Find or install real servers."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    ensuring = commands.add_parser("ensure", help="find, unpack, build or pull servers")
    ensuring.add_argument("names", nargs="+", metavar="NAME")
    ensuring.add_argument("--generation", type=Generation, choices=list(Generation), default=None)
    commands.add_parser("list", help="say where each server comes from, changing nothing")
    chosen = parser.parse_args(argv)
    try:
        if chosen.command == "list":
            return _list()
        for name in chosen.names:
            print(_line(ensure(name, chosen.generation)), flush=True)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _list() -> int:
    for name, spec in load().servers.items():
        for generation in spec.generations:
            try:
                print(f"{generation:8} {_line(find(name, generation))}")
            except ServerUnavailable:
                print(f"{generation:8} {name:24} -")
    return 0


def _line(server: Server) -> str:
    return f"{server.name:24} {server.version!s:9} {server.source:9} {server.where}"
