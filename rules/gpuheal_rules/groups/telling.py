"""What an alert says of its own evidence: which codes, what they mean, and who saw what.

Templates that Prometheus expands at each evaluation: `query` reads what the rules before the alert wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuheal_rules.catalogue.model import Catalogue, Fault
from gpuheal_rules.groups import evidence, special
from gpuheal_rules.options import Options
from gpuheal_rules.promql.cluster import keeping
from gpuheal_rules.promql.origin import named
from gpuheal_rules.promql.rule import COUNT, GPU, OPEN

NO_TEXT = " (not in the catalogue)"
MILDER = "milder than its number, by what its log line says"
SEVERER = "more severe than its number, by what its log line says"
RECOVERIES = ("recovery_", "domain_", "future_")


def tail(catalogue: Catalogue, options: Options, fault: Fault) -> str:
    """Return what the description of a fault's alert ends with."""
    return "".join(_sentences(catalogue, options, fault))


def _sentences(catalogue: Catalogue, options: Options, fault: Fault) -> Iterator[str]:
    if fault.xids or any(e.special in ("other_xid", "other_number") for e in fault.evidence):
        found = [expr for _, _, _, expr in evidence.xid_evidence(catalogue, fault)] if fault.xids else []
        found += _special(catalogue, options, fault, ("other_xid", "other_number"))
        text = "Xid {{ $e.Labels.xid }}" + _texts(catalogue, fault)
        yield _listed(_asked(options, fault, "xid", found), ("xid",), "Reported", text)
    if found := _special(catalogue, options, fault, ("sxid_fatal",)):
        text = "SXid {{ $e.Labels.sxid }} of switch {{ $e.Labels.switch }}"
        text += "{{ if $e.Labels.link }}, link {{ $e.Labels.link }}{{ end }}"
        yield _listed(_asked(options, fault, "sxid, switch, link", found), ("link", "sxid"), "Reported", text)
    if found := _special(catalogue, options, fault, ("foreign_condition",)):
        asked = _asked(options, fault, "condition", [special.foreign_conditions(catalogue)])
        yield _listed(asked, ("condition",), "Reported", "{{ $e.Labels.condition }}")
    if found := _special(catalogue, options, fault, RECOVERIES):
        asked = _asked(options, fault, "", found)
        yield _listed(asked, (), "Asked for", "recovery action {{ $e.Value }}")
    seen = f'{OPEN}{{fault="{fault.slug}", {_where(options, fault)}}}'
    yield _listed(
        (seen, options, fault), ("signal", "class"), "Seen by", "{{ $e.Labels.class }} ({{ $e.Labels.signal }})"
    )


def _names(options: Options, fault: Fault) -> list[str]:
    own = ["node", "gpu_uuid"] if fault.scope == "gpu" else ["node"]
    return own + ([options.cluster_label] if options.cluster_label else [])


def _where(options: Options, fault: Fault) -> str:
    return ", ".join(f"{name}=%q" for name in _names(options, fault))


def _special(catalogue: Catalogue, options: Options, fault: Fault, starts: tuple[str, ...]) -> list[str]:
    """Return the expressions of the fault's evidence whose special names begin so."""
    names = [each.special for each in fault.evidence if each.special.startswith(starts)]
    return [evidence.SPECIALS[name](catalogue, options)[0] for name in names]


def _asked(options: Options, fault: Fault, labels: str, found: Sequence[str]) -> tuple[str, Options, Fault]:
    """Return the query for these labels of what was found on the alert's own node or GPU; without labels, its value."""
    key = GPU if fault.scope == "gpu" else "node"
    terms = "\nor ".join(f"({expr})" for expr in found)
    own = f'({terms}) and on ({key}) {COUNT}{{fault="{fault.slug}", {_where(options, fault)}}}'
    query = f"group by ({labels}) ({own})" if labels else f"max by (node) ({own})"
    query = named(query, options)
    if options.cluster_label:
        query = keeping(query, options.cluster_label)
    return " ".join(query.split()), options, fault


def _listed(asked: tuple[str, Options, Fault], order: Sequence[str], what: str, each: str) -> str:
    query, options, fault = asked
    values = " ".join(f"$labels.{name}" for name in _names(options, fault))
    # The order of a query's result is not defined, and a text that flaps is a new text each time.
    ordered = "".join(f' | sortByLabel "{label}"' for label in order)
    listed = f"{{{{ range $i, $e := . }}}}{{{{ if $i }}}}, {{{{ end }}}}{each}{{{{ end }}}}"
    return f"{{{{ with query (printf `{query}` {values}){ordered} }}}} {what}: {listed}.{{{{ end }}}}"


def _texts(catalogue: Catalogue, fault: Fault) -> str:
    """Return the template of a code's meaning, for the codes that this alert can name."""
    texts = {code: catalogue.xid_texts[code] for code in fault.xids}
    for other in catalogue.every_fault():
        # The text of its number would contradict the alert.
        for target, text in ((other.downgrade, MILDER), (other.upgrade, SEVERER)):
            texts |= dict.fromkeys(other.xids if target == fault.slug else (), text)
    if any(each.special in ("other_xid", "other_number") for each in fault.evidence):
        judged = set(catalogue.judged("dcgm").split("|"))
        texts |= {code: catalogue.xid_texts[code] for code in catalogue.known_xids if str(code) not in judged}
    meaning: dict[str, list[str]] = {}
    for code, text in sorted(texts.items()):
        meaning.setdefault(text, []).append(str(code))
    terms = [f'if match "^({"|".join(own)})$" $e.Labels.xid }}}} ({text})' for text, own in meaning.items()]
    return "{{ " + "{{ else ".join(terms) + "{{ else }}" + NO_TEXT + "{{ end }}"
