"""What the admission policies know of us agrees with the code that they bind."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from gpuheal_responder.actions import condition
from gpuheal_responder.core.undo import HOLD_ANNOTATION, TAINT_KEY, UNDO_ANNOTATION
from gpuheal_responder.providers.job import JobSettings
from gpuheal_responder.shell.kube import admission
from gpuheal_responder.shell.policies import fault_slugs


@pytest.mark.parametrize("slug", sorted(fault_slugs()))
def test_every_condition_of_an_action_is_one_that_we_may_write(slug: str) -> None:
    """A condition type that the policy does not know could never be written."""
    assert re.fullmatch(admission.CONDITIONS, condition.condition_type(slug))


def test_conditions_of_others_are_not_ours() -> None:
    """The kubelet's and node-problem-detector's are left to them."""
    for kind in ("Ready", "MemoryPressure", "KernelDeadlock", "GPU", "MyGPUHealthy", "GPUHealthyX"):
        assert not re.fullmatch(admission.CONDITIONS, kind)


def test_all_marks_have_our_prefix() -> None:
    """Taint and annotations lie under the prefix that our account may change."""
    assert all(key.startswith(admission.KEYS) for key in (HOLD_ANNOTATION, TAINT_KEY, UNDO_ANNOTATION))


def test_the_settings_cannot_ask_for_more_than_is_admitted() -> None:
    """The longest deadline that a site may set is one that the policy lets pass."""
    with pytest.raises(ValueError, match="deadline"):
        JobSettings(deadline=timedelta(seconds=admission.LONGEST + 1))
    assert JobSettings(deadline=timedelta(seconds=admission.LONGEST)).deadline


def test_every_policy_fails_closed_and_is_bound() -> None:
    """An API server that cannot evaluate one refuses; none is only a warning."""
    documents = [document for _, document in admission.documents()]
    policies = {d["metadata"]["name"] for d in documents if d["kind"] == "ValidatingAdmissionPolicy"}
    assert {d["spec"]["policyName"] for d in documents if d["kind"].endswith("Binding")} == policies
    for document in documents:
        if document["kind"] == "ValidatingAdmissionPolicy":
            assert document["spec"]["failurePolicy"] == "Fail"
        else:
            assert document["spec"]["validationActions"] == ["Deny"]
