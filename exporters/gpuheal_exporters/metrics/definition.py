"""A metric as data, and the families made from it.

The label `node` is never set here: Prometheus attaches it when it scrapes. `pci_bus_id` is always `dddd:bb:dd` in
lower case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDef:
    """One metric: `type` is counter or gauge, `unit` what the value counts, `source` where it is read."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()
    unit: str = "1"
    source: str = ""


def gauge(name: str, help_: str, labels: tuple[str, ...] = (), unit: str = "1", source: str = "") -> MetricDef:
    """Return a gauge; without a source it has that of its table."""
    return MetricDef(name=name, type="gauge", help=help_, labels=labels, unit=unit, source=source)


def counter(name: str, help_: str, labels: tuple[str, ...] = (), unit: str = "events", source: str = "") -> MetricDef:
    """Return a counter; without a source it has that of its table."""
    return MetricDef(name=name, type="counter", help=help_, labels=labels, unit=unit, source=source)


Family = GaugeMetricFamily | CounterMetricFamily


def family_of(definition: MetricDef) -> Family:
    """Return an empty family for a definition; label values are given in the order of its `labels`."""
    if definition.type == "counter":
        return CounterMetricFamily(definition.name.removesuffix("_total"), definition.help, labels=definition.labels)
    return GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)


class MetricTable:
    """The metrics of one collector; `source` holds for all that do not name their own."""

    def __init__(self, source: str, *definitions: MetricDef) -> None:
        sourced = (replace(each, source=each.source or source) for each in definitions)
        self._definitions = {each.name: each for each in sourced}

    def __iter__(self) -> Iterator[MetricDef]:
        return iter(self._definitions.values())

    def __getitem__(self, name: str) -> MetricDef:
        return self._definitions[name]

    def family(self, name: str) -> Family:
        """Return an empty family of a metric of the table; KeyError for any other name."""
        return family_of(self._definitions[name])

    def single(self, name: str, value: float, *labels: str) -> Metric:
        """Return a family with one sample."""
        made = self.family(name)
        made.add_metric(labels, value)
        return made

    def families(self) -> Families:
        """Return an empty set of families of this table."""
        return Families(self)


class Families:
    """Families filled in any order and given out in the order of first use, so that each name appears once."""

    def __init__(self, table: MetricTable) -> None:
        self._table = table
        self._families: dict[str, Family] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Add one sample of a metric of the table, unless the value is None; KeyError for any other name."""
        if value is None:
            return
        made = self._families.get(name)
        if made is None:
            made = self._families[name] = self._table.family(name)
        made.add_metric(labels, float(value))

    def all(self) -> list[Metric]:
        """Return every family that has a sample."""
        return list(self._families.values())
