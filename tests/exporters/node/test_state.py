"""One node's state: events in, levels out."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gpuheal_exporters.host.identity import GpuIdentity, StaticInventory
from gpuheal_exporters.kernel.kmsg import KernelRecord, parse_raw
from gpuheal_exporters.node.latch import FaultKey, SxidKey, XidKey
from gpuheal_exporters.node.levels import Limits
from gpuheal_exporters.node.state import NodeExporterState

PCI = "0000:3b:00"
UUID = "GPU-11111111-2222-3333-4444-555555555555"
INVENTORY = StaticInventory([GpuIdentity(gpu_uuid=UUID, pci_bus_id=PCI)])
BOOT = "boot-1"


def make(**options: object) -> NodeExporterState:
    settings: dict[str, object] = {"inventory": INVENTORY, "boot_id": BOOT, "clock": lambda: 1000.0, **options}
    return NodeExporterState(**settings)  # type: ignore[arg-type]


def xid(state: NodeExporterState, rest: str, at: float, pci: str = PCI) -> None:
    state.feed_line(f"NVRM: Xid (PCI:{pci}): {rest}", at)


def latched(state: NodeExporterState) -> set[str]:
    return {key.xid for key, entry in state.levels.xids.items() if entry.latched}


def test_an_xid_is_a_level_of_its_gpu() -> None:
    """The address leads to the UUID; the level holds the time of its event."""
    state = make()
    xid(state, "79, GPU has fallen off the bus.", 50.0)
    entry = state.levels.xids.get(XidKey(UUID, PCI, "79"))
    assert entry is not None
    assert (entry.latched, entry.first, entry.last, entry.total) == (True, 50.0, 50.0, 1)


def test_the_clock_dates_events_without_a_time() -> None:
    """Without `at` the state's clock is asked."""
    state = make()
    state.feed_line("NVRM: Xid (PCI:0000:3b:00): 79, gone")
    entry = state.levels.xids.get(XidKey(UUID, PCI, "79"))
    assert entry is not None
    assert entry.last == 1000.0


def test_recovery_action_zero_clears_the_gpu_and_no_other() -> None:
    """Xid 154 to a value latches with it; to 0 it ends every level of that GPU, counts, and latches nothing."""
    state = make()
    xid(state, "48, DBE", 1.0)
    xid(state, "48, DBE", 1.0, "0000:5a:00")
    state.feed_line(f"NVRM: GPU {PCI}.0: RmInitAdapter failed! (0x11:0x45:2540)", 1.5)
    xid(state, "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", 2.0)
    assert latched(state) == {"48", "154"}
    assert state.levels.recovery == {PCI: 1}
    xid(state, "154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", 3.0)
    assert [key.pci_bus_id for key, entry in state.levels.xids.items() if entry.latched] == ["0000:5a:00"]
    assert not any(entry.latched for _, entry in state.levels.faults.items())
    entry = state.levels.xids.get(XidKey(UUID, PCI, "154"))
    assert entry is not None
    assert (entry.total, state.levels.cleared["recovered"]) == (2, 3)


def test_acknowledging_settles_evidence_up_to_a_time() -> None:
    """By GPU and code, by GPU, or for the node; later events stay, and a new event latches again."""
    state = make()
    xid(state, "48, DBE", 10.0)
    xid(state, "63, remap", 20.0)
    xid(state, "63, remap", 10.0, "0000:5a:00")
    assert state.acknowledge(until=15.0, gpu_uuid=UUID, xid=63) == 0
    assert state.acknowledge(until=15.0, gpu_uuid=UUID) == 1
    assert latched(state) == {"63"}
    assert state.acknowledge(until=20.0) == 2
    assert latched(state) == set()
    xid(state, "48, DBE", 30.0)
    assert latched(state) == {"48"}


def test_acknowledging_a_switch_code_leaves_gpus_alone() -> None:
    """`sxid` limits the acknowledgement to that code of the switches; without limits switches are settled too."""
    state = make()
    xid(state, "48, DBE", 10.0)
    for code in (20034, 12020):
        state.feed_line(f"nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): {code}, Fatal, Link 30 x", 10.0)
    assert state.acknowledge(until=10.0, sxid=20034) == 1
    assert state.acknowledge(until=10.0, gpu_uuid=UUID) == 1
    assert state.acknowledge(until=10.0) == 1


def test_a_proven_reset_ends_levels_up_to_it() -> None:
    """What happened before the reset of that GPU is over, what came after is not."""
    state = make()
    xid(state, "48, DBE", 10.0)
    xid(state, "79, gone", 30.0)
    assert state.reset_proven(UUID, 20.0) == 1
    assert latched(state) == {"79"}
    assert state.levels.cleared["reset"] == 1


