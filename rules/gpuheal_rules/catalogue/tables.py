"""The exporter's tables of codes, made from this catalogue: the exporter stands alone and reads no YAML on a node.

`python -m gpuheal_rules.catalogue.tables FOLDER` writes them; a test compares them byte for byte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuheal_rules.catalogue.reader import load_yaml

DATA = Path(__file__).parent / "data"
Row = Sequence[object]
_FATAL = ("fatal_device", "fatal_link", "contained")
_NOT_FATAL = ("contained", "non_fatal")


def _xids(top: Mapping[str, Any]) -> Iterable[Row]:
    for row in top["xids"]:
        yield row["code"], row["name"], row["action"], row["class"]


def _recovery(top: Mapping[str, Any]) -> Iterable[Row]:
    for row in top["recovery_actions"]:
        suffix = "_after_drain" if row.get("urgency") == "after_drain" else ""
        yield row["value"], row["action"] + suffix


def _sxids(top: Mapping[str, Any]) -> Iterable[Row]:
    for row in top["sxids"]:
        severities = set(row["driver_severity"] or ())
        device = row["code"] in top["always_fatal"] or "fatal_device" in severities
        link = not severities.isdisjoint((*_FATAL, *_NOT_FATAL))
        fatal = "" if severities.isdisjoint(_FATAL) else "F"
        other = "" if severities.isdisjoint(_NOT_FATAL) else "N"
        yield row["code"], row["action"], "device" if device else "link" if link else "-", fatal + other or "-"


def _nvlink5(top: Mapping[str, Any]) -> Iterable[Row]:
    for row in top["rows"]:
        words = [f"0x{word:08x}" for word in (*row["v1"], *row["v2"])]
        status = row["status"] if row["status"] == "*" else f"0x{row['status']:08x}"
        verdict = (row["action"], row["severity"], row["bucket"], row["followup"])
        yield row["xid"], "/".join(row["units"]), *words, status, *verdict


def _reasons(top: Mapping[str, Any]) -> Iterable[Row]:
    for row in top["reasons"]:
        yield row["value"], row["meaning"], row.get("blames", "-")


def _actions(top: Mapping[str, Any]) -> Iterable[Row]:
    for action in top["actions"]:
        yield (action,)


# table → catalogue file, columns, rows
_TABLES: Mapping[str, tuple[str, str, Callable[[Mapping[str, Any]], Iterable[Row]]]] = {
    "actions.tsv": ("exporter.yaml", "actions from mild to strong", _actions),
    "xids.tsv": (
        "xids.yaml",
        "code, name in the driver's nverror.h, first action, class; fallback for 74, 94, 95, 144-150 and 154",
        _xids,
    ),
    "recovery.tsv": ("xids.yaml", "value of Xid 154 and NVML field 230, action", _recovery),
    "sxids.tsv": (
        "sxids.yaml",
        "code, first action, reach (device = the whole fabric, link, or -), words the driver may print (F fatal, "
        "N not fatal, - none known)",
        _sxids,
    ),
    "nvlink5.tsv": (
        "nvlink5.yaml",
        "Xid, units, V1 mask, V1 value, V2 mask, V2 value, error status (* = any), action, severity, bucket, follow-up",
        _nvlink5,
    ),
    "nvlink5-reasons.tsv": ("nvlink5.yaml", "reason of a link event, meaning, who is to blame (- = nobody)", _reasons),
}


def tables() -> Mapping[str, str]:
    """Return the text of every table by file name."""
    made = {}
    for name, (source, columns, rows) in _TABLES.items():
        top = load_yaml(DATA / source)
        assert isinstance(top, dict)
        lines = ["\t".join(str(field) for field in row) for row in rows(top)]
        head = f"# Generated from the rule catalogue, {source}. Tab-separated: {columns}.\n"
        made[name] = head + "\n".join(lines) + "\n"
    return made


if __name__ == "__main__":
    for file, text in tables().items():
        Path(sys.argv[1], file).write_text(text, encoding="utf-8")
