"""Tables of metrics: exact buckets, reduction, infinities, empty holes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from rayfill.metrics import BUCKETS, InpaintingMetrics, bucket_of, hole_psnr, l1, psnr
from rayfill_data.codec import decode_photo

CIFAR = Path(__file__).parents[3] / "shared/data/cifar10/cifar10_full.parquet"
SIDE = 20  # 400 pixels, so that whole percentages are whole pixels


def sample(hole_px, *, seed=0):
    """One picture, a distorted copy, and a mask of exactly so many pixels."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(1, 3, SIDE, SIDE, generator=generator)
    mask = torch.zeros(SIDE * SIDE)
    mask[torch.randperm(SIDE * SIDE, generator=generator)[:hole_px]] = 1
    mask = mask.view(1, 1, SIDE, SIDE)
    noisy = target + 0.1 * torch.rand(target.shape, generator=generator)
    return torch.where(mask > 0, noisy, target), target, mask


def samples(*hole_px):
    each = [sample(px, seed=i) for i, px in enumerate(hole_px)]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def filled(*batches):
    metrics = InpaintingMetrics()
    for batch in batches:
        metrics.update(*batch)
    return metrics


def test_bucket_edges_are_exact():
    # 39/400 = 9.75 %, 40/400 = 10 %, 79 = 19.75 %, 80 = 20 %, ... 360 = 90 %, 400 = 100 %
    px = [1, 39, 40, 79, 80, 119, 120, 359, 360, 399, 400]
    table = filled(samples(*px)).compute()
    counts = {bucket: scores["l1"].n for bucket, scores in table.buckets.items()}
    assert counts == {
        "[0,10)": 2, "[10,20)": 2, "[20,30)": 2, "[30,40)": 1, "[40,50)": 0,
        "[50,60)": 0, "[60,70)": 0, "[70,80)": 0, "[80,90)": 1, "[90,100]": 3,
    }  # fmt: skip
    assert list(counts) == list(BUCKETS)
    assert table.total["l1"].n == len(px)


