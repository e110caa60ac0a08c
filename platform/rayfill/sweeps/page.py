"""What the page of a sweep says in MLflow: what it varies, its table, a view of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rayfill.config.ranking import less_is_better
from rayfill.config.run import RunConfig
from rayfill.evaluation.leaderboard import Leaderboard, psnr_and_ssim
from rayfill.runs.run_page import NOTE
from rayfill.runs.table import Cell, Column, Table
from rayfill.runs.tracking import Tracker
from rayfill.sweeps.space import Space, describe_space


def sweep_view(
    sweep: str, *, metrics: Sequence[str], params: Sequence[str]
) -> dict[str, str | bool | list[str]]:
    """Return MLflow's table of a sweep's runs, best first by the first metric, without folding.

    Args:
        sweep: Its name.
        metrics: Columns, such as ``test/hole_psnr``.
        params: Columns: what it varies.
    """
    return {
        "searchFilter": f"tags.rayfill.sweep = '{sweep}' and tags.rayfill.kind != 'sweep'",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": less_is_better(metrics[0].partition("/")[2]),
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in metrics),
            *(f"params.`{name}`" for name in params),
            "tags.`rayfill.outcome`",
        ],
    }


def describe_sweep(
    name: str, *, space: Mapping[str, str], run_dir: str, board: Leaderboard | None = None
) -> str:
    """Return what a sweep varies and, when it is done, its table, in Markdown."""
    table = Table(columns=[Column("varied", code=True), "values"], rows=list(space.items()))
    varied = f"{table.markdown()}\n" if space else ""
    address = f"#/experiments/{{experiment_id}}/runs?viewStateShareKey={name}"
    link = f"[Its runs as a table, best first]({address}&workflowType=machine_learning)"
    if board is None:
        return f"{link}; the leaderboard stands here when the trials are done.\n\n{varied}"
    return (
        f"{link}\n\n{_short_table(board)}\n{varied}"
        "With deviations and by hole ratio: `leaderboard.md` (Artifacts). As a page with "
        f"pictures:\n\n```\nrayfill compare {run_dir}\n```\n"
    )


def record_sweep(
    tracker: Tracker,
    *,
    name: str,
    config: RunConfig,
    space: Space,
    board: Leaderboard | None = None,
) -> None:
    """Record what a sweep varies, its table when it is done, and a view of its runs.

    Args:
        tracker: Of the sweep's own run.
        name: Of the sweep.
        config: Of a trial.
        space: What is varied.
        board: What was measured.
    """
    described = describe_sweep(
        name, space=describe_space(space), run_dir=f"{config.storage}/{name}", board=board
    )
    tracker.tags({NOTE: described})
    measured = [board.rank_by, *psnr_and_ssim(board.rank_by)] if board else []
    metrics = [*(f"test/{metric}" for metric in measured), f"val/{config.eval.select_metric}"]
    params = config.tracking.params
    tracker.view(name, sweep_view(name, metrics=list(dict.fromkeys(metrics)), params=params))


def _short_table(board: Leaderboard) -> str:
    """Return the metric that ranks, of everything measured, best first."""
    rows: list[list[Cell]] = []
    for rank, entry in enumerate(board.ranked(), start=1):
        score = entry.table.total.get(board.rank_by)
        kind = "" if entry.kind == "trial" else f" ({entry.kind})"
        value = score.mean if score else math.nan
        rows.append([rank, value, entry.epochs, f"{entry.name}{kind}"])
    number, epochs = Column("#", right=True), Column("epochs", right=True)
    ranked_by = Column(board.rank_by, right=True, format=".4g")
    return Table(columns=[number, ranked_by, epochs, "system"], rows=rows).markdown()
