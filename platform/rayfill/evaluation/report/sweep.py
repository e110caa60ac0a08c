"""The report that every sweep ends with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rayfill.config.run import flatten, to_dict
from rayfill.evaluation.report.contents import Comparison, Run
from rayfill.evaluation.report.found import Unranked
from rayfill.evaluation.report.write import PAGE, SUMMARY, report_files, write_report
from rayfill.runs.journal import recorded_run
from rayfill_data.errors import redact_uri

if TYPE_CHECKING:
    from rayfill.evaluation.leaderboard import Leaderboard
    from rayfill.metrics.aggregate import Measured
    from rayfill.runs.folder import Outcome
    from rayfill.runs.job import TrainingJob
    from rayfill.runs.tracking import Tracker
    from rayfill_data.prepared.reader import SplitArrays


logger = logging.getLogger(__name__)


def report_sweep(
    board: Leaderboard,
    *,
    jobs: Sequence[TrainingJob],
    measured: Mapping[str, Measured],
    arrays: SplitArrays,
    outcomes: Mapping[str, Outcome],
    parent: Tracker,
    console: Console,
) -> None:
    """Write a sweep's report into its folder and keep it with its MLflow run.

    Whatever goes wrong costs the report alone: the sweep's results are kept by then, and the
    report can be made from them later.
    """
    root = jobs[0].folder.parent
    try:
        comparison = sweep_comparison(
            board, jobs=jobs, measured=measured, arrays=arrays, outcomes=outcomes
        )
        files = report_files(comparison, arrays=arrays)
        page = write_report(files, out=f"{root}/report")
        for name in (PAGE, SUMMARY):
            parent.text(files[name].decode(), name)
    except Exception as error:  # no picture is worth a sweep
        logger.debug("The report failed", exc_info=True)
        console.print(
            redact_uri(
                f"The report was not made ({type(error).__name__}: {error}). The results are kept; "
                f"`rayfill compare {root}` makes it."
            ),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return
    console.print(f"Report: {page}", highlight=False, markup=False, soft_wrap=True)


def sweep_comparison(
    board: Leaderboard,
    *,
    jobs: Sequence[TrainingJob],
    measured: Mapping[str, Measured],
    arrays: SplitArrays,
    outcomes: Mapping[str, Outcome],
) -> Comparison:
    """Return what a sweep that is ending knows, without measuring anything again.

    Args:
        board: its leaderboard.
        jobs: of the runs that stand in it.
        measured: every system's metrics on ``arrays``.
        arrays: the test split.
        outcomes: how the trials ended, those without a model too.
    """
    runs = [
        Run(
            name=job.config.name,
            params={key: str(value) for key, value in flatten(to_dict(job.config)).items()},
            history=job.folder.history(),
            folder=job.folder,
            run_id=recorded_run(Path(job.tracker_dir)),
        )
        for job in jobs
    ]
    ranked = {run.name for run in runs}
    return Comparison(
        board=board,
        runs={run.name: run for run in runs},
        measured=measured,
        sample_id=arrays.sample_id,
        hole_ratio=arrays.hole_ratio,
        dataset=jobs[0].config.data.uri,
        unranked=[
            Unranked(name=name, reason=f"{outcome.status}: {outcome.reason or 'no validation'}")
            for name, outcome in outcomes.items()
            if name not in ranked
        ],
    )
