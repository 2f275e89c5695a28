"""How real Alertmanagers take our answers: S02 for both generations."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import yaml
from tests.integration.responder_am.conftest import TOKEN, Receiver, alert, until

from gpuheal_lab.servers.stack import Stack, webhook_config

pytestmark = pytest.mark.servers
GROUP_INTERVAL_S = 2.0


def config(receiver: Receiver, token: str = TOKEN) -> str:
    """An Alertmanager configuration that posts to our web layer with a token."""
    made: dict[str, Any] = yaml.safe_load(webhook_config(receiver.url, group_by=("node",)))
    made["route"]["group_wait"] = "0s"
    webhook = made["receivers"][0]["webhook_configs"][0]
    webhook["http_config"] = {"authorization": {"credentials": token}, "follow_redirects": False}
    return yaml.safe_dump(made)


async def answered(receiver: Receiver, count: int) -> list[int]:
    """Wait for that many answers; return their statuses."""

    async def enough() -> bool:
        return len(receiver.answers) >= count

    await until(enough, f"{count} deliveries")
    return receiver.statuses()


async def test_s02_a_delivery_is_taken_once(stack_of_generation: Stack, receiver: Receiver) -> None:
    """The message of a real Alertmanager is understood, wakes its node, and is not sent again."""
    alertmanager = await asyncio.to_thread(stack_of_generation.alertmanager, config=config(receiver))
    await asyncio.to_thread(alertmanager.post_alerts, [alert(node="n1"), alert(node="n2")])
    assert await answered(receiver, 2) == [200, 200]
    assert len(receiver.woken) == 2
    await asyncio.sleep(2 * GROUP_INTERVAL_S)
    assert receiver.statuses() == [200, 200]


async def test_s02_503_is_retried_within_seconds(stack_of_generation: Stack, receiver: Receiver) -> None:
    """While we start, Alertmanager keeps trying by itself, faster than its group interval, until we take it."""
    receiver.refusing = "starting"
    alertmanager = await asyncio.to_thread(stack_of_generation.alertmanager, config=config(receiver))
    await asyncio.to_thread(alertmanager.post_alerts, [alert()])
    await answered(receiver, 2)
    first, second = (at for _, at in receiver.answers[:2])
    assert second - first < GROUP_INTERVAL_S
    receiver.refusing = ""

    async def taken() -> bool:
        return bool(receiver.woken)

    await until(taken, "the delivery to be taken")
    assert receiver.statuses()[-1] == 200
    assert set(receiver.statuses()) == {503, 200}


async def test_s02_a_poison_message_never_loops(stack_of_generation: Stack, receiver: Receiver) -> None:
    """An alert with more labels than we read is answered 200 and dead-lettered: it is not sent again and again."""
    alertmanager = await asyncio.to_thread(stack_of_generation.alertmanager, config=config(receiver))
    poison = alert(node="n1")
    poison["labels"] |= {f"label_{i}": "x" for i in range(100)}
    await asyncio.to_thread(alertmanager.post_alerts, [poison])
    assert await answered(receiver, 1) == [200]
    value = receiver.telemetry.registry.get_sample_value("gpuheal_dead_letters_total", {"reason": "delivery-unusable"})
    assert value == 1
    await asyncio.sleep(2 * GROUP_INTERVAL_S)
    assert receiver.statuses() == [200]


async def test_s04_a_wrong_token_is_refused_until_it_is_right(stack_of_generation: Stack, receiver: Receiver) -> None:
    """401 ends the flush; nothing is woken. With the right token the next group interval delivers."""
    alertmanager = await asyncio.to_thread(stack_of_generation.alertmanager, config=config(receiver, "wrong"))
    await asyncio.to_thread(alertmanager.post_alerts, [alert()])
    assert await answered(receiver, 1) == [401]
    assert receiver.woken == []
    await asyncio.to_thread(alertmanager.reload, config=config(receiver))

    async def taken() -> bool:
        return bool(receiver.woken)

    await until(taken, "the delivery to be taken")


async def test_a_delivery_arrives_fast(stack_of_generation: Stack, receiver: Receiver) -> None:
    """With group_wait 0s an alert posted to Alertmanager wakes us in a moment."""
    alertmanager = await asyncio.to_thread(stack_of_generation.alertmanager, config=config(receiver))
    posted_at = time.monotonic()
    await asyncio.to_thread(alertmanager.post_alerts, [alert()])
    await answered(receiver, 1)
    assert receiver.answers[0][1] - posted_at < 2.0
