"""What proves that a GPU was reset."""

from __future__ import annotations

import pytest

from gpuheal_exporters.nvml.reset import ResetWatch
from gpuheal_exporters.nvml.snapshot import Gpu, NvmlSnapshot, NvmlState, Reading


def seen(*, present: bool = True, action: int | None = 0, state: NvmlState = NvmlState.OK) -> NvmlSnapshot:
    values: dict[str, object] = {} if action is None else {"action": action}
    gpu = Gpu(
        uuid="GPU-0", pci="0000:1b:00", present=present, readings={"recovery": Reading(observed_at=1, values=values)}
    )
    return NvmlSnapshot(state=state, gpus=(gpu,))


@pytest.mark.parametrize(
    ("before", "after", "reset"),
    [
        (seen(present=False), seen(), True),
        (seen(action=1), seen(action=0), True),
        (seen(present=False, action=2), seen(action=2), True),
        (seen(), seen(), False),
        (seen(), seen(present=False), False),
        (seen(action=0), seen(action=1), False),
        (seen(action=4), seen(action=2), False),
        (seen(action=1), seen(action=None), False),
        (seen(action=None), seen(action=0), False),
        (seen(action=1), seen(present=False, action=0), False),
    ],
)
def test_two_pictures(before: NvmlSnapshot, after: NvmlSnapshot, reset: bool) -> None:
    """Only a lost GPU that answers again, or a recovery action back at 0, is a proven reset; it is told once."""
    watch = ResetWatch()
    assert watch.update(before) == []
    assert watch.update(after) == (["GPU-0"] if reset else [])
    assert watch.update(after) == []


def test_first_sight_and_absence_prove_nothing() -> None:
    """A GPU first seen healthy was not reset, and while NVML is away nothing is concluded."""
    watch = ResetWatch()
    assert watch.update(seen()) == []
    assert watch.update(seen(present=False)) == []
    assert watch.update(seen(state=NvmlState.DRIVER_MISSING)) == []
    assert watch.update(seen()) == ["GPU-0"]