def test_another_boot_ends_everything_but_the_ring() -> None:
    """Levels, counts and learned names belong to a boot; the raw events stay for people."""
    state = make()
    xid(state, "79, gone", 10.0)
    state.reboot("boot-2", 500.0)
    assert (len(state.levels.xids), state.boot_id, state.boot_time) == (0, "boot-2", 500.0)
    assert (len(state.events), state.levels.cleared["reboot"]) == (1, 1)


def test_s12_user_space_cannot_write_faults_unless_it_is_a_drill() -> None:
    """A record of another facility is counted as foreign and changes no level; in a drill it counts."""
    record = KernelRecord(f"NVRM: Xid (PCI:{PCI}): 79, GPU has fallen off the bus.", prio=12, seq=1, usec=1)
    state, drill = make(), make(drill=True)
    assert state.feed(record) is None
    assert (latched(state), state.counts.foreign) == (set(), 1)
    assert drill.feed(record) is not None
    assert latched(drill) == {"79"}


def test_unknown_codes_are_kept() -> None:
    """A code in no table is a level with an alert, as unknown."""
    state = make()
    xid(state, "999, pid=1, name=x", 1.0)
    entry = state.levels.xids.get(XidKey(UUID, PCI, "999"))
    assert entry is not None
    assert entry.resolution is not None
    assert (entry.resolution.action, entry.resolution.basis) == ("alert", "unknown")


def test_the_driver_version_selects_the_nvlink_form() -> None:
    """The same line asks for more or less depending on the branch of the loaded driver."""
    line = "145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040)"
    old, new = make(driver_version="570.1"), make(driver_version="580.1")
    actions = []
    for state in (old, new):
        xid(state, line, 1.0)
        resolution = next(entry.resolution for _, entry in state.levels.xids.items())
        assert resolution is not None
        actions.append(resolution.action)
    assert actions == ["gpu_reset", "alert"]


def test_a_flood_of_cleanups_keeps_the_first_cause_and_few_series() -> None:
    """200,000 Xid 45 of thousands of processes in the wake of an Xid 79 are one level with cause 79 per GPU.

    The raw records go the whole way; the ring keeps the first of them, and the state stays small.
    """
    state = make()
    xid(state, "79, gone", 1.0)
    for number in range(200_000):
        text = f"NVRM: Xid (PCI:{PCI}): 45, pid={number}, name=python3, Ch {number:08x}"
        record = parse_raw(f"4,{number},{number},-;{text}\n".encode())
        assert record is not None
        state.feed(record, 1.0 + number * 1e-5)
    entry = state.levels.xids.get(XidKey(UUID, PCI, "45"))
    assert entry is not None
    assert (entry.total, entry.cause, len(state.levels.xids), len(state.levels.links)) == (200_000, "79", 2, 0)
    assert [(event["code"], event["repeats"]) for event in state.events.dump()] == [("79", 0), ("45", 199_999)]
    assert len(json.dumps(state.dump())) < 4096


def test_the_named_cause_of_a_cleanup_is_believed() -> None:
    """From driver 575 on Xid 45 names its cause itself."""
    state = make()
    xid(state, "45, pid=1, name=p, Ch 00000001 caused by previous Xid 149", 1.0)
    entry = state.levels.xids.get(XidKey(UUID, PCI, "45"))
    assert entry is not None
    assert entry.cause == "149"


def test_a_cleanup_printed_before_its_cause_learns_it() -> None:
    """Lines of one fault may come in any order within half a minute."""
    state = make()
    xid(state, "45, pid=1, name=p, Ch 00000001", 1.0)
    xid(state, "79, gone", 2.0)
    xid(state, "154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", 3.0)
    causes = {key.xid: entry.cause for key, entry in state.levels.xids.items()}
    assert causes == {"45": "79", "79": "", "154": "79"}


def test_a_chain_ends_after_half_a_minute_of_silence() -> None:
    """An Xid more than 30 seconds after the last one of its GPU has a cause of its own."""
    state = make()
    xid(state, "79, gone", 1.0)
    xid(state, "45, pid=1, name=p, Ch 00000001", 32.0)
    entry = state.levels.xids.get(XidKey(UUID, PCI, "45"))
    assert entry is not None
    assert entry.cause == ""


