"""What the page of a run says in MLflow: parameters to compare, what went in, what came out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rayfill.config.run import RunConfig, flatten, to_dict, written
from rayfill_data.prepared.reader import PreparedDataset

if TYPE_CHECKING:
    from rayfill.metrics import MetricTable
    from rayfill.runs.job import TrainingJob
    from rayfill.runs.tracking import Tracker

#: MLflow's tag for what stands at the top of a run's page, in Markdown.
NOTE = "mlflow.note.content"
CONFIG_FILE = "config.json"
#: Enough to tell datasets apart, and MLflow's column shows no more.
_DIGEST_CHARS = 12

#: Parameters of every run, in the order shown.
_ALWAYS = ("model.name", "loss.terms", "train.epochs")
#: What can change a result, and is compared where somebody changed it ...
_COMPARED = ("data.", "model.", "loss.", "train.", "scaling.num_workers")
#: ... but for places, which tags and config.json hold, and for what only sets when things are done.
_NOT_COMPARED = (
    "data.uri",
    "data.feed",
    "data.memory_gib",
    "loss.weights_path",
    "train.continue_from",
    "train.init_from",
    "train.keep_checkpoints",
    "train.max_bad_steps",
    "train.validate_every",
)


def compared_params(config: RunConfig, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the few parameters that tell a run from others, what a sweep varies first.

    MLflow prints all parameters above every picture, so a whole configuration would push the
    picture out of its tile. Those at their default are left out, but for the main ones and those of
    ``tracking.params``.
    """
    values, usual = flatten(to_dict(config)), flatten(to_dict(RunConfig()))
    changed = [
        key
        for key in values
        if key.startswith(_COMPARED) and key not in _NOT_COMPARED and values[key] != usual.get(key)
    ]
    shown = dict.fromkeys([*config.tracking.params, *_ALWAYS, *changed])
    # Not every run has the options of a network of one's own.
    return {key: values[key] for key in shown if key in values and key not in without}


def comparing(config: RunConfig, keys: Sequence[str]) -> RunConfig:
    """Return the config with ``keys`` among those that are always parameters."""
    params = tuple(dict.fromkeys([*config.tracking.params, *keys]))
    return dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, params=params))


def differing_keys(runs: Sequence[RunConfig]) -> list[str]:
    """Return the config keys in which runs differ, but for their names and places."""
    flat = [flatten(to_dict(run)) for run in runs]
    return [
        key
        for key in dict.fromkeys(key for one in flat for key in one)
        if key.startswith(_COMPARED) and any(one.get(key) != flat[0].get(key) for one in flat)
    ]


def record_inputs(tracker: Tracker, *, config: RunConfig, dataset: PreparedDataset) -> None:
    """Record the whole configuration as a file, and the dataset as MLflow's input."""
    tracker.text(json.dumps(written(config), indent=1), CONFIG_FILE)
    manifest = dataset.manifest
    tracker.dataset(
        config.data.uri.rstrip("/").rpartition("/")[2],
        digest=dataset.content_hash[:_DIGEST_CHARS],
        uri=config.data.uri,
        profile={
            "num_rows": sum(dataset.counts.values()),
            **dataset.counts,
            "size": f"{dataset.height}x{dataset.width}",
            "source": manifest.source,
            "content_hash": dataset.content_hash,
        },
    )


def describe_run(job: TrainingJob) -> str:
    """Return what a run is and how to use what it trains, in Markdown."""
    place = {
        "phase": f"Phase of sweep **{job.sweep}**",
        "winner": f"Winner of sweep **{job.sweep}**, trained on",
        "trial": f"Trial of sweep **{job.sweep}**",
    }.get(job.kind, "Run by itself")
    params = [f"{key} `{value}`" for key, value in compared_params(job.config).items()]
    return (
        f"{place}: {', '.join(params)}. `rayfill erase --model` takes the folder in the tag "
        f"`rayfill.bundle`. The whole configuration is `{CONFIG_FILE}` (Artifacts)."
    )


def test_scores(table: MetricTable) -> dict[str, float]:
    """Return the means on the test split under the names they have in MLflow."""
    return {f"test/{name}": score.mean for name, score in table.total.items()}


def record_result(tracker: Tracker, *, job: TrainingJob, table: MetricTable, epochs: str) -> None:
    """Record how a run ended and what it scored on the test split.

    Args:
        tracker: Of the run.
        job: The run.
        table: Its scores on the test split.
        epochs: Done and planned, such as ``2/4``.
    """
    outcome = job.folder.outcome()
    early = outcome is not None and outcome.status == "stopped"
    how = f"stopped early, {epochs} epochs" if early else f"{epochs} epochs"
    scores = {name: score.mean for name, score in table.total.items()}
    shown = ", ".join(f"{k} **{v:.4g}**" for k, v in scores.items() if math.isfinite(v))
    note = f"Test split: {shown} ({how}).\n\n{describe_run(job)}"
    tracker.tags({NOTE: note, "rayfill.outcome": how})
    if outcome is not None and outcome.status in ("finished", "stopped"):
        # Tune ends a trial in the way that a kill does, which MLflow would show as one.
        tracker.status("FINISHED")
