"""The registry of providers: what settings, `check`, the roles and the running responder read."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest
from tests.responder.shell.scripted import StillClock

from gpuheal_responder.config.page import page
from gpuheal_responder.config.settings import Providers as ProviderSettings
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.providers import PROVIDERS, Providers, configured
from gpuheal_responder.providers.job import JobSettings
from gpuheal_responder.shell.kube.roles import ROLES

NODE = Node(name="n", uid="u", boot_id="b")


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_an_entry_is_all_that_a_provider_needs(name: str) -> None:
    """Its settings have defaults and a text each on the page of settings; its rights have a role to stand in."""
    kind = PROVIDERS[name]
    assert kind.name == name
    assert kind.hint
    for info in fields(kind.settings):
        assert info.default is not MISSING or info.default_factory is not MISSING
        assert f"| `providers.{name}.{info.name}` |" in page()
    assert {right.namespace for right in kind.rights(kind.settings())} <= ROLES.keys()


def test_only_what_a_site_configures_can_be_used() -> None:
    """By default there is none; an image makes the provider `job`."""
    assert configured(ProviderSettings().by_name) == ()
    assert configured({}) == ()
    image = "tools@sha256:" + "0" * 64
    assert configured(ProviderSettings(by_name={"job": JobSettings(image=image)}).by_name) == ("job",)


class Remembers:
    """A provider that keeps what it was asked."""

    def __init__(self, clock: StillClock) -> None:
        self.asked: list[str] = []

    async def reboot(self, node: Node, operation: str) -> None:
        """Remember."""
        self.asked.append(f"reboot {operation}")

    async def lookup(self, node: Node | None, operation: str) -> OperationState:
        """Remember."""
        self.asked.append(f"lookup {operation}")
        return OperationState.ACCEPTED

    async def withdraw(self, node: Node | None, operation: str) -> None:
        """Remember."""
        self.asked.append(f"withdraw {operation}")


async def test_a_step_names_its_provider_or_means_the_sites_own() -> None:
    """An empty name is the default; another is that one; one that is not configured knows nothing and does nothing."""
    one, two = Remembers(StillClock()), Remembers(StillClock())
    machines = Providers(default="one", by_name={"one": one, "two": two})
    await machines.reboot(NODE, "a", "")
    await machines.reboot(NODE, "b", "two")
    assert await machines.lookup(None, "b", "two") is OperationState.ACCEPTED
    await machines.withdraw(None, "a", "one")
    assert (one.asked, two.asked) == (["reboot a", "withdraw a"], ["reboot b", "lookup b"])
    assert await machines.lookup(NODE, "c", "three") is OperationState.UNKNOWABLE
    for call in (machines.reboot(NODE, "c", "three"), machines.withdraw(NODE, "c", "three")):
        with pytest.raises(Permanent, match="'three' is not configured; configured: one, two"):
            await call
