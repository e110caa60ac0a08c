"""A comparison in a few lines of Markdown, for a pull request or a chat."""

from __future__ import annotations

import dataclasses

from rayfill.evaluation.report.contents import Comparison, interval, metric_name, unit
from rayfill.runs.table import Table, plain

#: Of the protocol, what a reader needs to know whether another table is comparable.
_PROTOCOL = ("dataset", "dataset_hash", "split", "size", "measured_on", "lpips")
_MOST_ROWS = 12
_MOST_DIFFERENCES = 6


def markdown(comparison: Comparison, *, page: str = "") -> str:
    """Return the table, the leads of the best, what differs and the protocol.

    Args:
        comparison: what is summed up.
        page: name of the page with everything, to point to.
    """
    board = comparison.board
    rows = board.table().rows
    parts = [f"## {plain(board.title)}", " ".join(map(plain, comparison.verdict()))]
    parts.append(_first_rows(board.table()))
    if len(rows) > _MOST_ROWS:
        parts.append(f"and {len(rows) - _MOST_ROWS} more.")
    parts += [_leads(comparison), _changed(comparison)]
    parts.append("\n".join(f"- not ranked: {plain(f'{run.name}: {run.reason}')}"
                           for run in comparison.unranked))  # fmt: skip
    parts.append("\n".join(f"- {plain(fault)}" for fault in comparison.faults()))
    protocol = {name: board.protocol[name] for name in _PROTOCOL if name in board.protocol}
    parts.append("Protocol: " + "; ".join(f"{k} {plain(v)}" for k, v in protocol.items()) + ".")
    if page:
        parts.append(f"Pictures, curves and everything else: `{page}`.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _leads(comparison: Comparison) -> str:
    metric = comparison.sample_metric
    lines = []
    for other, leads in list(comparison.leads.items())[:_MOST_DIFFERENCES]:
        if metric in leads:
            lead, doubt = leads[metric], comparison.doubt(other, metric)
            over = lead.too_few or ", ".join(filter(None, (lead.counted, doubt)))
            lines.append(f"- {plain(other)}: {interval(lead, metric)} ({over})")
    if not lines or comparison.best is None:
        return ""
    what = f"{metric_name(metric)}{f' ({unit(metric)})' if unit(metric) else ''}"
    title = f"Lead of {plain(comparison.best.name)} in {what}, with 95 % intervals, over"
    return f"{title}\n\n" + "\n".join(lines)


def _changed(comparison: Comparison) -> str:
    table = comparison.changed()
    return "" if table is None else f"{table.title}:\n\n{_first_rows(table)}"


def _first_rows(table: Table) -> str:
    return dataclasses.replace(table, rows=table.rows[:_MOST_ROWS]).markdown().rstrip()
