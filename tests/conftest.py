"""Which generation of servers a test needs: `make test` runs what Debian's serve, `make test-cluster` the others."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["tests.integration.plane"]

DEBIAN_FIXTURES = frozenset({"promtool"})

SLOW = frozenset(
    {"test_prometheus_path", "test_pair", "test_pipeline", "test_behaviour", "test_servers_real", "test_daemon"}
)
"""Files whose tests wait for servers or children for many seconds."""


def _debian(item: pytest.Item) -> bool:
    """Return whether Debian's servers are all that a test needs."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    generations = {str(value) for value in params.values() if type(value).__name__ == "Generation"}
    if generations:
        return generations == {"debian"}
    return not DEBIAN_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def _allowance(item: pytest.Item) -> float:
    """How many seconds a test may take by its own mark; without one 0, or 60 in a file that is known to be slow."""
    own = item.get_closest_marker("timeout")
    return float(own.args[0]) if own and own.args else 60.0 * (item.path.stem in SLOW)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With GPUHEAL_GENERATION=debian or =current keep that part of the tests marked `servers`; both are all.

    Tests that may take long begin first, so that none of several workers ends long after the rest.
    """
    items.sort(key=_allowance, reverse=True)
    wanted = os.environ.get("GPUHEAL_GENERATION", "")
    if wanted not in {"", "debian", "current"}:
        raise pytest.UsageError(f"GPUHEAL_GENERATION is debian, current or unset, not {wanted!r}")
    if not wanted:
        return
    other = [i for i in items if i.get_closest_marker("servers") and _debian(i) != (wanted == "debian")]
    config.hook.pytest_deselected(items=other)
    gone = set(other)
    items[:] = [i for i in items if i not in gone]