def test_the_log_itself_names_gpus_the_inventory_does_not_know() -> None:
    """The UUID line that comes with the first Xid gives earlier and later levels of that address their UUID."""
    state = make(inventory=StaticInventory())
    xid(state, "31, pid=1, fault", 1.0)
    assert state.levels.xids.get(XidKey("", PCI, "31")) is not None
    state.feed_line(f"NVRM: GPU at PCI:{PCI}: {UUID}", 2.0)
    xid(state, "79, gone", 3.0)
    assert {key for key, _ in state.levels.xids.items()} == {XidKey(UUID, PCI, "31"), XidKey(UUID, PCI, "79")}


def test_a_switch_event_of_three_lines_is_one_event() -> None:
    """Headline and details are one count, one level and one ring entry with the details attached."""
    state = make()
    head = "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, "
    state.feed_line(head + "Fatal, Link 30 LTSSM Fault Up", 1.0)
    state.feed_line(head + "Severity 1 Engine instance 60 Sub-engine instance 00", 1.1)
    state.feed_line(head + "Data {0x10000000, 0x10000000}", 1.1)
    entry = state.levels.sxids.get(SxidKey("3", "0000:c1:00", "20034", "30", "fatal"))
    assert entry is not None
    assert (entry.total, len(state.levels.sxids)) == (1, 1)
    (event,) = state.events.dump()
    assert [detail[:4] for detail in event["details"]] == ["Seve", "Data"]
    assert state.counts.orphans == 0


def test_details_without_a_headline_are_only_counted() -> None:
    """A follow-up line whose headline was lost, or is old, makes no event."""
    state = make()
    head = "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, "
    state.feed_line(head + "Data {0x1}", 1.0)
    state.feed_line(head + "Fatal, Link 30 LTSSM Fault Up", 2.0)
    state.feed_line(head + "Data {0x1}", 5.0)
    assert (len(state.levels.sxids), state.counts.orphans) == (1, 2)


def test_a_gpu_lost_in_three_lines_is_known_by_its_address() -> None:
    """Head and tail of the long form, on lines of their own or in one record, are one lost GPU."""
    split, whole = make(), make()
    split.feed_line(f"[ 1843.308145] NVRM: The NVIDIA GPU {PCI}.0", 1.0)
    split.feed_line("               NVRM: (PCI ID: 10de:26b5) installed in this system has", 1.0)
    split.feed_line("               NVRM: fallen off the bus and is not responding to commands.", 1.0)
    whole.feed_line(
        f"3,912,1843308145,-;NVRM: The NVIDIA GPU {PCI}.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has"
        "\\x0aNVRM: fallen off the bus and is not responding to commands.",
        1.0,
    )
    for state in (split, whole):
        assert [key for key, _ in state.levels.faults.items()] == [FaultKey(UUID, PCI, "gpu_lost", "")]


def test_a_tail_without_a_head_still_says_that_a_gpu_is_lost() -> None:
    """When the head was overwritten some GPU of the node is lost: a level without address, and an orphan counted."""
    state = make()
    state.feed_line("NVRM: fallen off the bus and is not responding to commands.", 1.0)
    assert [key for key, _ in state.levels.faults.items()] == [FaultKey("", "", "gpu_lost", "")]
    assert state.counts.orphans == 1


def test_errors_of_the_port_above_a_gpu_find_the_gpu() -> None:
    """A PCIe port with one GPU below it: its link-down is that GPU's."""
    state = make()
    state.addresses.upstream = {"0000:3a:00": PCI}
    state.feed_line("pcieport 0000:3a:00.0: pciehp: Slot(12): Link Down", 1.0)
    assert [key for key, _ in state.levels.faults.items()] == [FaultKey(UUID, "0000:3a:00", "pcie_link_down", "")]


def test_pcie_errors_are_kept_by_severity() -> None:
    """Corrected and fatal AER messages of one GPU are two levels."""
    state = make()
    state.feed_line(f"pcieport 0000:3a:00.0: AER: Corrected error received: {PCI}.0", 1.0)
    state.feed_line(f"nvidia {PCI}.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer", 2.0)
    assert {key.severity for key, _ in state.levels.faults.items()} == {"corrected", "fatal"}


def test_an_old_event_is_given_to_nobody() -> None:
    """When the ring is read again, an old event's pid and GPU belong to somebody else: nobody is asked."""
    asked: list[int | None] = []

    def attribution(*, pid: int | None, gpu_uuid: str, pci_bus_id: str) -> Mapping[str, str]:
        asked.append(pid)
        return {"pod": "train-0"}

    state = make(attribution=attribution)
    xid(state, "31, pid=42, name=python3, Ch 00000001", 900.0)
    (event,) = state.events.dump()
    assert asked == []
    assert "pod" not in event or event["pod"] == {}


