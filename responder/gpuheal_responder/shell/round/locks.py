"""The node's Lease that remediation tools share, renewed from a case's first disruptive step to its end."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuheal_responder.core import life
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.verdict import Done, Escalate, due_of
from gpuheal_responder.errors import ActionError
from gpuheal_responder.ports import Cluster, Recorder
from gpuheal_responder.shell.round.perform import LOCK_MARGIN
from gpuheal_responder.shell.round.work import Work

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Locks:
    """When each case last renewed the Lease of its node."""

    _renewed: dict[str, datetime] = field(default_factory=dict)

    async def renew(self, work: Work, cluster: Cluster, recorder: Recorder, now: datetime) -> None:
        """Renew the Lease for this case if it is time; a refusal is logged, counted and no hindrance."""
        node, name = work.world.node, work.case.name
        if node is None or not life.started(work.case) or isinstance(work.verdict, Done | Escalate):
            return
        renewed = self._renewed.get(name)
        if renewed is not None and now - renewed < LOCK_MARGIN / 3:
            return
        due = due_of(work.verdict)
        disrupts = due is not None and due.spec.phase in {Phase.EMPTY, Phase.CURE}
        try:  # a probation may last a day, and whoever dies in it must not keep other tools out for as long
            await cluster.lock(node, (due.deadline if due is not None and disrupts else timedelta(0)) + LOCK_MARGIN)
        except ActionError as problem:
            log.warning("the Lease of node %s was not renewed: %s", node.name, problem)
            recorder.performed("lock", problem.reason, 0)
        self._renewed[name] = now  # a refusal is not asked for again at every look either

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these cases."""
        self._renewed = {name: at for name, at in self._renewed.items() if name in names}
