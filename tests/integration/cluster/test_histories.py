"""Histories of machines on a real API server: what people and other versions do to their ConfigMaps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.plane import SYNC, Eventually

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_responder.core.history import History, PastAttempt
from gpuheal_responder.shell.build import WallClock
from gpuheal_responder.shell.kube.api import Api
from gpuheal_responder.shell.kube.histories import KubeHistories

pytestmark = pytest.mark.cluster

MACHINE = "4c4c4544-0042-3510-8051-b7c04f4e3233"
NOW = datetime.now(UTC).replace(microsecond=0)
CURE = PastAttempt(operation="op-1", action="reboot", started_at=NOW, ended_at=NOW)
KNOWN = History(machine=MACHINE, cures=(CURE,), taken_at=NOW)
Change = Callable[[Callable[[dict[str, Any]], None]], None]


@pytest.fixture
async def histories(api: Api) -> AsyncIterator[KubeHistories]:
    """The adapter, its cache complete."""
    made = KubeHistories(api, WallClock(), "gpuheal")
    made.start()
    await made.mirror.wait_synced(SYNC)
    yield made
    await made.stop()


@pytest.fixture
async def change(plane: ControlPlane, histories: KubeHistories) -> AsyncIterator[Change]:
    """Lets an administrator change the ConfigMap in which the machine's history stands."""
    await histories.save(KNOWN)
    path = "/api/v1/namespaces/gpuheal/configmaps"
    (name,) = [
        item["metadata"]["name"] for item in plane.admin.get(path)["items"] if MACHINE in (item.get("data") or {})
    ]

    def by(edit: Callable[[dict[str, Any]], None]) -> None:
        raw = plane.admin.get(f"{path}/{name}")
        edit(raw)
        plane.admin.request("PUT", f"{path}/{name}", raw)

    yield by
    plane.admin.delete(f"{path}/{name}")


async def seen(histories: KubeHistories, eventually: Eventually, what: Callable[[History | None], bool]) -> History:
    """The machine's history once it is as expected."""

    async def check() -> bool:
        return what((await histories.all()).get(MACHINE))

    await eventually(check, "the history")
    return (await histories.all()).get(MACHINE, History())


async def test_an_object_whose_data_was_removed_is_written_again(
    histories: KubeHistories, change: Change, eventually: Eventually
) -> None:
    """Emptying the ConfigMap does not keep a 64th of the fleet from being healed."""
    change(lambda raw: raw.pop("data"))
    await seen(histories, eventually, lambda found: found is None)
    await histories.save(KNOWN)
    assert (await histories.all())[MACHINE] == KNOWN


async def test_an_old_entry_under_another_key_is_dropped_by_that_key(
    histories: KubeHistories, change: Change, eventually: Eventually
) -> None:
    """An entry that was renamed by hand hinders no other machine of its object."""
    old = json.dumps({"machine": "another", "marks": ["2020-01-01T00:00:00Z"]})
    change(lambda raw: raw["data"].update({"copied-by-hand": old}))

    async def there() -> bool:
        return "another" in await histories.all()

    await eventually(there, "the copy")
    later = History(machine=MACHINE, cures=(CURE,), taken_at=NOW + timedelta(minutes=1))
    await histories.save(later)
    assert (await histories.all())[MACHINE] == later
    assert "another" not in await histories.all()


async def test_s15_what_a_newer_version_wrote_is_read_and_kept(
    histories: KubeHistories, change: Change, eventually: Eventually
) -> None:
    """After a rollback the cures of the machine still count, and unknown keys are written back."""
    text = json.dumps({"machine": MACHINE, "takenAt": NOW.isoformat(), "something": 1})
    change(lambda raw: raw["data"].update({MACHINE: text}))
    found = await seen(histories, eventually, lambda found: found is not None and not found.cures)
    assert (found.taken_at, found.unreadable) == (NOW, "")
    await histories.save(KNOWN)
    shard = next(s for s in histories.mirror.items().values() if MACHINE in s.texts)
    assert json.loads(shard.texts[MACHINE])["something"] == 1


async def test_s15_an_entry_that_cannot_be_read_is_left_and_told(
    histories: KubeHistories, change: Change, eventually: Eventually
) -> None:
    """A cut text may be all that is known of the machine: it is no clean sheet, and nothing is written over it."""
    change(lambda raw: raw["data"].update({MACHINE: '{"machine": "4c4'}))
    found = await seen(histories, eventually, lambda found: found is not None and bool(found.unreadable))
    assert found.cures == ()
    await histories.save(KNOWN)
    shard = next(s for s in histories.mirror.items().values() if MACHINE in s.texts)
    assert shard.texts[MACHINE] == '{"machine": "4c4'
