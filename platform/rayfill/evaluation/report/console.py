"""A comparison as tables on the console."""

from __future__ import annotations

from rich.console import Console

from rayfill.evaluation.report.contents import Comparison, interval, metric_name, unit
from rayfill.runs.table import Column, Table

#: So few runs stand beside each other, with a line for each parameter; more stand below each other.
_FEW_RUNS = 4


def show(comparison: Comparison, *, console: Console) -> None:
    """Print the leaderboard, the leads of the best, what differs, and what is not ranked."""
    comparison.board.show(console)
    _show_leads(comparison, console=console)
    _show_changed(comparison, console=console)
    for run in comparison.unranked:
        _say(f"Not ranked: {run.name}: {run.reason}", console=console)
    for fault in comparison.faults():
        _say(f"Note: {fault}", console=console)
    _say(" ".join(comparison.verdict()), console=console)


def _show_leads(comparison: Comparison, *, console: Console) -> None:
    if comparison.best is None or not comparison.leads:
        return
    titles = [", ".join(filter(None, (metric_name(m), unit(m)))) for m in comparison.metrics]
    rows = []
    for other, leads in comparison.leads.items():
        cells = [
            interval(leads[metric], metric) if metric in leads else ""
            for metric in comparison.metrics
        ]
        # Several where some photographs have no value of a metric.
        counted = ", ".join(dict.fromkeys(lead.counted for lead in leads.values()))
        rows.append([other, *cells, counted, comparison.doubt(other, comparison.sample_metric)])
    console.print(
        Table(
            title=f"Lead of {comparison.best.name} on the same samples, 95 % intervals",
            columns=["over", *(Column(title, right=True) for title in titles), "measured on", ""],
            rows=rows,
        )
    )


def _show_changed(comparison: Comparison, *, console: Console) -> None:
    table = comparison.changed()
    if table is None:
        return
    if len(table.rows) <= min(_FEW_RUNS, len(table.columns) - 1):
        header, *rows = zip(table.header(), *table.cells(), strict=True)
        table = Table(title=table.title, columns=header, rows=rows)
    console.print(table)


def _say(text: str, *, console: Console) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
