"""What an event asks for: the order of authority from the driver's own verdict down to our default for unknown codes.

Xid 154 value, then "RST / D-RST" at the end of 94/95, then the NVLink decode or register bits, then the catalogue
row, then the default: an unknown code is an alert, never fatal by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuheal_exporters.catalogue.table import rows

ACTIONS = tuple(action for (action,) in rows("actions.tsv"))
"""From the mildest to the strongest; `follow_xid154` asks for nothing by itself."""
_RANK = {action: rank for rank, action in enumerate(ACTIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """`action` is one of ACTIONS; `basis` says who decided: xid154, message, decode, registers, catalog, injected,
    unknown.

    `severity` is non_fatal, link_fatal, fatal or empty; `blames` is peer where the message names the other end of a
    link; `followup` is the second action of NVIDIA's decode table; `detail` is a short text for people.
    """

    action: str
    basis: str
    severity: str = ""
    blames: str = ""
    followup: str = ""
    detail: str = ""


def worse(old: Resolution | None, new: Resolution | None) -> Resolution | None:
    """Return the stronger of two resolutions; the older one if they ask for the same."""
    if old is None or new is None:
        return old or new
    return new if _RANK.get(new.action, 0) > _RANK.get(old.action, 0) else old
