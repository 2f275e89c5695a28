"""One runbook page per alert, from the catalogue: meaning, impact, evidence, what gpuheal does, what a person does."""

from __future__ import annotations

from jinja2 import Environment, StrictUndefined

from gpuheal_rules.catalogue.model import TELLING, Alert, Catalogue, Fault
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.groups.alerts import EXPRESSIONS
from gpuheal_rules.options import Options
from gpuheal_rules.policies import SERVED, profiles, steps_for
from gpuheal_rules.promql.rule import COUNT, EVIDENCE, WITNESS

_PAGE = """\
<!-- {{ mark }} -->
# {{ alert.name }}

{{ alert.description | replace("{{ $value }}", "N") | replace("{{ $labels.", "<") | replace(" }}", ">") }}

| fault | scope | severity | waits | state of the GPU |
|---|---|---|---|---|
| `{{ fault.slug }}` | {{ fault.scope }} | {{ alert.severity }} | {{ wait }} | {{ fault.state }} |

## Meaning

{{ fault.runbook.meaning }}

## Impact

{{ fault.runbook.impact }}

## Evidence

{% for line in witnesses -%}
- {{ line }}
{% endfor -%}
{% for title, query in queries %}
{{ title }}:

```promql
{{ query }}
```
{% endfor %}
## What gpuheal does

{{ fault.runbook.gpuheal }}
{%- if ways %}

| steps | in the generated policies of profile |
|---|---|
{%- for steps, names in ways.items() %}
| {{ steps | join(" → ") }} | {{ names | join(", ") }} |
{%- endfor %}

Their mode is `observe`: the responder writes down what it would do, until somebody changes the mode.
{%- elif acted %}

No generated policy acts on it; yours may.
{%- endif %}
{%- if people %}

The usual ladder for this fault is {{ fault.ladder | join(" → ") }}.
gpuheal has no action for {{ people | join(", ") }}; people do that.
{%- endif %}

## What a person does

{% for line in fault.runbook.person -%}
- {{ line }}
{% endfor %}
## Sources

{% for line in fault.sources -%}
- {{ line }}
{% endfor -%}
"""
MARK = "Made by `gpuheal rules build` from rules/gpuheal_rules/catalogue/data/faults.yaml; edit that, not this."


def pages(catalogue: Catalogue, options: Options) -> dict[str, str]:
    """Return the pages by file name."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701
    known = profiles(catalogue)
    template = environment.from_string(_PAGE)
    return {
        f"{alert.name}.md": template.render(
            mark=MARK,
            fault=fault,
            alert=alert,
            wait=format_duration(alert.wait) if alert.wait else "not at all",
            witnesses=_witnesses(catalogue, fault),
            queries=_queries(catalogue, fault, alert, options),
            ways=steps_for(known, fault.slug),
            acted=fault.family not in ("pipeline", "own", "fleet") and fault.ladder != ("none",),
            people=[rung for rung in fault.ladder if rung not in (*SERVED, *TELLING)],
        )
        for fault, alert in catalogue.alerts()
    }


def _witnesses(catalogue: Catalogue, fault: Fault) -> list[str]:
    found = []
    if fault.xids:
        codes = ", ".join(str(code) for code in fault.xids)
        found.append(f"Xid {codes} in the kernel log (class {fault.witness}) or from dcgm-exporter (class dcgm)")
    for evidence in fault.evidence:
        what = catalogue.signals[evidence.signal].meaning if evidence.signal else evidence.name.replace("-", " ")
        grows = f", growth in {evidence.growth}" if evidence.growth else ""
        weak = "; weak" if evidence.strength == "weak" else ""
        found.append(f"{what}{grows} (class {evidence.witness}, signal `{evidence.name}`{weak})")
    return found


def _queries(catalogue: Catalogue, fault: Fault, alert: Alert, options: Options) -> list[tuple[str, str]]:
    if alert.expr:
        return [("The alert's own expression", EXPRESSIONS[alert.expr](catalogue, options))]
    of = f'{{fault="{fault.slug}", node="NODE"}}'
    return [
        ("Who witnesses it, and when it was last seen (unix time)", WITNESS + of),
        ("Every single piece of evidence, settled or not", EVIDENCE + of),
        ("How many witness classes agree", COUNT + of),
        ("The states of the node's GPUs", 'gpuheal:gpu_state{node="NODE"}'),
    ]
