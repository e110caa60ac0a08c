"""A comparison as tables on the console."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rayfill.evaluation.report.contents import Comparison, interval, metric_name, unit

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
    if comparison.best is None or not comparison.differences:
        return
    title = f"Lead of {escape(comparison.best.name)} on the same samples, 95 % intervals"
    table = Table(title=title)
    table.add_column("over", overflow="fold")
    for metric in comparison.metrics:
        dimension = f", {unit(metric)}" if unit(metric) else ""
        table.add_column(f"{metric_name(metric)}{dimension}", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for pair in comparison.differences:
        found = [pair.by_metric.get(metric) for metric in comparison.metrics]
        cells = [
            interval(difference, metric) if difference else ""
            for difference, metric in zip(found, comparison.metrics, strict=True)
        ]
        chance = "may be chance" if pair.tied(comparison.sample_metric) else ""
        table.add_row(escape(pair.name), *map(escape, cells), chance)
    console.print(table)


def _show_changed(comparison: Comparison, *, console: Console) -> None:
    keys, values = comparison.changed()
    if not keys:
        return
    rows = [["run", *keys], *([name, *own] for name, own in values.items())]
    if len(values) <= min(_FEW_RUNS, len(keys)):
        rows = [list(row) for row in zip(*rows, strict=True)]
    table = Table(title="What differs between the runs")
    for cell in rows[0]:
        table.add_column(escape(cell), overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console.print(table)


def _say(text: str, *, console: Console) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
