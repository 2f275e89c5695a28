"""The manifests that are made from the code: `make generated`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gpuheal_responder.shell.kube import admission, roles, schema

Documents = Iterable[tuple[str, Mapping[str, Any]]]
COMMAND = "python -m gpuheal_responder.shell.kube.generate deploy/kustomize/base"
WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Block style, lists indented, innermost lists and mappings of plain values on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _sequence(dumper: _Dumper, data: Sequence[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=_short(data))


def _mapping(dumper: _Dumper, data: Mapping[str, Any]) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=_short(data.values()))


def _short(values: Collection[Any]) -> bool:
    words = [str(value) for value in values if not isinstance(value, list | dict) or not value]
    return len(words) == len(values) and sum(map(len, words)) < WIDTH / 2 and not any("\n" in w for w in words)


def _text(dumper: _Dumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(list, _sequence)
_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(str, _text)

FILES: Mapping[str, Callable[[], Documents]] = {
    "crd.yaml": lambda: [("The only CRD: one object per case.", schema.definition())],
    "rbac.yaml": roles.documents,
    "admission.yaml": admission.documents,
}


def text(name: str) -> str:
    """Return the content of one of FILES."""
    found = [f"# Made by `{COMMAND}`; edit the code instead.\n"]
    for index, (words, document) in enumerate(FILES[name]()):
        found.append("---\n" if index else "")
        found += [f"# {line}\n" for line in words.splitlines()]
        found.append(yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True))
    return "".join(found)


def main(argv: Sequence[str]) -> int:
    """Write all FILES into the folder."""
    (folder,) = argv
    for name in FILES:
        (Path(folder) / name).write_text(text(name), encoding="utf-8")
        print(Path(folder) / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
