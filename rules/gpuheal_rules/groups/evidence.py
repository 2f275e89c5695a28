"""Layer 2: evidence. Per fault, GPU, witness class and signal one series while the evidence holds, else none.

The value is the unix time of the last positive sighting: the last event of a latch, or the evaluation itself for a
level. Healthy GPUs cost nothing: every expression filters before it aggregates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gpuheal_rules.catalogue.model import Catalogue, Evidence, Fault
from gpuheal_rules.groups import special
from gpuheal_rules.groups.latch import DCGM_XID, XID, bridged
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import (
    EVIDENCE,
    GPU,
    GUARD,
    NEAR,
    Record,
    by_target,
    indent,
    promql,
    recovered,
    threshold,
)

Special = Callable[[Catalogue, Options], tuple[str, str]]
HARMLESS_XID = "gpuheal:xid_harmless:info"
"""Xids whose line says that nothing is to be done to this GPU, or that its peer is to blame."""

SERIOUS_XID = "gpuheal:xid_serious:info"
"""Xids whose line itself says that something is to be done to this GPU."""

SPECIALS: Mapping[str, Special] = special.SPECIALS
BRIDGED = ("exporter", "dcgm", "ksm")
"""Sources whose silence is bridged by what was last known."""


def rules(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield the evidence of every fault, in the catalogue's order."""
    resolution = "gpuheal_xid_resolution_info"
    yield Record(
        name=HARMLESS_XID,
        expr=f'group by ({GPU}, xid) (\n  {resolution}{{action=~"none|alert"}} or {resolution}{{blames="peer"}}\n)',
    )
    yield Record(
        name=SERIOUS_XID,
        expr=f'group by ({GPU}, xid) ({resolution}{{action!~"none|alert", basis="message", blames!="peer"}})',
    )
    # Read once for all that judge it: every GPU shows one.
    for name in special.RECOVERIES:
        expr = by_target(options, catalogue.signals[name], "> 0")
        yield Record(name=special.ASKED, labels={"signal": name}, expr=expr)
    yield from _near(catalogue, options)
    for fault in catalogue.faults.values():
        if fault.xids and fault.scope == "gpu":
            yield from _xid(catalogue, fault)
        for evidence in fault.evidence:
            yield _one(catalogue, options, fault, evidence)


def _labels(fault: Fault, witness: str, signal: str, strength: str) -> dict[str, str]:
    return {"fault": fault.slug, "class": witness, "signal": signal, "strength": strength}


def _xid(catalogue: Catalogue, fault: Fault) -> Iterator[Record]:
    for witness, signal, strength, expr in xid_evidence(catalogue, fault):
        yield Record(
            name=EVIDENCE,
            labels=_labels(fault, witness, signal, strength),
            expr=f"max by ({GPU}) (\n{indent(expr)}\n)" if "\n" in expr else f"max by ({GPU}) ({expr})",
        )


def xid_evidence(catalogue: Catalogue, fault: Fault) -> list[tuple[str, str, str, str]]:
    """Return witness class, signal, strength and the latches, with their label xid, that are evidence of the fault."""
    # What the line of an Xid says outranks its number: some are milder than their table says, some are worse.
    moved = f"\n  unless on ({GPU}, xid) {HARMLESS_XID}" if fault.downgrade else ""
    moved += f"\n  unless on ({GPU}, xid) {SERIOUS_XID}" if fault.upgrade else ""
    kernel = _latched(XID, fault.xids, fault) + moved
    for other in catalogue.every_fault():
        for target, said in ((other.downgrade, HARMLESS_XID), (other.upgrade, SERIOUS_XID)):
            if target == fault.slug:
                kernel += f"\n  or ({_latched(XID, other.xids, fault)} and on ({GPU}, xid) {said})"
    found = [(fault.witness, "xid", "strong", kernel)]
    # dcgm-exporter has the number without the line; where that is needed, the number alone says little.
    clear = [code for code in fault.xids if code not in catalogue.weak_numbers]
    if clear:
        found.append(("dcgm", "xid", "strong", _latched(DCGM_XID, clear, fault) + moved))
    unclear = [code for code in fault.xids if code in catalogue.weak_numbers]
    if unclear and fault.state == "faulty":
        found.append(("dcgm", "xid-number", "weak", _latched(DCGM_XID, unclear, fault) + moved))
    return found


