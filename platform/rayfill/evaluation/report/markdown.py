"""A comparison in a few lines of Markdown, for a pull request or a chat."""

from __future__ import annotations

from collections.abc import Sequence

from rayfill.evaluation.report.contents import Comparison, interval, metric_name, unit

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
    header, rows = board.cells()
    parts = [f"## {_plain(board.title)}", " ".join(map(_plain, comparison.verdict()))]
    parts.append(_table(header, rows[:_MOST_ROWS]))
    if len(rows) > _MOST_ROWS:
        parts.append(f"and {len(rows) - _MOST_ROWS} more.")
    parts += [_leads(comparison), _changed(comparison)]
    parts.append("\n".join(f"- not ranked: {_plain(f'{run.name}: {run.reason}')}"
                           for run in comparison.unranked))  # fmt: skip
    parts.append("\n".join(f"- {_plain(fault)}" for fault in comparison.faults()))
    protocol = {name: board.protocol[name] for name in _PROTOCOL if name in board.protocol}
    parts.append("Protocol: " + "; ".join(f"{k} {_plain(v)}" for k, v in protocol.items()) + ".")
    if page:
        parts.append(f"Pictures, curves and everything else: `{page}`.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _leads(comparison: Comparison) -> str:
    metric = comparison.sample_metric
    lines = []
    for pair in comparison.differences[:_MOST_DIFFERENCES]:
        if metric not in pair.by_metric:
            continue
        chance = " (may be chance)" if pair.tied(metric) else ""
        lines.append(f"- {_plain(pair.name)}: {interval(pair.by_metric[metric], metric)}{chance}")
    if not lines or comparison.best is None:
        return ""
    what = f"{metric_name(metric)}{f' ({unit(metric)})' if unit(metric) else ''}"
    title = f"Lead of {_plain(comparison.best.name)} in {what}, with 95 % intervals, over"
    return f"{title}\n\n" + "\n".join(lines)


def _changed(comparison: Comparison) -> str:
    keys, values = comparison.changed()
    if not keys:
        return ""
    return "What differs between the runs:\n\n" + _table(
        ["run", *keys], [[name, *own] for name, own in list(values.items())[:_MOST_ROWS]]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    return text if text == "---" else _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: names may hold anything."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "\\`*[]" else char for char in text)
