"""`gpuheal check`: settings and policies as the responder would read them, nothing started."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuheal_responder.config.settings import Settings
    from gpuheal_responder.core.policy import Policy


def main(argv: Sequence[str]) -> int:
    """Print what the files say; ConfigError (exit status 2) for the first mistake in any of them."""
    parser = argparse.ArgumentParser(
        prog="gpuheal check",
        description="Validate settings and policy files. On the first error, print it and exit with status 2.",
    )
    parser.add_argument("--config", type=Path, help="settings file; the files it refers to are checked as well")
    parser.add_argument(
        "--skip-secrets",
        action="store_true",
        help="do not open the token, password and certificate files, which may exist on the cluster only",
    )
    parser.add_argument("policies", nargs="*", type=Path, metavar="POLICIES", help="policy files")
    args = parser.parse_args(argv)
    if args.config is None and not args.policies:
        parser.error("give a settings file (--config) or policy files")
    if args.config is not None:
        from gpuheal_responder.config.settings import load

        settings = load(args.config)
        if not args.skip_secrets:
            _open(settings)
        print(f"{args.config}: ok")
        print(_summary(settings))
        _show(settings.policies)
        _providers(settings)
    if args.policies:
        _show(args.policies)
    return 0


def _open(settings: Settings) -> None:
    """Read every secret and certificate that the settings name."""
    from gpuheal_responder.shell.http.server import tls_context
    from gpuheal_responder.shell.process.reload import read_secret
    from gpuheal_responder.shell.sources.client import Client

    listen = settings.listen
    shown = [read_secret(file) for file in listen.webhook_token_files]
    for file in listen.metrics_token_files:
        if read_secret(file) in shown:
            print(f"warning: {file}: also opens the webhook: a scraper could send alerts")
    if listen.tls is not None:
        tls_context(listen.tls)
    for endpoint in (*settings.alertmanagers, settings.prometheus):
        Client(endpoint, source="check", on_problem=lambda _: None)
    if settings.watchdog.url_file is not None:
        read_secret(settings.watchdog.url_file)


def _providers(settings: Settings) -> None:
    """Raise ConfigError for a reboot whose provider the settings do not configure."""
    from gpuheal_responder.errors import ConfigError
    from gpuheal_responder.providers import PROVIDERS, configured
    from gpuheal_responder.shell.policies import read_policies

    known = configured(settings.providers.by_name)
    for policy in read_policies(settings.policies):
        for step in policy.steps:
            wanted = getattr(step.params, "provider", None)
            if wanted is not None and (wanted or settings.providers.default) not in known:
                name = wanted or settings.providers.default
                raise ConfigError(
                    ", ".join(map(str, settings.policies)),
                    f"{policy.name}: {step.key}.provider",
                    f"provider {name!r} is not configured",
                    f"{'; '.join(kind.hint for kind in PROVIDERS.values())}; known: {', '.join(known) or 'none'}",
                )


def _summary(settings: Settings) -> str:
    named = f"cluster {settings.cluster}" if settings.cluster else "no cluster label"
    peers = ", ".join(peer.url for peer in settings.alertmanagers)
    mode, prometheus = settings.engine.mode, settings.prometheus.url
    lines = (f"{named}; mode at most {mode}", f"Alertmanager {peers}", f"Prometheus {prometheus}")
    return "\n".join(f"  {line}" for line in lines)


def _show(files: Sequence[Path]) -> None:
    from gpuheal_responder.shell.policies import read_policies

    policies = read_policies(files)
    print(f"{', '.join(map(str, files))}: ok, {len(policies)} {'policy' if len(policies) == 1 else 'policies'}")
    for policy in policies:
        print(_line(policy))


def _line(policy: Policy) -> str:
    labels = ", ".join(f"{r.key} {r.operator} {' '.join(r.values)}".rstrip() for r in policy.nodes)
    where = f" on nodes with {labels}" if labels else ""
    steps = " -> ".join(step.key for step in policy.steps)
    return f"  {policy.name} ({policy.mode}): {', '.join(policy.faults)}{where}: {steps}"
