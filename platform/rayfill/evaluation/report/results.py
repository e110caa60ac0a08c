"""What the folders of runs and sweeps hold: configurations, results, and why there are none."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayfill.evaluation.leaderboard import Leaderboard
from rayfill.evaluation.report.found import FoundRun
from rayfill.metrics.aggregate import Measured
from rayfill.runs import places
from rayfill.runs.journal import recorded_run
from rayfill.runs.sweep_folder import SAMPLES, TABLE_DATA, SweepFolder
from rayfill_data.errors import RayfillError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What a finished sweep wrote down."""

    board: Leaderboard
    measured: Mapping[str, Measured]
    sample_id: Mapping[str, tuple[str, ...]]
    hole_ratio: Mapping[str, NDArray[np.floating]]


def read_results(sweep: SweepFolder) -> Results | None:
    """Return what a sweep measured; None if it has not ended, or kept no values per sample."""
    import pyarrow.parquet as pq

    text, samples = sweep.read(TABLE_DATA), sweep.read(SAMPLES)
    if text is None or samples is None:
        return None
    try:
        board = Leaderboard.from_dict(json.loads(text))
        columns = pq.read_table(io.BytesIO(samples)).to_pydict()
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RayfillError(
            f"The results of {sweep.uri} are damaged ({type(error).__name__}: {error}). Delete its "
            f"{TABLE_DATA} and {SAMPLES}, and its runs are measured again."
        ) from error
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(columns["system"]):
        rows.setdefault(name, []).append(index)
    facts = ("system", "sample_id", "source_id", "hole_ratio")
    metrics = [name for name in columns if name not in facts]
    values = {metric: np.array(columns[metric], float) for metric in metrics}
    sample_id, ratio = np.array(columns["sample_id"]), np.array(columns["hole_ratio"], float)
    tables = {entry.name: entry.table for entry in board.entries}
    of_board = {name: own for name, own in rows.items() if name in tables}
    return Results(
        board=board,
        measured={
            name: Measured(
                table=tables[name],
                values={m: values[m][own] for m in metrics},
                source_id=tuple(columns["source_id"][row] for row in own)
                if "source_id" in columns  # older ones do not say
                else None,
            )
            for name, own in of_board.items()
        },
        sample_id={name: tuple(map(str, sample_id[own])) for name, own in of_board.items()},
        hole_ratio={name: ratio[own] for name, own in of_board.items()},
    )


def read_config(run: FoundRun) -> dict[str, Any]:
    """Return the configuration of a run: of its best bundle, else as its sweep planned it.

    Raises:
        RayfillError: it has neither.
    """
    bundle = run.folder.bundle_config()
    plan = run.sweep.plan() if run.sweep else None
    try:
        if bundle:
            return dict(bundle["extra"]["run"])
        planned = plan["trials"] if plan else []
        return dict(next(trial for trial in planned if trial["name"] == run.name))
    except StopIteration:
        raise RayfillError(why_no_metrics(run)) from None
    except (KeyError, TypeError) as error:
        raise RayfillError(
            f"{run.folder.uri}: its configuration cannot be read ({type(error).__name__}: {error})."
        ) from error


def why_no_metrics(run: FoundRun) -> str:
    """Return why a run without a model has none: it failed, or has not come that far."""
    outcome = run.folder.outcome()
    if outcome and outcome.status == "failed":
        return f"it failed in epoch {outcome.epoch}: {outcome.reason}"
    epochs = len(run.folder.history())
    return (
        f"it has no model yet ({epochs} epochs done, none validated); train it further"
        if epochs
        else f"it has no metrics and no model: nothing was trained in {run.folder.uri}"
    )


def journalled_run(run: FoundRun) -> str:
    """Return the MLflow run of a folder that was trained on this machine, else nothing."""
    parts = (run.sweep.name, run.name) if run.sweep else (run.name,)
    return recorded_run(places.home().joinpath("tracking", *parts))