def test_the_work_an_event_hit_is_asked_for_once_per_ring_entry() -> None:
    """Pod and process go into the event; a burst of equal events asks once."""
    asked: list[int | None] = []

    def attribution(*, pid: int | None, gpu_uuid: str, pci_bus_id: str) -> Mapping[str, str]:
        asked.append(pid)
        return {"pod": "train-0", "gpu": gpu_uuid, "pci": pci_bus_id}

    state = make(attribution=attribution)
    for at in (999.0, 1000.0):
        xid(state, "31, pid=42, name=python3, Ch 00000001", at)
    (event,) = state.events.dump()
    assert asked == [42]
    assert (event["pid"], event["process"], event["repeats"]) == (42, "python3", 1)
    assert event["pod"] == {"pod": "train-0", "gpu": UUID, "pci": PCI}
    assert event["text"].startswith("NVRM: Xid")
    assert (event["boot_id"], event["action"], event["basis"]) == (BOOT, "none", "catalog")


def test_everything_that_events_can_grow_is_bounded() -> None:
    """With made-up addresses, codes and links every store stops at its limit and the rest is counted."""
    state = make(limits=Limits(xids=4, links=4, sxids=4, faults=4, events=4))
    for number in range(300):
        pci = f"0000:{number % 256:02x}:00"
        xid(state, f"{number}, text", 1.0, pci)
        xid(state, f"74, NVLink: fatal error detected on link {number}", 1.0, pci)
        state.feed_line(f"nvidia-nvswitch0: SXid (PCI:{pci}.0): {20000 + number}, Fatal, Link 1 x", 1.0)
        state.feed_line(f"NVRM: GPU {pci}.0: GPU has fallen off the bus.", 1.0)
        state.feed_line(f"NVRM: GPU at PCI:{pci}: {UUID}", 1.0)
    sizes = [
        len(store)
        for store in (state.levels.xids, state.levels.links, state.levels.sxids, state.levels.faults, state.events)
    ]
    assert all(size <= 4 for size in sizes)
    assert state.levels.overflow > 1000
    assert (
        len(state.addresses.learned),
        len(state._handlers.context.groups),
        len(state._handlers.context.switch_events),
    ) == (64, 64, 64)


def test_dump_and_load_are_inverse() -> None:
    """A state that was dumped as JSON and loaded dumps the same again; under another boot only its events remain."""
    state, same, other = make(), make(), make(boot_id="boot-2")
    xid(state, "79, gone", 1.0)
    xid(state, "154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", 2.0)
    state.feed_line("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 x", 1.0)
    state.cursor = {"seq": 77, "inode": 5, "offset": 99}
    document = json.loads(json.dumps(state.dump()))
    same.load(document)
    assert same.dump() == state.dump()
    other.load(document)
    assert (len(other.levels.xids), len(other.levels.sxids), len(other.events)) == (0, 0, 3)
    assert other.cursor == {"inode": 5, "offset": 99}


def test_the_newest_verdict_of_the_driver_holds() -> None:
    """When Xid 154 asks for less than before, the level asks for less too."""
    state = make()
    xid(state, "154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", 1.0)
    xid(state, "154, GPU recovery action changed from 0x2 (OS Reboot) to 0x1 (GPU Reset Required)", 2.0)
    entry = state.levels.xids.get(XidKey(UUID, PCI, "154"))
    assert entry is not None
    assert entry.resolution is not None
    assert entry.resolution.action == "gpu_reset"


def test_recovery_ends_faults_of_the_port_above_too() -> None:
    """What was kept under the address of the port belongs to the GPU as well."""
    state = make()
    state.addresses.upstream = {"0000:3a:00": PCI}
    state.feed_line("pcieport 0000:3a:00.0: pciehp: Slot(12): Link Down", 1.0)
    xid(state, "154, GPU recovery action changed from 0x2 (OS Reboot) to 0x0 (None)", 2.0)
    assert not any(entry.latched for _, entry in state.levels.faults.items())


def test_the_place_on_the_die_is_told_in_the_event() -> None:
    """Xid 13 names GPC, TPC and SM; they are in the event's detail."""
    state = make()
    xid(state, "13, Graphics SM Warp Exception on (GPC 1, TPC 3, SM 0): Out Of Range Address", 1.0)
    assert state.events.dump()[0]["detail"] == "GPC 1, TPC 3, SM 0"


def test_without_a_boot_id_old_levels_are_not_believed() -> None:
    """If nobody knows which boot this is, levels of a file may be those of another one: the ring tells anew."""
    state, again = make(boot_id=""), make(boot_id="")
    xid(state, "79, gone", 1.0)
    again.load(state.dump())
    assert len(again.levels.xids) == 0
