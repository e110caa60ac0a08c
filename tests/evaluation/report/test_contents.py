"""What a comparison concludes, from numbers made by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from rayfill.evaluation.leaderboard import Entry, Leaderboard
from rayfill.evaluation.report.contents import (
    Comparison,
    Run,
    interval,
    listing,
    shortened,
    with_unit,
)
from rayfill.evaluation.report.markdown import markdown
from rayfill.evaluation.report.plots import MOST_LABELLED, curves_png, pages, styles
from rayfill.metrics import BUCKETS, MetricTable, Score
from rayfill.metrics.aggregate import Measured
from rayfill.metrics.significance import paired_difference

RATIO = np.repeat([0.05, 0.15, 0.35, 0.7], 10)
PHOTOGRAPHS = tuple(f"p{index}" for index in range(len(RATIO)))


def measured(values: Any, *, metric: str = "hole_psnr") -> Measured:
    values = np.asarray(values, float)
    mean = float(values.mean())
    score = Score(mean=mean, std=1.0, n=len(values), n_infinite=0)
    empty = Score(mean=math.nan, std=math.nan, n=0, n_infinite=0)
    names = (metric, "hole_ssim", "l1")
    table = MetricTable(
        total=dict.fromkeys(names, score),
        buckets={b: dict.fromkeys(names, score if i < 2 else empty) for i, b in enumerate(BUCKETS)},
    )
    return Measured(table=table, values={metric: values}, source_id=PHOTOGRAPHS[: len(values)])


def comparison(
    found: dict[str, Measured],
    *,
    rank_by: str = "hole_psnr",
    runs: dict[str, Run] | None = None,
) -> Comparison:
    runs = {name: Run(name=name) for name in found} if runs is None else runs
    kinds = {name: "trial" if name in runs else "baseline" for name in found}
    entries = [Entry(name=n, kind=kinds[n], table=m.table) for n, m in found.items()]
    return Comparison(
        board=Leaderboard(title="t", entries=entries, rank_by=rank_by, protocol={"split": "test"}),
        runs=runs,
        measured=found,
        sample_id=[f"s{index:02d}" for index in range(len(RATIO))],
        hole_ratio=RATIO,
        dataset="",
    )


@pytest.fixture
def base() -> np.ndarray:
    return np.random.default_rng(0).normal(25, 4, len(RATIO))


def test_the_verdict_names_the_best_and_what_cannot_be_told_from_it(base: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(0, 1, len(base))
    alike = measured(base - 0.02 + noise - noise.mean())
    found = comparison({"alike": alike, "best": measured(base), "worse": measured(base - 3)})
    said = " ".join(found.verdict())
    assert "best is best" in said
    assert "cannot be told from alike." in said
    assert "worse" not in said
    clear = comparison({"best": measured(base), "worse": measured(base - 3)})
    assert "worse by +3.000 [+3.000, +3.000] dB over 40 photographs, more than" in " ".join(
        clear.verdict()
    )


def test_photographs_that_are_few_or_not_known_are_said(base: np.ndarray) -> None:
    def of(source_id: tuple[str, ...] | None) -> Comparison:
        found = {"best": measured(base), "worse": measured(base - 3)}
        return comparison(
            {name: dataclasses.replace(one, source_id=source_id) for name, one in found.items()}
        )

    few, unknown = of(("a", "b", "c", "d") * 10), of(None)
    assert few.verdict()[1] == (
        "On these 40 samples it cannot be told from worse: 4 photographs are too few to tell."
    )
    assert few.doubt("worse", "hole_psnr") == "4 photographs are too few to tell"
    assert few.faults() == []
    assert {one.num_photographs for one in few.by_hole_ratio("best").values()} == {4}
    assert "(4 photographs are too few to tell)" in markdown(few)
    assert unknown.faults() == ["Intervals are over samples: photographs are not known."]
    assert "over 40 samples, more than chance explains." in unknown.verdict()[1]


def test_differences_are_those_of_the_paired_bootstrap(base: np.ndarray) -> None:
    other = base + np.random.default_rng(2).normal(-0.3, 1, len(base))
    leads = comparison({"a": measured(base), "b": measured(other)}).leads
    assert leads["b"]["hole_psnr"] == paired_difference(base, other, source_id=PHOTOGRAPHS)


def test_the_lead_is_positive_where_less_is_better(base: np.ndarray) -> None:
    found = {"big": measured(base, metric="l1"), "small": measured(base / 2, metric="l1")}
    ranked = comparison(found, rank_by="l1")
    assert ranked.best is not None
    assert ranked.best.name == "small"
    assert ranked.leads["big"]["l1"].low > 0


def test_nan_is_counted_named_and_never_first(base: np.ndarray) -> None:
    broken = base.copy() + 50
    broken[:3] = math.nan
    found = comparison({"broken": measured(broken), "whole": measured(base)})
    assert found.best is not None
    assert found.best.name == "whole"
    assert found.faults() == [
        "broken: PSNR hole is not a number on 3 of 40 samples, so it is ranked last."
    ]
    # The samples that both have are compared all the same.
    assert found.leads["broken"]["hole_psnr"].num_samples == 37


def test_a_sample_without_a_hole_is_no_fault(base: np.ndarray) -> None:
    values = base.copy()
    values[0] = math.nan
    found = comparison({"a": measured(values)})
    ratio = RATIO.copy()
    ratio[0] = 0
    assert Comparison(**{**vars(found), "hole_ratio": ratio}).faults() == []


def test_nothing_but_nan_has_no_best_and_is_still_drawn(base: np.ndarray) -> None:
    found = comparison({"a": measured(base * math.nan), "b": measured(base * math.nan)})
    assert found.best is None
    assert "none is best" in found.verdict()[0]
    assert found.leads == {}
    assert pages(found) == {}
    assert "not a number on 40 of 40" in markdown(found)


def test_infinite_values_are_left_out_of_a_difference(base: np.ndarray) -> None:
    perfect = np.where(np.arange(len(base)) < 5, math.inf, base)
    one = Measured(table=measured(base + 1).table, values={"hole_psnr": perfect + 1})
    other = Measured(table=measured(base).table, values={"hole_psnr": perfect})
    lead = comparison({"one": one, "other": other}).leads["other"]["hole_psnr"]
    assert lead.num_samples == 35
    assert lead.mean == pytest.approx(1.0)


def test_only_parameters_that_differ_are_listed(base: np.ndarray) -> None:
    common = {"train.epochs": "3", "tracking.uri": "x", "storage": "/a"}
    runs = {
        "a": Run(name="a", params={**common, "name": "a", "loss.terms": "l1", "new.key": "1"}),
        "b": Run(name="b", params={**common, "name": "b", "loss.terms": "mse", "storage": "/b"}),
    }
    found = comparison({"a": measured(base), "b": measured(base - 1)}, runs=runs)
    changed = found.changed()
    assert changed is not None
    assert changed.header() == ["run", "loss.terms"]
    assert changed.cells() == [["a", "l1"], ["b", "mse"]]


def test_means_by_hole_ratio_are_the_means_of_their_samples(base: np.ndarray) -> None:
    means = comparison({"a": measured(base)}).by_hole_ratio("a")
    assert list(means) == [0, 1, 3, 7]  # 0.7 of float32 too
    for number, found in enumerate(means.values()):
        own = base[10 * number : 10 * number + 10]
        assert found.mean == pytest.approx(own.mean())
        assert found.low < own.mean() < found.high
    as_kept = comparison({"a": measured(base)})
    single = Comparison(**{**vars(as_kept), "hole_ratio": RATIO.astype(np.float32)})
    assert list(single.by_hole_ratio("a")) == [0, 1, 3, 7]


@pytest.mark.parametrize("total_px", [512 * 512, 640 * 640])
def test_a_hole_just_below_an_edge_is_in_the_bucket_of_the_table(total_px: int) -> None:
    tenth = np.arange(1, 10)
    for short_px in range(1, 16):
        area_px = (tenth * total_px - 1) // 10 - short_px + 1  # the largest areas below each edge
        exact = (10 * area_px // total_px).tolist()
        assert exact == (tenth - 1).tolist()
        whole = comparison({"a": measured(np.arange(9.0) + 20)})
        ratio = (area_px / total_px).astype(np.float32)
        found = Comparison(**{**vars(whole), "hole_ratio": ratio}).by_hole_ratio("a")
        assert list(found) == exact


def test_at_most_eight_systems_have_a_colour_the_best_baseline_among_them(
    base: np.ndarray,
) -> None:
    names = [f"run{number:02d}" for number in range(20)]
    found = {name: measured(base - number / 9) for number, name in enumerate(names)}
    found |= {"telea": measured(base - 5), "harmonic": measured(base - 4)}
    history = [{"epoch": n, "val/hole_psnr": 20.0 + n, "train/loss": 1.0 / n} for n in (1, 2)]
    runs = {name: Run(name=name, history=history) for name in names}
    whole = comparison(found, runs=runs)
    chosen = styles(whole)
    assert list(chosen) == [*names[: MOST_LABELLED - 1], "harmonic"]
    assert len({(s.colour, str(s.line), s.marker) for s in chosen.values()}) == MOST_LABELLED
    drawn = pages(whole)
    assert "run00" in drawn["validation"]
    assert "run15" not in drawn["validation"]  # gray, and without a label
    assert "run15" in drawn["differences"]
    assert curves_png(whole) == curves_png(whole)


@pytest.mark.parametrize("name", ["$x^{", "<script>alert(1)</script>", 'id="a"', "中文", "a\nb"])
def test_any_name_can_stand_in_a_plot(base: np.ndarray, name: str) -> None:
    history = [{"epoch": 1, "val/hole_psnr": 21.0, "train/loss": 1.0}]
    runs = {n: Run(name=n, history=history) for n in (name, "other")}
    whole = comparison({name: measured(base), "other": measured(base - 1)}, runs=runs)
    for element in pages(whole).values():
        assert element.startswith("<svg")
        assert "<script" not in element
    assert curves_png(whole)


def test_text_in_markdown_is_shown_as_it_is(base: np.ndarray) -> None:
    name = "a|b<img src=x>`c`\nd"
    text = markdown(comparison({name: measured(base), "other": measured(base - 1)}))
    assert "a\\|b&lt;img src=x>\\`c\\` d" in text


def test_values_are_written_as_a_reader_wants_them() -> None:
    assert with_unit(math.inf, "hole_psnr") == "∞ dB"
    assert with_unit(-1.234, "ssim") == "−1.2340"
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"]) == "a, b or c"
    assert listing([*"abcdef"]) == "a, b, c, d and 2 more"
    assert shortened("/home/somebody/runs/sweep/01/best") == "…/01/best"
    assert shortened("mse+0.05*perceptual/layers") == "mse+0.05*perceptual/layers"
    found = paired_difference([1.0, 1.0], [2.0, 2.0])
    assert interval(found, "psnr") == "−1.000 [−1.000, −1.000]"
