"""`gpuheal rules alertmanager`: the routes in the form a site needs, printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gpuheal_rules.routes.alertmanager import AlertmanagerParams, render_config
from gpuheal_rules.routes.operatorconfig import DEFAULT_PARAMS, render_inhibition, render_object, render_values

FORMS: Mapping[str, Callable[[AlertmanagerParams], str]] = {
    "own": render_config,
    "values": render_values,
    "inhibition": lambda _: render_inhibition(),
    "object": render_object,
}


def main(argv: Sequence[str], of_site: Callable[[Path], AlertmanagerParams] | None = None) -> int:
    """Print one form for a site; exit status 0, or 2 with the reason when the arguments would lose alerts.

    `of_site` reads the site's file that `--site` names; flags override what it says.
    """
    parser = argparse.ArgumentParser(
        prog="gpuheal rules alertmanager", description="Print an Alertmanager configuration with gpuheal's routes."
    )
    parser.add_argument(
        "form",
        choices=sorted(FORMS),
        help="own: a complete alertmanager.yml; values: Helm values for kube-prometheus-stack; inhibition: only "
        "their inhibition rules; object: an AlertmanagerConfig, to be used with inhibition",
    )
    if of_site is not None:
        parser.add_argument("--site", type=Path, metavar="FILE", help="site file: namespace and disabled alerts")
    parser.add_argument("--webhook-url", help="URL of the responder's webhook")
    parser.add_argument("--bearer-token-file", help="file with the responder's webhook token")
    parser.add_argument("--ca-file", help="CA certificate for the responder's server certificate")
    parser.add_argument("--cert-file", help="client certificate for mTLS with the responder")
    parser.add_argument("--key-file", help="private key of the client certificate")
    parser.add_argument("--namespace", help="value of the `namespace` label of gpuheal's alerts")
    parser.add_argument(
        "--deadman-url", help="URL of an external heartbeat monitor, which pages when the heartbeat stops"
    )
    parser.add_argument(
        "--people-receiver",
        help="name of the receiver that notifies your on-call",
    )
    args = vars(parser.parse_args(list(argv)))
    form, site = args.pop("form"), args.pop("site", None)
    given = {name: value for name, value in args.items() if value is not None}
    try:
        base = of_site(site) if of_site is not None and site is not None else DEFAULT_PARAMS
        print(FORMS[form](replace(base, **given)), end="")
    except ValueError as problem:
        print(f"gpuheal rules alertmanager: {problem}", file=sys.stderr)
        return 2
    return 0
