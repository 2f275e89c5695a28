"""Times in front of kernel messages, whoever wrote them there."""

from __future__ import annotations

import pytest

from gpuheal_exporters.kernel.wrapper import unix_seconds

AT_SECOND = 1_722_467_658.0  # 2024-07-31T23:14:18Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-07-31T23:14:18Z", AT_SECOND),
        ("2024-07-31 23:14:18.5 UTC", 1_722_467_658.5),
        ("2024-07-31T17:44:18-05:30", AT_SECOND),
        ("1722467658.25", 1_722_467_658.25),
        ("2024-07-31T23:14:18", None),
        ("2024-13-31T23:14:18Z", None),
        ("Jul 31 23:14:18", None),
    ],
)
def test_a_time_counts_if_it_names_its_zone(text: str, seconds: float | None) -> None:
    """A date without a year or zone could be any; no time is better than a wrong one."""
    assert unix_seconds(text) == seconds
