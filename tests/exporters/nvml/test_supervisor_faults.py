"""What becomes of the NVML half when GPUs, the driver or the child fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.stubs.nvml.fixtures import QUICK, Watch, until
from tests.stubs.nvml.library import Script

from gpuheal_exporters.nvml.snapshot import Gpu, NvmlState
from gpuheal_exporters.nvml.supervisor import NvmlSupervisor


def uuid(index: int) -> str:
    return f"GPU-11111111-0000-4000-8000-{index:012x}"


def gpu(supervisor: NvmlSupervisor, index: int) -> Gpu:
    return next(each for each in supervisor.snapshot().gpus if each.uuid == uuid(index))


def fresh(supervisor: NvmlSupervisor, index: int) -> Callable[[], bool]:
    """True once the GPU was observed again after now."""
    before = gpu(supervisor, index).observed_at
    return lambda: gpu(supervisor, index).observed_at > before


def test_lost_gpu_stays_known_and_is_left_alone(watch: Watch, script: Script) -> None:
    """A GPU NVML calls lost is absent but known, with its last readings, and no call reaches it any more."""
    supervisor = watch()
    supervisor.wait_complete(20)
    script.set(gpu__3__lost=1)
    until(lambda: not gpu(supervisor, 3).present)
    script.set(
        gpu__3__lost=None, **{f"gpu__3__hang__nvmlDeviceGet{call}": 1 for call in ("FieldValues", "EccMode", "UUID")}
    )
    until(fresh(supervisor, 2))
    until(fresh(supervisor, 4))
    assert gpu(supervisor, 3).reading("thermal").number("temperature") == 45
    assert supervisor.snapshot().state is NvmlState.OK
    assert supervisor.snapshot().stuck == ()
    assert supervisor.snapshot().enumerated


def test_recheck_finds_a_recovered_gpu(watch: Watch, script: Script) -> None:
    """After `recheck` a new child asks the lost GPU again, and it is present if it answers."""
    supervisor = watch()
    supervisor.wait_complete(20)
    script.set(gpu__3__lost=1)
    until(lambda: not gpu(supervisor, 3).present)
    script.set(gpu__3__lost=None)
    supervisor.recheck()
    until(lambda: gpu(supervisor, 3).present)
    assert supervisor.snapshot().restarts == 0, "a recheck is no failure"


def test_lost_gpu_is_looked_for_now_and_then(watch: Watch, script: Script) -> None:
    """Without being told, a new child looks for a lost GPU after the recheck time; while none is lost the child
    stays.
    """
    supervisor = watch(replace(QUICK, lost_recheck=0.3))
    supervisor.wait_complete(20)
    until(fresh(supervisor, 0))
    script.set(gpu__3__lost=1)
    until(lambda: not gpu(supervisor, 3).present)
    script.set(gpu__3__lost=None)
    until(lambda: gpu(supervisor, 3).present)
    assert len(script.calls()) % 2 == 1, "each child but the running one has shut NVML down"
    assert supervisor.snapshot().restarts == 0


def test_gpu_that_disappears_from_the_list_is_lost(watch: Watch, script: Script) -> None:
    """A smaller device count starts a new child, and the GPU no index names any more is lost although indexes moved."""
    supervisor = watch()
    supervisor.wait_complete(20)
    script.set(gpu__2__missing=1)
    until(lambda: supervisor.snapshot().device_count == 7 and not gpu(supervisor, 2).present)
    until(fresh(supervisor, 7))
    assert [each.present for each in supervisor.snapshot().gpus].count(False) == 1


def test_gpu_lost_before_the_start_does_not_hide_the_others(watch: Watch, script: Script) -> None:
    """A GPU that is lost when the exporter starts is not listed, the other seven are, and the list counts as whole."""
    script.set(gpu__3__rc__nvmlDeviceGetHandleByIndex_v2=15)
    snapshot = watch().wait_complete(20)
    assert [each.uuid for each in snapshot.gpus] == [uuid(index) for index in range(8) if index != 3]
    assert (snapshot.device_count, snapshot.enumerated) == (8, True)


def test_one_hanging_gpu_is_named_and_the_others_go_on(watch: Watch, script: Script) -> None:
    """A call that never returns is reported with group and GPU, its child is killed, and seven GPUs are still read."""
    supervisor = watch(replace(QUICK, quarantine=30.0, quarantine_max=30.0))
    supervisor.wait_complete(20)
    script.set(gpu__5__hang__nvmlDeviceGetCurrPcieLinkWidth=1)
    until(lambda: supervisor.snapshot().stuck)
    assert [(each.group, each.gpu_uuid) for each in supervisor.snapshot().stuck] == [("pcie", uuid(5))]
    until(lambda: supervisor.snapshot().restarts == 1)
    until(fresh(supervisor, 4))
    until(fresh(supervisor, 6))
    snapshot = supervisor.snapshot()
    assert snapshot.state is NvmlState.OK
    assert [(each.group, each.gpu_uuid) for each in snapshot.stuck] == [("pcie", uuid(5))]
    assert gpu(supervisor, 5).reading("pcie").number("width") == 16, "the last known value is kept"


def test_stuck_gpu_is_asked_again_after_its_quarantine(watch: Watch, script: Script) -> None:
    """When the call returns again after a quarantine, nothing is stuck any more."""
    supervisor = watch()
    supervisor.wait_complete(20)
    script.set(gpu__5__hang__nvmlDeviceGetCurrPcieLinkWidth=1)
    until(lambda: supervisor.snapshot().restarts >= 1)
    script.set(gpu__5__hang__nvmlDeviceGetCurrPcieLinkWidth=None)
    until(lambda: supervisor.snapshot().state is NvmlState.OK and not supervisor.snapshot().stuck)
    until(fresh(supervisor, 5))


def test_late_answer_spares_the_child(watch: Watch, script: Script) -> None:
    """A call that returns after its deadline, within the patience, was stuck meanwhile and costs no child."""
    supervisor = watch(replace(QUICK, patience=30.0))
    supervisor.wait_complete(20)
    script.set(hang__nvmlDeviceGetEccMode=1)
    until(lambda: supervisor.snapshot().stuck)
    assert supervisor.snapshot().state is NvmlState.STUCK
    assert supervisor.snapshot().gpus[0].present, "what was known is still served"
    script.set(hang__nvmlDeviceGetEccMode=None)
    until(lambda: supervisor.snapshot().state is NvmlState.OK and not supervisor.snapshot().stuck)
    assert supervisor.snapshot().restarts == 0
    assert len(script.calls()) == 1


def test_hanging_init_is_no_gpu_fault(watch: Watch, script: Script) -> None:
    """nvmlInit that never returns is a stuck start without a GPU; it recovers by a new child."""
    script.set(hang__nvmlInitWithFlags=1)
    supervisor = watch(replace(QUICK, start_deadline=0.4))
    snapshot = supervisor.wait_complete(20)
    assert snapshot.state is NvmlState.STUCK
    assert [(each.group, each.gpu_uuid) for each in snapshot.stuck] == [("start", "")]
    script.set(hang__nvmlInitWithFlags=None)
    until(lambda: supervisor.snapshot().state is NvmlState.OK)
    assert supervisor.snapshot().stuck == ()


def test_children_that_survive_sigkill_are_not_replaced_for_ever(script: Script) -> None:
    """After two children blocked in the driver none is started any more, until one of them is gone."""
    script.set(hang__nvmlInitWithFlags=1)
    blocked: list[subprocess.Popen[bytes]] = []
    settings = replace(QUICK, start_deadline=0.4, patience=0.0, kill_wait=0.1)
    supervisor = NvmlSupervisor(settings, env=script.environment(), killer=blocked.append)
    supervisor.start()
    try:
        until(lambda: supervisor.snapshot().abandoned == 2)
        assert supervisor.snapshot().state is NvmlState.STUCK
        assert len(blocked) == 2
        script.set(hang__nvmlInitWithFlags=None)
        until(lambda: supervisor.snapshot().state is NvmlState.OK)
    finally:
        assert supervisor.stop()
        for process in blocked:
            process.wait(20)


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (9, NvmlState.DRIVER_MISSING),
        (18, NvmlState.VERSION_MISMATCH),
        (4, NvmlState.NO_PERMISSION),
        (12, NvmlState.LIBRARY_MISSING),
        (999, NvmlState.FAILED),
    ],
)
def test_refused_start_says_why_and_is_tried_again(watch: Watch, script: Script, code: int, state: NvmlState) -> None:
    """Each reason why nvmlInit fails has its state; once it succeeds the GPUs are there."""
    script.set(rc__nvmlInitWithFlags=code)
    supervisor = watch()
    assert supervisor.wait_complete(20).state is state
    assert not supervisor.snapshot().up
    script.set(rc__nvmlInitWithFlags=None)
    until(lambda: supervisor.snapshot().up and len(supervisor.snapshot().gpus) == 8)


def test_missing_library_is_a_state(tmp_path: Path) -> None:
    """Without libnvidia-ml.so.1 the supervisor says so and holds no child meanwhile."""
    supervisor = NvmlSupervisor(replace(QUICK, retry=30.0, retry_max=30.0), env=Script(tmp_path, None).environment())
    supervisor.start()
    try:
        assert supervisor.wait_complete(20).state is NvmlState.LIBRARY_MISSING
        assert supervisor.snapshot().gpus == ()
    finally:
        assert supervisor.stop()


def test_driver_that_goes_away_is_noticed_and_met_again(watch: Watch, script: Script) -> None:
    """A driver unloaded under a running child ends that child cleanly; GPUs known before stay known."""
    supervisor = watch()
    supervisor.wait_complete(20)
    script.set(rc__nvmlDeviceGetPerformanceState=1, rc__nvmlInitWithFlags=9)
    until(lambda: supervisor.snapshot().state is NvmlState.DRIVER_MISSING)
    assert len(supervisor.snapshot().gpus) == 8
    script.set(rc__nvmlDeviceGetPerformanceState=None, rc__nvmlInitWithFlags=None, driver="580.65.06")
    until(lambda: supervisor.snapshot().up)
    assert supervisor.snapshot().driver_version == "580.65.06"


def test_dead_child_is_replaced(watch: Watch, script: Script) -> None:
    """A child that dies is replaced, counted, and the GPUs are read again."""
    supervisor = watch()
    supervisor.wait_complete(20)
    os.kill(int(script.calls()[0].split()[1]), signal.SIGKILL)
    until(lambda: supervisor.snapshot().restarts == 1 and supervisor.snapshot().up)
    until(fresh(supervisor, 0))


def test_stop_shuts_nvml_down(watch: Watch, script: Script) -> None:
    """Stopping ends NVML by nvmlShutdown in the same process that started it; no call is cut short by a signal."""
    supervisor = watch()
    supervisor.wait_complete(20)
    pid = int(script.calls()[0].split()[1])
    os.kill(pid, signal.SIGTERM)
    until(fresh(supervisor, 0))
    assert supervisor.stop()
    assert supervisor.snapshot().state is NvmlState.STOPPED
    assert script.calls() == [f"init {pid}", f"shutdown {pid}"]


def test_stop_does_not_wait_for_a_stuck_probe(watch: Watch, script: Script) -> None:
    """Stopping while a call hangs gives it two deadlines, then the stuck child is killed: nothing is left behind."""
    supervisor = watch(replace(QUICK, patience=3600.0))
    supervisor.wait_complete(20)
    pid = int(script.calls()[0].split()[1])
    script.set(hang__nvmlDeviceGetEccMode=1)
    until(lambda: supervisor.snapshot().stuck)
    assert supervisor.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert script.calls() == [f"init {pid}"]


def test_release_lets_go_of_the_gpus(watch: Watch, script: Script) -> None:
    """During a release no process of ours holds NVML; `resume` takes it up again."""
    supervisor = watch()
    supervisor.wait_complete(20)
    assert supervisor.release(60.0)
    assert supervisor.snapshot().state is NvmlState.RELEASED
    assert [call.split()[0] for call in script.calls()] == ["init", "shutdown"]
    supervisor.resume()
    until(lambda: supervisor.snapshot().up)


def test_child_outlives_no_parent(script: Script) -> None:
    """When the exporter is killed, the child sees its stdin end, shuts NVML down and ends."""
    code = (
        "import os, signal\n"
        "from gpuheal_exporters.nvml.supervisor import NvmlSupervisor\n"
        "supervisor = NvmlSupervisor()\n"
        "supervisor.start()\n"
        "supervisor.wait_complete(20)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = script.environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    until(lambda: [call.split()[0] for call in script.calls()] == ["init", "shutdown"])


def test_only_the_child_loads_pynvml() -> None:
    """Importing the supervisor does not load pynvml, and only nvml/probe.py imports it."""
    import gpuheal_exporters

    code = "import sys, gpuheal_exporters.nvml.supervisor; sys.exit('pynvml' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False).returncode == 0
    folder = Path(gpuheal_exporters.__file__).parent
    assert [path.name for path in sorted(folder.rglob("*.py")) if "import pynvml" in path.read_text()] == ["probe.py"]
