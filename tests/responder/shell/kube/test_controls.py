"""What people set at run time, and since when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gpuheal_responder.shell.kube.controls import written_at


def managed(at: str, *keys: str) -> dict[str, Any]:
    """Return an entry of managedFields, as the API server keeps it of who wrote which key when."""
    return {"manager": "kubectl", "time": at, "fieldsV1": {"f:data": {f"f:{key}": {} for key in keys}}}


def test_s11_a_release_dates_from_when_its_key_was_last_written() -> None:
    """Writes of other keys, labels and fields without a time do not renew it."""
    fields = [
        managed("2026-01-01T00:00:00Z", "released"),
        managed("2026-01-02T00:00:00Z", "released", "mode"),
        managed("2026-01-03T00:00:00Z", "mode"),
        {"manager": "m", "time": "2026-01-04T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
        {"manager": "m", "time": "2026-01-05T00:00:00Z"},
    ]
    assert written_at({"managedFields": fields}, "released") == datetime(2026, 1, 2, tzinfo=UTC)
    assert written_at({}, "released") is None