@pytest.mark.parametrize("total", [10, 30, 490, 64 * 50, 512 * 512, 640 * 640, 1_000_000])
def test_every_area_of_a_hole_is_in_the_bucket_that_whole_numbers_say(total):
    area = np.arange(total + 1)
    expected = np.minimum(10 * area // total, 9)
    np.testing.assert_array_equal(bucket_of((area / total).astype(np.float32)), expected)
    np.testing.assert_array_equal(bucket_of(area / total), expected)
    np.testing.assert_array_equal(bucket_of(torch.from_numpy(area) / total), expected)


def test_means_and_deviations_equal_numpy():
    composite, target, mask = samples(30, 60, 70, 200, 399)
    table = filled((composite, target, mask)).compute()
    expected = {
        "psnr": psnr(composite, target, data_range=1.0).numpy(),
        "hole_psnr": hole_psnr(composite, target, mask, data_range=1.0).numpy(),
        "l1": l1(composite, target).numpy(),
    }
    for name, values in expected.items():
        assert table.total[name].mean == pytest.approx(values.mean(), rel=1e-12)
        assert table.total[name].std == pytest.approx(values.std(), rel=1e-6)
        assert table.buckets["[10,20)"][name].mean == pytest.approx(values[1:3].mean(), rel=1e-12)
        assert table.buckets["[10,20)"][name].std == pytest.approx(values[1:3].std(), rel=1e-6)


def test_result_does_not_depend_on_the_batching():
    composite, target, mask = samples(30, 60, 70, 200, 399)
    together = filled((composite, target, mask)).compute()
    parts = [(composite[i : i + 2], target[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    apart = filled(*parts).compute()
    for name, score in together.total.items():
        assert apart.total[name] == pytest.approx(score, rel=1e-9, nan_ok=True)


def plain_dice(a, b):
    a, b = a.numpy().astype(float), b.numpy().astype(float)
    return 2 * (a * b).sum() / (a + b).sum()


def test_dice_pools_all_pixels_and_stands_beside_its_ceiling():
    composite, target, mask = samples(30, 60, 70, 200, 399)
    composite[1] *= 0.1  # so that the mean over pictures would be another value
    table = filled((composite[:3], target[:3], mask[:3]), (composite[3:], target[3:], mask[3:]))
    table = table.compute()
    pooled = plain_dice(composite, target)
    each = [plain_dice(a, b) for a, b in zip(composite, target, strict=True)]
    assert abs(np.mean(each) - pooled) > 1e-3
    assert table.total["dice"].mean == pytest.approx(pooled, rel=1e-6)
    assert table.total["dice_ceiling"].mean == pytest.approx(plain_dice(target, target), rel=1e-6)
    bucket = table.buckets["[10,20)"]
    assert bucket["dice"].mean == pytest.approx(plain_dice(composite[1:3], target[1:3]), rel=1e-6)
    assert (bucket["dice"].n, table.total["dice"].n) == (2, 5)
    assert math.isnan(table.total["dice"].std)
    perfect = filled((target, target, mask)).compute().total
    assert perfect["dice"].mean == pytest.approx(perfect["dice_ceiling"].mean, rel=1e-12)


@pytest.mark.realdata
@pytest.mark.skipif(not CIFAR.is_file(), reason="no CIFAR-10 beside the project")
def test_ceiling_of_dice_on_the_test_pictures_of_cifar_10():
    rows = pq.read_table(CIFAR, columns=["image"], filters=[("split", "=", "test")])["image"]
    pictures = np.stack([decode_photo(row["bytes"]).rgb for row in rows.to_pylist()])
    target = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    metrics = InpaintingMetrics()
    for part in target.split(1000):
        metrics.update(part, part, torch.ones(len(part), 1, 32, 32))
    score = metrics.compute().total["dice_ceiling"]
    assert score.n == 10_000
    assert round(score.mean, 4) == 0.6077  # computed once, in NumPy, beside the report


def test_black_pictures_have_no_dice():
    _, _, mask = samples(30, 60)
    black = torch.zeros(2, 3, SIDE, SIDE)
    score = filled((black, black, mask)).compute().total["dice"]
    assert math.isnan(score.mean)
    assert score.n == 2


def test_infinite_psnr_is_counted_and_not_averaged_in():
    composite, target, mask = samples(50, 60, 70)
    composite[1] = target[1]
    table = filled((composite, target, mask)).compute()
    finite = psnr(composite, target, data_range=1.0)[[0, 2]]
    for name in ("psnr", "hole_psnr"):
        assert table.total[name].n == 2
        assert table.total[name].n_infinite == 1
    assert table.total["psnr"].mean == pytest.approx(finite.mean().item())
    assert table.total["ssim"].n == 3


def test_samples_without_a_hole_count_in_whole_picture_metrics_only():
    composite, target, mask = samples(0, 50)
    composite[0] += 0.01
    table = filled((composite, target, mask)).compute()
    assert {name: score.n for name, score in table.total.items()} == {
        "psnr": 2, "ssim": 2, "hole_psnr": 1, "hole_ssim": 1, "l1": 2,
        "dice": 2, "dice_ceiling": 2,
    }  # fmt: skip
    assert table.total["hole_psnr"].n_infinite == 0


def test_a_nan_is_not_hidden():
    composite, target, mask = samples(50, 60)
    composite[0, 0, 0, 0] = float("nan")
    total = filled((composite, target, mask)).compute().total
    assert all(math.isnan(total[name].mean) for name in ("psnr", "ssim", "l1", "dice"))
    assert math.isnan(total["l1"].std)


def test_single_sample_has_deviation_zero_and_empty_buckets_none():
    table = filled(samples(50)).compute()
    assert table.total["psnr"].std == pytest.approx(0, abs=1e-5)
    empty = table.buckets["[90,100]"]["psnr"]
    assert (empty.n, empty.n_infinite) == (0, 0)
    assert math.isnan(empty.mean)
    assert math.isnan(empty.std)


def test_dictionary_is_plain_json():
    table = filled(samples(50)).compute()
    text = json.dumps(table.to_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["total"]["psnr"]["mean"] == table.total["psnr"].mean
    assert read["buckets"]["[90,100]"]["psnr"] == {
        "mean": None, "std": None, "n": 0, "n_infinite": 0,
    }  # fmt: skip


def test_reset_starts_anew_and_inference_mode_may_come_and_go():
    metrics = filled(samples(50))
    metrics.reset()
    with torch.inference_mode():
        metrics.update(*samples(60))
    metrics.update(*samples(70))
    assert metrics.compute().total["l1"].n == 2
    assert metrics.sums.dtype == torch.float64
    metrics.float()
    assert metrics.sums.dtype == torch.float64


def test_lpips_is_added_when_given():
    class Half(nn.Module):
        def forward(self, composite, target):
            return torch.full((len(composite),), 0.5)

    metrics = InpaintingMetrics(lpips=Half())
    metrics.update(*samples(50, 60))
    score = metrics.compute().total["lpips"]
    assert (score.mean, score.std, score.n) == (0.5, 0.0, 2)


WORKER = """
import json, sys, torch
from rayfill.metrics import InpaintingMetrics
store, batch, rows, rank = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2
)
class Gap(torch.nn.Module):
    def forward(self, composite, target):
        return (composite - target).abs().amax(dim=(1, 2, 3))

metrics = InpaintingMetrics(lpips=Gap())
metrics.update(*(part[slice(*rows)] for part in torch.load(batch)))
print(json.dumps(metrics.compute().to_dict()))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_with_uneven_shards_equal_one(tmp_path):
    batch = samples(30, 60, 70, 200, 0)
    torch.save(batch, tmp_path / "batch.pt")
    arguments = [str(tmp_path / "store"), str(tmp_path / "batch.pt")]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'platform'}:{root / 'data'}"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments, json.dumps(rows), str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
        )
        for rank, rows in enumerate([(0, 1), (1, 5)])
    ]
    first, second = (json.loads(worker.communicate(timeout=240)[0]) for worker in workers)
    assert first == second
    metrics = InpaintingMetrics(lpips=Gap())
    metrics.update(*batch)
    assert_same(first, metrics.compute().to_dict())


def assert_same(first, second):
    """Every score of every bucket, and in total, is the same up to rounding."""
    assert first["buckets"].keys() == second["buckets"].keys() == set(BUCKETS)
    pairs = [(first["total"], second["total"])]
    pairs += [(first["buckets"][bucket], second["buckets"][bucket]) for bucket in BUCKETS]
    for mine, expected in pairs:
        assert mine.keys() == expected.keys()
        for name, score in expected.items():
            for field, value in score.items():
                got = mine[name][field]
                assert got is value is None or got == pytest.approx(value, rel=1e-9), name


class Gap(nn.Module):
    """Stands for LPIPS: a distance per picture."""

    def forward(self, composite, target):
        return (composite - target).abs().amax(dim=(1, 2, 3))


def test_uneven_shards_added_up_equal_one():
    batch = samples(30, 60, 70, 200, 0, 399)
    batch[0][1] = batch[1][1]  # one filled perfectly
    shards = []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        metrics = InpaintingMetrics(lpips=Gap())
        metrics.update(*(part[rows] for part in batch))
        shards.append(metrics)
    total, whole = (InpaintingMetrics(lpips=Gap()) for _ in range(2))
    for state, reduction in total._reductions.items():
        if state != "rows":  # a list, of samples that are not kept here
            each = torch.stack([getattr(shard, state) for shard in shards])
            setattr(total, state, reduction(each))
    total._update_count = 1
    whole.update(*batch)
    assert whole.compute().total["psnr"].n_infinite == 2
    assert_same(total.compute().to_dict(), whole.compute().to_dict())
