"""What the previous version left behind is understood: undo records on nodes, settings and policies in ConfigMaps.

The files in data/previous/ are that version's own bytes; they are never edited, only joined by those of later versions.
The stored case is read in shell/kube/test_remediations.py, the CRD is replaced in integration/cluster/test_upgrade.py.
"""

from __future__ import annotations

from pathlib import Path

from gpuheal_responder.config.settings import load
from gpuheal_responder.core import undo
from gpuheal_responder.core.node import UndoRecord
from gpuheal_responder.shell.policies import read_policies

PREVIOUS = Path(__file__).parent / "data" / "previous"


def test_an_undo_record_of_version_1_is_read() -> None:
    """Who did it, when and for which case is known, so that the marks can be taken off again."""
    record = undo.load((PREVIOUS / "undo-v1.json").read_text(encoding="utf-8"))
    assert isinstance(record, UndoRecord)
    assert (record.case, record.owner, record.policy, record.gpus) == ("gpu-1-1", "gpuheal", "hgx", ("GPU-7",))
    assert (record.system_uuid, record.node_uid, record.boot_id) == ("s-1", "u-1", "b-1")


def test_settings_and_policies_are_read_strictly_and_hold() -> None:
    """An upgrade needs no change of the files that a site has: no key has gone, none is missing."""
    settings = load(PREVIOUS / "settings.yaml")
    assert settings.cluster == "prod-1"
    (policy,) = read_policies([PREVIOUS / "policies.yaml"])
    assert [step.key for step in policy.steps][-1] == "restore"