def _latched(latch: str, codes: Sequence[int], fault: Fault) -> str:
    """Return the latches of these codes for as long as the fault holds after their last event."""
    found = f'{latch}{{xid=~"{"|".join(map(str, codes))}"}}'
    return found if fault.hold is None else f"({found} > time() - {fault.hold.total_seconds():.12g})"


def _one(catalogue: Catalogue, options: Options, fault: Fault, evidence: Evidence) -> Record:
    labels = _labels(fault, evidence.witness, evidence.name, evidence.strength)
    own = f'{EVIDENCE}{{fault="{fault.slug}", class="{evidence.witness}", signal="{evidence.name}"}}'
    source = source_of(catalogue, options, evidence)
    if evidence.special:
        now, _source = SPECIALS[evidence.special](catalogue, options)
    else:
        now = _growth(evidence) if evidence.growth else _level(catalogue, options, evidence, own)
    key = "node" if fault.scope != "gpu" else GPU
    # What is timed carries the time of the event; a level is seen now.
    expr = f"max by ({key}) (\n{indent(now)}\n)" if evidence.timed else f"group by ({key}) (\n{indent(now)}\n) * time()"
    if evidence.guarded:
        expr = f"{expr}\n  unless on (node) {GUARD}"
    if rests_on_slow_facts(evidence):
        expr += f"\n  or on ({key})\n  max by ({key}) ({own.replace(EVIDENCE, recovered(EVIDENCE))})"
    if source in BRIDGED:
        expr += f"\n  or on ({key})\n  max by ({key}) (\n{indent(bridged(own, source), 4)}\n  )"
    return Record(name=EVIDENCE, labels=labels, expr=expr)


def rests_on_slow_facts(evidence: Evidence) -> bool:
    """Return whether the evidence reads what the slow group writes: after a start that is missing for a while."""
    return bool(evidence.growth) or evidence.special in special.SLOW


def source_of(catalogue: Catalogue, options: Options, evidence: Evidence) -> str:
    """Return whose silence the evidence outlives; empty or another word when it outlives nobody's."""
    if evidence.special:
        return SPECIALS[evidence.special](catalogue, options)[1]
    return catalogue.signals[evidence.signal].source


def _level(catalogue: Catalogue, options: Options, evidence: Evidence, own: str) -> str:
    signal = catalogue.signals[evidence.signal]
    limit = threshold(evidence.threshold) if evidence.threshold else f"{evidence.value:.12g}"
    if not evidence.leave:
        return by_target(options, signal, f"{evidence.op} {limit}")
    # Entered above one limit and left below another, so that a value at the limit does not flap.
    key = GPU if signal.scope == "gpu" else "node"
    near = f'{NEAR}{{signal="{evidence.signal}"}}'
    return f"{near} {evidence.op} {limit} or {near} and on ({key}) {own}"


def _near(catalogue: Catalogue, options: Options) -> Iterator[Record]:
    """Yield the values of signals with two limits that are beyond the one at which evidence ends."""
    for evidence in (e for f in catalogue.faults.values() for e in f.evidence if e.leave):
        expr = by_target(options, catalogue.signals[evidence.signal], f"{evidence.op} {threshold(evidence.leave)}")
        if evidence.overruled:
            # The device's own limit is known, and counts.
            expr += f"\n  unless on ({GPU}) {by_target(options, catalogue.signals[evidence.overruled])}"
        yield Record(name=NEAR, labels={"signal": evidence.signal}, expr=expr)


def _growth(evidence: Evidence) -> str:
    limit = threshold(evidence.threshold) if evidence.threshold else f"{evidence.value:.12g}"
    return promql(f'gpuheal:gpu_counter:growth{evidence.growth}{{signal="{evidence.signal}"}} {evidence.op} {limit}')
