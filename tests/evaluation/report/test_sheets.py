"""Which samples are shown, and that the pictures are those that the numbers are of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from rayfill.evaluation.report.found import Asked, FoundRun
from rayfill.evaluation.report.gather import gather
from rayfill.evaluation.report.sheets import (
    KINDS,
    MOST_SYSTEMS,
    TILE_PX,
    choose_samples,
    composites,
    draw_sheets,
    render,
    shown_systems,
    system,
)
from rayfill.runs.folder import RunFolder
from rayfill.runs.sweep_folder import SweepFolder
from rayfill_data.errors import DatasetError
from rayfill_data.sheet import fitted


def whole_sweep(recorded: Any) -> Any:
    folders = [
        FoundRun(
            folder=RunFolder(str(recorded.sweep / n)),
            name=n,
            label=n,
            sweep=SweepFolder(str(recorded.sweep)),
        )
        for n in recorded.run_ids
    ]
    (found,) = gather(Asked(runs=folders, whole=[SweepFolder(str(recorded.sweep))]))
    return found


def hole_psnr(picture: np.ndarray, target: np.ndarray, hole: np.ndarray) -> float:
    """scikit-image's PSNR of the hole's pixels alone."""
    inside = hole > 0
    return float(peak_signal_noise_ratio(target[inside], picture[inside], data_range=255))


def test_scores_of_the_table_are_those_of_the_pictures(recorded: Any) -> None:
    found, arrays = whole_sweep(recorded), recorded.arrays
    for entry in found.board.ranked():
        pictures = composites(system(found, entry), arrays=arrays, removal=False)
        for index, picture in enumerate(pictures):
            known = arrays.hole_mask[index] == 0
            np.testing.assert_array_equal(picture[known], arrays.image[index][known])
        own = [
            hole_psnr(*sample)
            for sample in zip(pictures, arrays.target, arrays.hole_mask, strict=True)
        ]
        np.testing.assert_allclose(own, found.measured[entry.name].values["hole_psnr"], atol=1e-4)
        assert np.mean(own) == pytest.approx(entry.table.total["hole_psnr"].mean, abs=1e-4)


def test_every_tile_has_its_own_value(recorded: Any) -> None:
    found, arrays = whole_sweep(recorded), recorded.arrays
    sheets = draw_sheets(found, arrays=arrays, count=3)
    assert [sheet.kind for sheet in sheets] == list(KINDS)
    names = ["input", "true picture", *(entry.name for entry in found.board.ranked())]
    shown = set()
    for sheet in sheets:
        assert len(sheet.rows) == 3
        for row in sheet.rows:
            shown.add(row.heading)
            index = arrays.sample_id.index(row.heading)
            assert [tile.title for tile in row.tiles] == names
            np.testing.assert_array_equal(row.tiles[1].picture, arrays.target[index])
            for tile in row.tiles[2:]:
                value = hole_psnr(tile.picture, arrays.target[index], arrays.hole_mask[index])
                assert float(tile.value.removesuffix(" dB")) == pytest.approx(value, abs=0.006)
    assert len(shown) == 9
    best, _, worst = (
        np.mean([float(row.tiles[2].value.split()[0]) for row in sheet.rows]) for sheet in sheets
    )
    assert best > worst


def test_samples_are_spread_over_hole_ratios_and_do_not_depend_on_their_order() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(25, 3, 60)
    ratio = np.repeat([0.05, 0.15, 0.25, 0.35], 15)
    names = [f"s{index:02d}" for index in range(60)]
    chosen = choose_samples(values, hole_ratio=ratio, sample_id=names, count=4)
    for indices in chosen.values():
        assert [ratio[index] for index in indices] == [0.05, 0.15, 0.25, 0.35]
    for place in range(4):
        bucket = slice(15 * place, 15 * place + 15)
        assert values[chosen["best"][place]] == values[bucket].max()
        assert values[chosen["worst"][place]] == values[bucket].min()
        assert values[chosen["median"][place]] == np.median(values[bucket])
    order = rng.permutation(60)
    again = choose_samples(
        values[order], hole_ratio=ratio[order], sample_id=[names[i] for i in order], count=4
    )
    for kind in KINDS:
        assert [names[i] for i in chosen[kind]] == [names[order[i]] for i in again[kind]]


@pytest.mark.parametrize("total_px", [512 * 512, 640 * 640])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_sample_just_below_an_edge_is_chosen_in_the_bucket_of_the_table(
    total_px: int, tenth: int
) -> None:
    last_px = (tenth * total_px - 1) // 10  # the largest area below the edge
    area_px = np.array([last_px, *[last_px - 5000] * 4, last_px + 5000])
    assert (10 * area_px // total_px).tolist() == [tenth - 1] * 5 + [tenth]
    chosen = choose_samples(
        np.array([10.0, 9.0, 8.0, 7.0, 6.0, 1.0]),
        hole_ratio=(area_px / total_px).astype(np.float32),
        sample_id=[*"abcdef"],
        count=2,
    )
    assert chosen["best"] == [0, 5]  # the best of each bucket


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_no_sample_is_chosen_twice(count: int) -> None:
    values = np.array([3.0, math.nan, 5.0, math.inf, 1.0, 2.0, 4.0, 6.0, 7.0, 7.0, 7.0])
    ratio = np.linspace(0, 1, len(values))
    names = [f"s{index}" for index in range(len(values))]
    chosen = choose_samples(values, hole_ratio=ratio, sample_id=names, count=count)
    every = [index for indices in chosen.values() for index in indices]
    assert len(every) == len(set(every)) == 3 * min(count, 3)
    assert not {1, 3} & set(every)  # neither no number nor perfect


def test_a_split_of_one_sample_is_shown_once() -> None:
    chosen = choose_samples(np.array([3.0]), hole_ratio=np.ones(1), sample_id=["a"], count=4)
    assert [len(indices) for indices in chosen.values()] == [1, 0, 0]


def test_more_systems_than_can_be_looked_at_keep_the_best_and_some_baselines(
    recorded: Any,
) -> None:
    import dataclasses

    found = whole_sweep(recorded)
    first = found.board.ranked()[0]
    many = [dataclasses.replace(first, name=f"{n:02d}", kind="trial") for n in range(30)]
    bases = [dataclasses.replace(first, name=f"b{n}", kind="baseline") for n in range(6)]
    board = dataclasses.replace(found.board, entries=[*many, *bases])
    kept, left_out = shown_systems(dataclasses.replace(found, board=board))
    assert [e.name for e in kept] == [*(f"{n:02d}" for n in range(8)), "b0", "b1", "b2", "b3"]
    assert len(kept) == MOST_SYSTEMS
    assert len(left_out) == 24
    kept, left_out = shown_systems(found)
    assert (len(kept), left_out) == (5, [])


def test_a_sheet_holds_the_pictures_pixel_for_pixel(recorded: Any) -> None:
    sheet = draw_sheets(whole_sweep(recorded), arrays=recorded.arrays, count=2)[0]
    drawn = render(sheet)
    np.testing.assert_array_equal(drawn, render(sheet))
    windows = np.lib.stride_tricks.sliding_window_view(drawn, (160, 160, 3))[:, :, 0]
    for row in sheet.rows:
        for tile in row.tiles:
            corner = fitted(tile.picture, side_px=TILE_PX)
            hits = np.argwhere((windows[:, :, 0, 0] == corner[0, 0]).all(axis=-1))
            assert any((windows[top, left] == corner).all() for top, left in hits)


def test_another_split_than_was_measured_is_refused(recorded: Any, other_dataset: Any) -> None:
    from rayfill_data.prepared.reader import PreparedDataset

    arrays = PreparedDataset.open(str(other_dataset)).load("test")
    with pytest.raises(DatasetError, match="not the one that was measured"):
        draw_sheets(whole_sweep(recorded), arrays=arrays, count=4)
