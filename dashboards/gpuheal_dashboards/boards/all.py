"""All boards, with what a site changes put in: jobs, labels, runbooks, and the words for its faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpuheal_dashboards.boards import fleet, gpu, node, pipeline, remediation
from gpuheal_dashboards.model import Board, Column, Panel, Shade, Variable
from gpuheal_dashboards.selectors import DEFAULT_CLUSTER_LABEL, for_site
from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.reason import Reason
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.options import Options

BOARDS = (fleet.BOARD, node.BOARD, gpu.BOARD, remediation.BOARD, pipeline.BOARD)
Words = Mapping[str, Mapping[str, Shade]]


def boards(options: Options, catalogue: Catalogue) -> Sequence[Board]:
    """Return the five boards of a site, in the order in which one looks at them."""
    words = _words(catalogue)
    return tuple(_of_site(board, options, words) for board in BOARDS)


def _words(catalogue: Catalogue) -> Words:
    """Return what slugs and codes mean, for people."""
    reasons = {str(reason): reason.sentence for reason in Reason}
    for action in SPECS.values():
        reasons |= action.reasons
    meanings: Mapping[str, Mapping[str, str]] = {
        "reason": reasons,
        "fault": {slug: fault.title for slug, fault in catalogue.faults.items()},
        "xid": {str(code): text for code, text in catalogue.xid_texts.items()},
    }
    return {
        kind: {slug: Shade(text=f"{slug}: {text}") for slug, text in sorted(told.items())}
        for kind, told in meanings.items()
    }


def _of_site(board: Board, options: Options, words: Words) -> Board:
    def column(written: Column) -> Column:
        if written.link and written.link.runbook:
            link = replace(written.link, runbook=f"{options.runbook_base}/{written.link.runbook}")
            written = replace(written, link=link)
        return replace(written, texts=words[written.words]) if written.words else written

    def panel(written: Panel) -> Panel:
        return replace(
            written,
            queries=[replace(query, expr=for_site(query.expr, options)) for query in written.queries],
            columns=[column(one) for one in written.columns],
        )

    def variable(written: Variable) -> Variable:
        if written.name == "cluster":
            # The list of clusters is not narrowed by the cluster that is chosen.
            label = options.cluster_label or DEFAULT_CLUSTER_LABEL
            return replace(written, metric=f'{written.metric}{{job=""}}', label=label)
        return replace(written, metric=for_site(written.metric, options))

    return replace(
        board,
        variables=[variable(one) for one in board.variables],
        rows=[replace(row, panels=[panel(one) for one in row.panels]) for row in board.rows],
        marks=[replace(mark, expr=for_site(mark.expr, options)) for mark in board.marks],
    )
