"""The actions, one file each. A new one is a file, a line here, and a test of the same name."""

from __future__ import annotations

from collections.abc import Mapping

from gpuheal_responder.actions import condition, cordon, drain, probation, reboot, restore, taint, verify
from gpuheal_responder.actions.action import Action
from gpuheal_responder.core.step import ActionSpec

REGISTRY: Mapping[str, Action] = {
    action.spec.name: action
    for action in (
        taint.ACTION,
        cordon.ACTION,
        condition.ACTION,
        drain.ACTION,
        reboot.ACTION,
        verify.ACTION,
        probation.ACTION,
        restore.ACTION,
    )
}

SPECS: Mapping[str, ActionSpec] = {name: action.spec for name, action in REGISTRY.items()}
