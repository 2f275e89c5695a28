"""What people do: to nodes with kubectl, to cases, to policies, and at the red button."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from tests.chaos.nature import Nature
from tests.chaos.observer import HOLD, TAINT, UNDO, ours

from gpuheal_lab.fleet.injection import ACTOR
from gpuheal_lab.fleet.objects import Json, remove_taint
from gpuheal_responder.core.case import Approval
from gpuheal_responder.errors import GpuhealError
from gpuheal_responder.ports import Stored

ANN = "ann"
RIGHTLY = timedelta(hours=1)
TO_APPROVE = frozenset({"approval-needed", "approval-mismatch", "approval-expired", "last-of-pool"})


class People(Nature):
    """Acts of people; each does nothing where it cannot happen."""

    def _edit(self, node: int, change: Callable[[Json], None], *, takes_back: bool = False) -> None:
        name = self.named(node)
        before = self.sim.api.nodes.get(name)
        self.change(name, change, ANN)
        after = self.sim.api.nodes.get(name)
        if takes_back and before is not None and before is not after and ours(before):
            self.observer.told(name).takeback = self.observer.did("take-back", name, ANN)

    async def cordon(self, node: int) -> None:
        """Ann cordons a node for work of her own; that she took it back since the last look is not seen then."""
        told = self.observer.told(self.named(node))
        if told.takeback is not None and told.takeback.number > self.observer.looks.get(self.leader, 0):
            told.takeback = None
        self._edit(node, lambda raw: raw["spec"].update(unschedulable=True))

    async def uncordon(self, node: int) -> None:
        """Ann uncordons a node; if it is one of ours, she takes it back.

        After a boot that cannot be told from what driver managers do: there the taint is what she has to take off.
        """
        told, machine = self.observer.told(self.named(node)), self.sim.fleet[self.named(node)]
        since = told.contained is not None and machine.booted_at < told.contained
        told.uncordoned = self.observer.tick()
        self._edit(node, lambda raw: raw["spec"].pop("unschedulable", None), takes_back=since)

    async def remove_taint(self, node: int) -> None:
        """Ann takes our taint off a node."""
        self._edit(node, lambda raw: remove_taint(raw, TAINT), takes_back=True)

    async def hold(self, node: int, on: bool) -> None:
        """Ann holds a node, or lets it go."""
        self._edit(node, _holding if on else _letting_go)
        self.observer.stop("held", self.named(node), on and self.named(node) in self.sim.api.nodes)

    async def damage_undo(self, node: int, how: str) -> None:
        """Somebody's tool cuts our undo record, empties it, or writes it as another version would."""
        self._edit(node, lambda raw: _damage(raw, how))
        self.observer.told(self.named(node)).damaged = True

    async def label(self, node: int, key: str, value: str) -> None:
        """Ann labels a node; an empty value takes the label off."""
        self._edit(node, lambda raw: _label(raw, key, value))

    async def opt_out(self, node: int, on: bool) -> None:
        """Ann takes a node out of our care, or gives it back to it."""
        self._edit(node, lambda raw: _label(raw, "gpu.health/ignore", "true" if on else ""))
        self.observer.stop("opted-out", self.named(node), on and self.named(node) in self.sim.api.nodes)

    async def silence(self, node: int, on: bool) -> None:
        """Ann silences a node's alerts, or with -1 all; or ends that silence."""
        scope = self.named(node) if node >= 0 else ""
        (self.alertmanager.silence if on else self.alertmanager.unsilence)(scope)
        self.observer.stop("silenced", scope, on)

    async def pause(self, on: bool) -> None:
        """Ann pauses everything, or lets it go on."""
        self.cap(paused="ann: wait" if on else "")
        self.observer.stop("paused", "", on)

    async def set_mode(self, mode: str) -> None:
        """Ann caps the mode of all policies."""
        self.cap_mode(mode)

    async def set_policy(self, state: str) -> None:
        """Ann edits the policy file: there, gone, renamed, observe or propose."""
        self.policy(state)

    async def approve(self, node: int) -> None:
        """Ann approves what the open case of the node asks for, as `gpuheal approve` shows it to her."""
        await self._as_ann(self._approve(self.named(node), wrongly=False))

    async def approve_wrongly(self, node: int) -> None:
        """Ann's approval names evidence that nobody has."""
        await self._as_ann(self._approve(self.named(node), wrongly=True))

    async def delete_case(self, node: int) -> None:
        """Ann deletes the Remediations of a node."""
        for stored in self._stored(self.named(node)):
            await self._as_ann(self.sim.remediations.delete(stored.case.name))

    def _stored(self, node: str) -> list[Stored]:
        loaded = [self.sim.remediations._load(name) for name in self.sim.remediations.stored]
        return [s for s in loaded if s.case.node == node and s.case.closed_at is None]

    async def _as_ann(self, doing: Awaitable[object]) -> None:
        token = ACTOR.set(ANN)
        try:
            with self.sim.gate.by_others():
                await doing
        except GpuhealError:
            return
        finally:
            ACTOR.reset(token)

    async def _approve(self, node: str, *, wrongly: bool) -> None:
        for stored in self._stored(node):
            records = self.sim.remediations.decisions.get(stored.case.name) or [{}]
            verdict = records[-1].get("verdict") or {}
            asked = [r for r in verdict.get("refusals", ()) if r["reason"] in TO_APPROVE]  # type: ignore[attr-defined]
            if not asked:
                continue
            evidence = "0123456789ab" if wrongly else next((b for r in asked for b in r.get("blockers", ())), "")
            step = str(verdict.get("step", ""))  # type: ignore[attr-defined]
            given = Approval(
                step=step, evidence=evidence, by=ANN, expires_at=self.truth_now() + RIGHTLY, given_at=self.truth_now()
            )
            await self.sim.remediations.approve(stored, (*stored.case.approvals, given))
            if not wrongly:
                self.approved.add(node)


def _holding(raw: Json) -> None:
    raw["metadata"].setdefault("annotations", {})[HOLD] = "ann: mine"


def _letting_go(raw: Json) -> None:
    raw["metadata"].get("annotations", {}).pop(HOLD, None)


def _label(raw: Json, key: str, value: str) -> None:
    labels = raw["metadata"]["labels"]
    labels.pop(key, None)
    if value:
        labels[key] = value


def _damage(raw: Json, how: str) -> None:
    annotations = raw["metadata"].get("annotations", {})
    text = annotations.get(UNDO)
    if text is None:
        return
    match how:
        case "cut":
            annotations[UNDO] = text[: len(text) // 2]
        case "version":
            annotations[UNDO] = text.replace('"version":', '"version":9')
        case _:
            annotations[UNDO] = ""
