"""`gpuheal serve`: run the responder until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("gpuheal")


def main(argv: Sequence[str]) -> int:
    """Run the responder as the settings file says; ConfigError for a bad file.

    Return 0 after a clean stop, 1 when one of its tasks has ended by itself.
    """
    parser = argparse.ArgumentParser(
        prog="gpuheal serve",
        description="Run the responder: receive Alertmanager's webhook and remediate faulty GPU nodes.",
    )
    parser.add_argument("--config", type=Path, required=True, help="settings file (YAML); see responder/SETTINGS.md")
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default: info"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(_serve(args.config))


async def _serve(config: Path) -> int:
    from gpuheal_responder.app import build
    from gpuheal_responder.config.settings import load
    from gpuheal_responder.shell.build import parts_of

    settings = load(config)
    app = build(settings, await parts_of(settings))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await app.start(failed=stop.set)
        log.info("listening on %s:%d", settings.listen.host, app.port)
        await stop.wait()
    finally:
        await app.stop()
    if app.supervisor.failure:
        log.critical("stopping: essential task failed: %s", app.supervisor.failure)
        return 1
    return 0
