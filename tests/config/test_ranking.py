"""Which way every metric is better, asked of everything that ranks."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from rich.console import Console

from rayfill.config.ranking import best_of, less_is_better, needs_lpips, ordered, worth
from rayfill.config.run import STAGE_METRICS, RunConfig, replace
from rayfill.config.sections import SelectMetric
from rayfill.evaluation.leaderboard import COLUMNS
from rayfill.metrics import InpaintingMetrics
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.references import best_run
from rayfill.runs.sweep_folder import SweepFolder
from rayfill.sweeps.continuing import continued_sweep
from rayfill.sweeps.page import sweep_view
from rayfill.sweeps.plan import Plan
from rayfill.sweeps.progress import SweepProgress
from rayfill.sweeps.spec import SweepOptions

#: Said here once more, for the table in the code may be wrong.
LESS = {"coherence", "lpips", "removal_lpips"}
METRICS: tuple[SelectMetric, ...] = get_args(SelectMetric)
every_metric = pytest.mark.parametrize("metric", METRICS)


@every_metric
def test_the_better_score_wins_and_one_that_is_none_never(metric: SelectMetric) -> None:
    better, worse = (0.2, 0.7) if metric in LESS else (0.7, 0.2)
    assert worth(better, metric=metric) > worth(worse, metric=metric)
    for nothing in (math.nan, math.inf, -math.inf):
        assert worth(worse, metric=metric) > worth(nothing, metric=metric)
        assert best_of([nothing, worse, better, nothing], metric=metric) == better
        assert math.isnan(best_of([nothing], metric=metric))


def test_what_can_be_selected_by_is_measured_by_some_stage_and_is_ordered() -> None:
    assert {metric for of_stage in STAGE_METRICS.values() for metric in of_stage} == {*METRICS}
    assert all(ordered(metric) for metric in METRICS)
    assert {metric for metric in METRICS if needs_lpips(metric)} == {"lpips", "removal_lpips"}


def test_tables_say_which_way_is_better() -> None:
    arrows = {metric: column.title[-1] for metric, column in COLUMNS.items() if metric in METRICS}
    assert {metric for metric, arrow in arrows.items() if arrow == "↓"} == LESS
    assert {arrow for metric, arrow in arrows.items() if metric not in LESS} == {"↑"}
    assert COLUMNS["sharpness"].title == "sharpness"  # best at 1
    assert COLUMNS["fid"].title == "FID ↓"


def test_by_every_metric_of_fills_noise_is_worse_than_the_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=generator)
    truth = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")
    hole = torch.zeros(2, 1, 64, 64)
    hole[..., 20:44, 20:44] = 1
    tables = []
    for noise in (0.01, 0.4):
        filled = (truth + noise * hole * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
        metrics = InpaintingMetrics(appearance=True)
        metrics.update(filled, truth, hole)
        tables.append(metrics.compute().total)
    measured = [m for m in STAGE_METRICS["inpainting"] if not needs_lpips(m)]
    assert "coherence" in measured
    for metric in measured:
        good, bad = (worth(table[metric].mean, metric=metric) for table in tables)
        assert good > bad, metric


def run_with(folder: RunFolder, metric: str, scores: tuple[float, ...]) -> None:
    entries = [{"epoch": n, f"val/{metric}": score} for n, score in enumerate(scores, start=1)]
    folder.write_history(entries)
    folder.write_outcome(Outcome(status="finished", epoch=len(scores)))
    Path(folder.bundle).mkdir(parents=True)
    Path(folder.bundle, "config.json").write_text("{}")
    meta = Path(folder.checkpoints, "step-1", "meta.json")
    meta.parent.mkdir(parents=True)
    meta.write_text('{"meta": {}, "epoch": 2}')


@every_metric
def test_sweeps_agree_on_their_best_run(metric: SelectMetric, tmp_path: Path) -> None:
    """The highest is in "a", the lowest in "b"; "c" has none."""
    stage = next(stage for stage, metrics in STAGE_METRICS.items() if metric in metrics)
    base = replace(RunConfig(), {"train.stage": stage, "eval.select_metric": metric})
    trials = [replace(base, {"name": name}) for name in "abc"]
    plan = Plan(name="s", storage=str(tmp_path), trials=trials)
    plan.create()
    for trial, scores in zip(trials, ((0.5, 0.9), (0.4, 0.1), (math.nan, math.nan)), strict=True):
        run_with(plan.run_folder(trial), metric, scores)
    best = "b" if metric in LESS else "a"
    assert best_run(SweepFolder(f"{tmp_path}/s")).name == best
    options = SweepOptions(scheduler="none")
    more = continued_sweep(
        plan, epochs=1, best=1, names=(), schedule="continue", options=options, resume=False
    )
    assert [run.name for run in more.runs] == [f"{best}+1"]


@every_metric
def test_what_is_shown_follows(metric: SelectMetric) -> None:
    view = sweep_view("s", metrics=[f"test/{metric}"], params=[])
    assert view["orderByAsc"] is less_is_better(metric) is (metric in LESS)
    trial = replace(RunConfig(), {"name": "a", "eval.select_metric": metric})
    progress = SweepProgress([trial], concurrent=1, console=Console(file=io.StringIO()))
    for epoch, score in enumerate((math.nan, 0.5, 0.9, math.nan, 0.1, 0.4), start=1):
        progress.reported("a", {"epoch": epoch, f"val/{metric}": score})
    assert progress.table().rows[0][-1] == (0.1 if metric in LESS else 0.9)
