"""`gpuheal rules coverage`: which alerts can never fire at a site, and what is missing there."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.coverage.ask import Unreachable, ask
from gpuheal_rules.coverage.judge import READERS, Covered, Need, covered, looked_for, raw_names, sources_of
from gpuheal_rules.coverage.seen import Seen, from_file
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.options import PROFILES, Options, from_arguments
from gpuheal_rules.render import build_groups
from gpuheal_rules.site.read import Site, read_site

EPILOG = "Exit status: 0 if every alert can fire, 1 if some cannot, 2 for wrong input or if Prometheus does not answer."

FULL_MEMORY = timedelta(hours=24)
"""The longest that an alert looks back: growth of counters, owners of programs that failed."""

MEMORY_YOUNG = """\
This Prometheus has evaluated the rules for {young} only: it is new, or has lost its data. It knows nothing of faults
that only dcgm-exporter showed earlier, and for 24h it does not see all growth of counters and all owners of a GPU."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    made = argparse.ArgumentParser(
        prog="gpuheal rules coverage",
        description="List the alerts that can never fire with the series that Prometheus has, and what is missing.",
        epilog=EPILOG,
    )
    where = made.add_mutually_exclusive_group(required=True)
    where.add_argument("--prometheus", metavar="URL", help="URL of the Prometheus that evaluates the rules")
    where.add_argument(
        "--from",
        dest="file",
        type=Path,
        metavar="FILE",
        help="file with series, instead of --prometheus: one per line, or the API's list of names",
    )
    made.add_argument("--token-file", type=Path, help="file with a bearer token for Prometheus")
    made.add_argument("--ca-file", type=Path, help="CA certificate for Prometheus' server certificate")
    made.add_argument("--site", type=Path, metavar="FILE", help="site file that the rules are built with")
    made.add_argument("--label-profile", choices=tuple(PROFILES), help="label that holds the node name in your metrics")
    made.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="SOURCE=REGEX",
        help="regular expression for a source's `job` label",
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def main(argv: Sequence[str]) -> int:
    """Print what is missing; the exit status says whether every alert can fire."""
    args = parser().parse_args(list(argv))
    try:
        site = read_site(args.site) if args.site else Site(catalogue=load_catalogue(), options=Options())
        options, catalogue = from_arguments(vars(args), site.options), site.catalogue
        groups = build_groups(catalogue, options)
        labels = looked_for(options)
        if args.file is not None:
            seen = from_file(args.file, labels)
        else:
            asked = ask(
                args.prometheus,
                sorted(raw_names(groups)),
                labels,
                sorted(READERS),
                token_file=args.token_file,
                ca_file=args.ca_file,
            )
            seen = asyncio.run(asked)
    except (ConfigError, ValueError, Unreachable) as problem:
        print(f"gpuheal rules coverage: {problem}", file=sys.stderr)
        return 2
    found = covered(catalogue, options, groups, seen)
    sources = sources_of(options, seen)
    if args.json:
        print(json.dumps(document(found, sources, seen), indent=2))
    else:
        print(text(found, sources, seen, options), end="")
    return 1 if any(one.verdict == "never" for one in found) else 0


def document(found: Sequence[Covered], sources: Mapping[str, Sequence[Need]], seen: Seen) -> dict[str, Any]:
    """Return the answer as JSON has it."""
    return {
        "labels_known": seen.labelled,
        "remembers_seconds": seen.remembers,
        "sources": {source: [asdict(need) for need in missing] for source, missing in sources.items()},
        "alerts": [asdict(one) for one in found],
    }


def text(found: Sequence[Covered], sources: Mapping[str, Sequence[Need]], seen: Seen, options: Options) -> str:
    """Return the answer for people: what is missing, by source, then the alerts that cannot fire or know less."""
    lines = ["Sources:"]
    missing = {need for one in found for need in one.missing}
    for source in sorted({*sources, *(need.source for need in missing)}):
        needs = sorted({*sources.get(source, ()), *(need for need in missing if need.source == source)})
        lines.append(f"  {source}: {'ok' if not needs else 'missing'}")
        lines += [f"    {need.what}" + (f" ({need.hint})" if need.hint else "") for need in needs]
    if not seen.labelled:
        lines.append("  Labels are not known: jobs, and the labels that name nodes and GPUs, were not checked.")
    node = options.labels.node
    if "DCGM_FI_DEV_GPU_TEMP" in seen.lacking.get(node, frozenset()) & seen.having.get(node, frozenset()):
        lines.append(f"  Some series of dcgm-exporter lack the label {node}.")
    if seen.remembers is not None and seen.remembers < FULL_MEMORY.total_seconds():
        minutes = timedelta(minutes=max(int(seen.remembers // 60), 1))
        lines += ["", MEMORY_YOUNG.format(young=format_duration(minutes))]
    for verdict, title in (("never", "can never fire"), ("weaker", "can fire, but not from all of their evidence")):
        chosen = [one for one in found if one.verdict == verdict]
        lines += ["", f"{len(chosen)} of {len(found)} alerts {title}:"] if chosen else []
        for one in chosen:
            what = "; ".join(f"{need.source}: {need.what}" for need in one.missing)
            lines.append(f"  {one.alert} ({one.severity}): {what}")
    if all(one.verdict == "fires" for one in found):
        lines += ["", f"All {len(found)} alerts can fire, from all of their evidence."]
    return "\n".join(lines) + "\n"
