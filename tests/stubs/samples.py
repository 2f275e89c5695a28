"""Samples of collectors as plain data."""

from __future__ import annotations

from prometheus_client.registry import Collector

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(*collectors: Collector) -> Samples:
    """(name, sorted labels) -> value; fails on a series that appears twice."""
    found: Samples = {}
    for collector in collectors:
        for family in collector.collect():
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in found, f"twice: {key}"
                found[key] = sample.value
    return found


def only(found: Samples, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric, keyed by label values in the order of the label names."""
    return {tuple(value for _, value in labels): value for (each, labels), value in found.items() if each == name}
