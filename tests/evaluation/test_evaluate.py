"""Systems on the same samples: what parts add up to, what differs, what must not pass."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from rayfill.evaluation import work
from rayfill.evaluation.evaluate import EvaluateOptions, evaluate
from rayfill.evaluation.systems import System
from rayfill.evaluation.work import pays_off
from rayfill.inference.baselines import BASELINES
from rayfill.metrics import FidMetric, InpaintingMetrics, LpipsMetric, MetricTable, fid
from rayfill.metrics.accumulate import accumulate, accumulate_removals, removal_names
from rayfill.metrics.aggregate import Measured
from rayfill.metrics.lpips import _empty_network
from rayfill.models import InpaintingModel, JointModel, build_model, composite
from rayfill.models.batch import to_device
from rayfill_data.codec import encode_png, to_nchw
from rayfill_data.contract import SCHEMA_VERSION, Manifest
from rayfill_data.errors import ConfigError, DatasetError, RayfillError
from rayfill_data.prepared.batches import evaluation_batches
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.prepared.writer import open_writer

SIZES = [(32, 40), (32, 40), (36, 32), (32, 40), (36, 32), (32, 40), (32, 40), (36, 32), (32, 40)]


class Wrong(nn.Module):
    """Fills with gray, and one picture, told by its first pixel, with something else."""

    def __init__(self, first_pixel: float, value: float) -> None:
        super().__init__()
        self.first_pixel, self.value = first_pixel, value

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:  # noqa: ARG002
        gray = torch.full_like(image, 0.5)
        this = (image[:, :1, :1, :1] - self.first_pixel).abs() < 1e-6
        return torch.where(this, torch.full_like(image, self.value), gray)


def write_set(
    out: Path,
    sizes: list[tuple[int, int]],
    *,
    labelled: bool = False,
    frozen: bool = True,
    truth: bool = True,
) -> PreparedDataset:
    """Write smooth pictures of several sizes, each with a red box in its hole, all for testing."""
    with open_writer(str(out)) as writer:
        for index, (height, width) in enumerate(sizes):
            rng = np.random.default_rng(index)
            ramp = np.linspace(0, 1, height)[:, None, None] * rng.integers(0, 200, 3)
            target = np.clip(ramp + rng.integers(0, 56, (height, width, 3)), 0, 255)
            target = target.astype(np.uint8)
            mask = np.zeros((height, width), np.uint8)
            mask[8 : 14 + 2 * index, 6:24] = 255
            image = np.where(mask[..., None] > 0, np.array([250, 9, 9], np.uint8), target)
            writer.add(
                {
                    "sample_id": f"s{(index * 4) % 9}",  # another order than that of writing
                    "split": "test",
                    "image": encode_png(image),
                    "target": encode_png(target),
                    "hole_mask": encode_png(mask) if frozen else None,
                    "hole_ratio": float((mask > 0).mean()) if frozen else None,
                    "source_id": str(index),
                    "height": height,
                    "width": width,
                    **({"labels": encode_png(mask // 255)} if labelled else {}),
                    **({"target_labels": encode_png(mask * 0)} if labelled else {}),
                }
            )
        writer.close()
        height, width = sizes[0] if len(set(sizes)) == 1 else (0, 0)
        writer.write_manifest(
            Manifest(
                schema_version=SCHEMA_VERSION,
                source="test",
                options={} if truth else {"truth": False},
                seed=0,
                inputs_hash="",
                height=height,
                width=width,
                versions={},
                labels=("nothing", "object") if labelled else (),
                **writer.facts(),
            )
        )
    return PreparedDataset.open(str(out))


def baseline(name: str, *, called: str = "") -> System:
    return System(name=called or name, kind="baseline", source=name, model=BASELINES[name])


def model(network: Any, *, called: str = "model") -> System:
    return System(name=called, kind="model", source="here", model=network)


@pytest.fixture(scope="module")
def lpips(tmp_path_factory: pytest.TempPathFactory) -> LpipsMetric:
    """LPIPS whose weights are drawn: what it says means nothing, and must add up all the same."""
    torch.manual_seed(0)
    shapes = _empty_network("squeeze").state_dict()
    path = tmp_path_factory.mktemp("lpips") / "full.pth"
    torch.save({key: 0.1 * torch.rand(value.shape) for key, value in shapes.items()}, path)
    return LpipsMetric("squeeze", weights_path=path)


def joint() -> InpaintingModel:
    torch.manual_seed(0)
    return build_model(
        "joint",
        inpainter="unet",
        inpainter_options={"width": 2, "depth": 1, "hole_fill": "harmonic", "output": "residual"},
        segmenter_options={"width": 4, "depth": 1},
        label_names=("nothing", "object"),
    ).eval()


def same(one: Measured, other: Measured) -> None:
    """Every value of every sample, and every score, to the bit."""
    assert one.values.keys() == other.values.keys()
    for metric, values in one.values.items():
        np.testing.assert_array_equal(values, other.values[metric], err_msg=metric)
    assert json.dumps(one.table.to_dict()) == json.dumps(other.table.to_dict())


def in_one_pass(network: Any, dataset: PreparedDataset, *, lpips: LpipsMetric) -> Measured:
    """Measure a system as training does: one batch after the other into one metric."""
    arrays, cpu = dataset.load("test"), torch.device("cpu")
    batches = [to_device(b, device=cpu) for b in evaluation_batches(arrays, batch_size=1)]
    metrics = InpaintingMetrics(lpips=lpips, appearance=True, keep_values=True)
    with torch.inference_mode():
        total, buckets = accumulate(network, batches, metrics=metrics)
        values = metrics.sample_values()
        if isinstance(network, JointModel):
            own = InpaintingMetrics(lpips=lpips, keep_values=True)
            found = accumulate_removals(network, batches, metrics=own)
            values |= removal_names(own.sample_values())
            total |= found.total
            buckets = {name: buckets[name] | found.buckets[name] for name in buckets}
    return Measured(table=MetricTable(total=total, buckets=buckets), values=values)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_parts_add_up_to_the_whole_in_every_column(
    tmp_path: Path,
    ray_local: None,
    lpips: LpipsMetric,
    num_workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    dataset = write_set(tmp_path / "set", [(32, 40)] * 9, labelled=True)
    torch.manual_seed(1)
    network = build_model("unet", width=4, depth=2).eval()
    systems = [baseline("telea"), model(network), model(joint(), called="joint")]
    found = evaluate(
        systems,
        data=dataset,
        batch_size=1,
        num_workers=num_workers,
        lpips=lpips,
    )
    assert found.sample_id == dataset.load("test").sample_id
    columns = set(found.measured["joint"].table.total)
    assert {"removal_psnr", "dice", "iou", "lpips", "coherence", "sharpness"} <= columns
    for system in systems:
        same(found.measured[system.name], in_one_pass(system.model, dataset, lpips=lpips))


def test_samples_of_several_sizes_are_measured_in_the_splits_order(tmp_path: Path) -> None:
    dataset = write_set(tmp_path / "set", SIZES)
    found = evaluate(
        [baseline("telea")],
        data=dataset,
        batch_size=2,
        num_workers=1,
    )
    assert found.sample_id == tuple(f"s{index}" for index in range(9))
    metrics = InpaintingMetrics(appearance=True, keep_values=True)
    expected: dict[str, dict[str, float]] = {}
    for part in dataset.load_by_size("test"):
        for batch in evaluation_batches(part, batch_size=1):
            image, target, mask = map(
                torch.from_numpy, (batch.image, batch.target, batch.hole_mask)
            )
            filled = composite(
                BASELINES["telea"](image, mask).mul(255).round().div(255), image, mask
            )
            metrics.update(filled, target, mask)
            one = InpaintingMetrics(appearance=True, keep_values=True)
            one.update(filled, target, mask)
            expected[batch.sample_id[0]] = {k: v[0] for k, v in one.sample_values().items()}
    for metric, values in found.measured["telea"].values.items():
        wanted = [expected[sample][metric] for sample in found.sample_id]
        np.testing.assert_allclose(values, wanted, rtol=1e-12, err_msg=metric)
    whole = metrics.compute()
    assert found.measured["telea"].table.total["dice"].mean == pytest.approx(
        whole.total["dice"].mean, rel=1e-12
    )
    assert found.board.protocol["size"] == "several, as given"


def test_what_is_known_to_be_better_is_and_a_system_is_no_better_than_itself(
    tmp_path: Path,
) -> None:
    found = evaluate(
        [baseline("telea"), baseline("mean"), baseline("telea", called="again")],
        data=write_set(tmp_path / "set", SIZES),
        num_workers=1,
    )
    verdicts = {(d.system, d.metric): d.verdict() for d in found.differences}
    assert verdicts["mean", "hole_psnr"] == verdicts["mean", "l1"] == "worse"
    for name in ("telea", "again"):
        same_system = [d for d in found.differences if d.system == name]
        assert {d.metric for d in same_system} == {
            "hole_psnr", "hole_ssim", "psnr", "ssim", "l1", "coherence", "sharpness",
        }  # fmt: skip
        for difference in same_system:
            assert difference.verdict() == "no difference found"
            numbers = difference.interval
            assert numbers is not None
            assert (numbers.mean, numbers.low, numbers.high) == (0, 0, 0)
            assert difference.to_dict()["significant"] is False
    turned = evaluate(
        [baseline("telea"), baseline("mean")],
        data=PreparedDataset.open(str(tmp_path / "set")),
        num_workers=1,
        against="mean",
        rank_by="l1",
    )
    verdicts = {(d.system, d.metric): d.verdict() for d in turned.differences}
    assert verdicts["telea", "hole_psnr"] == verdicts["telea", "l1"] == "better"
    assert [entry.name for entry in turned.board.ranked()] == ["telea", "mean"]


def pictures_of(dataset: PreparedDataset, folder: Path, *, shift: int = 0) -> Path:
    """Write what Telea makes of a set, known pixels brighter by ``shift``, as another would."""
    folder.mkdir()
    for part in dataset.load_by_size("test"):
        masks = torch.from_numpy((part.hole_mask > 0)[:, None].astype(np.float32))
        filled = BASELINES["telea"](torch.from_numpy(to_nchw(part.image)), masks)
        levels = filled.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
        for name, picture, mask in zip(part.sample_id, levels, part.hole_mask, strict=True):
            known = np.clip(picture.astype(int) + shift, 0, 255).astype(np.uint8)
            picture = np.where(mask[..., None] > 0, picture, known)
            (folder / f"{name}.png").write_bytes(encode_png(picture))
    return folder


def finished(folder: Path, *, called: str = "outside") -> System:
    return System(name=called, kind="pictures", source=str(folder))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_finished_pictures_score_what_the_system_that_made_them_does(
    tmp_path: Path, ray_local: None, num_workers: int
) -> None:
    dataset = write_set(tmp_path / "set", SIZES)
    folder = pictures_of(dataset, tmp_path / "out", shift=9)
    options = {"num_workers": num_workers, "batch_size": 2}
    both = [baseline("telea"), finished(folder)]
    found = evaluate(both, data=dataset, **options)
    same(found.measured["outside"], found.measured["telea"])
    raw = evaluate(both, data=dataset, raw=True, **options)
    assert "known pixels included" in raw.board.protocol["measured_on"]
    assert "composite" in found.board.protocol["measured_on"]
    # What is known was changed: the whole picture is worse, the hole is what it was.
    for metric in ("psnr", "ssim"):
        less = raw.measured["outside"].table.total[metric].mean
        assert less < found.measured["outside"].table.total[metric].mean
    np.testing.assert_allclose(
        raw.measured["outside"].values["hole_psnr"],
        found.measured["outside"].values["hole_psnr"],
        rtol=1e-9,
    )


def test_all_are_measured_on_the_samples_that_all_have(tmp_path: Path) -> None:
    dataset = write_set(tmp_path / "set", SIZES)
    one = pictures_of(dataset, tmp_path / "one")
    two = pictures_of(dataset, tmp_path / "two")
    (one / "s3.png").unlink()
    (two / "s7.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    (two / "cover.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    systems = [baseline("telea"), finished(one, called="one"), finished(two, called="two")]
    with pytest.raises(DatasetError, match=r"(?s)one: 1 samples.*s3.*two: 1 pictures.*s7.*8x8"):
        evaluate(systems, data=dataset, num_workers=1)
    found = evaluate(systems, data=dataset, num_workers=1, allow_missing=True)
    kept = tuple(f"s{index}" for index in range(9) if index not in (3, 7))
    assert found.sample_id == kept
    photographs = {f"s{index * 4 % 9}": str(index) for index in range(9)}  # as written
    assert found.measured["one"].source_id == tuple(photographs[sample] for sample in kept)
    verdicts = {d.system: d.verdict() for d in found.differences if d.metric == "psnr"}
    assert verdicts["one"] == "7 photographs are too few to tell"
    for name in ("telea", "one", "two"):
        assert found.measured[name].table.total["psnr"].n == 7
    assert found.board.protocol["samples"] == "7 of 9, those that all systems have"
    written = found.to_dict()
    assert written["left_out"] == {"one": ["s3"], "two": ["s7"]}
    assert written["num_samples"] == 7
    assert any("cover.png" in note for note in found.board.notes)
    telea = evaluate(systems[:1], data=dataset, num_workers=1)
    rows = [telea.sample_id.index(sample) for sample in kept]
    np.testing.assert_array_equal(
        telea.measured["telea"].values["psnr"][rows], found.measured["telea"].values["psnr"]
    )
    for picture in one.iterdir():
        picture.unlink()
    with pytest.raises(DatasetError, match="No sample is left"):
        evaluate(systems, data=dataset, num_workers=1, allow_missing=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_answer_that_is_not_finite_is_refused_naming_the_sample(
    tmp_path: Path, ray_local: None, num_workers: int, value: float
) -> None:
    dataset = write_set(tmp_path / "set", SIZES)
    part = dataset.load_by_size("test")[1]
    broken = Wrong(float(part.image[1, 0, 0, 0]) / 255, value)
    with pytest.raises(RayfillError, match=rf"'model'.*not finite for {part.sample_id[1]}\."):
        evaluate(
            [baseline("telea"), model(broken)],
            data=dataset,
            num_workers=num_workers,
        )


def test_what_is_not_measured_may_be_anything(tmp_path: Path) -> None:
    class NothingOutside(nn.Module):
        def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
            return image.masked_fill(hole_mask < 0.5, math.nan)

    dataset = write_set(tmp_path / "set", SIZES)
    found = evaluate([model(NothingOutside())], data=dataset, num_workers=1)
    assert np.isfinite(found.measured["model"].values["psnr"]).all()
    with pytest.raises(RayfillError, match="not finite"):
        evaluate(
            [model(NothingOutside())],
            data=dataset,
            num_workers=1,
            raw=True,
        )


def test_a_split_that_cannot_be_measured_on_is_refused(tmp_path: Path) -> None:
    fresh = write_set(tmp_path / "fresh", SIZES, frozen=False)
    with pytest.raises(DatasetError, match=r"9 samples of split 'test' have no hole mask \(s0"):
        evaluate([baseline("telea")], data=fresh)
    with pytest.raises(DatasetError, match="split 'val' holds no samples"):
        evaluate([baseline("telea")], data=fresh, split="val")
    with pytest.raises(DatasetError, match="Unknown split 'tset'"):
        evaluate([baseline("telea")], data=fresh, split="tset")


def test_what_cannot_be_compared_or_ranked_is_said_before_the_work(tmp_path: Path) -> None:
    dataset = write_set(tmp_path / "set", SIZES[:1])
    with pytest.raises(ConfigError, match="Did you mean 'telea'"):
        evaluate([baseline("telea")], data=dataset, against="telia")
    with pytest.raises(ConfigError, match="'lpips', which is not measured"):
        evaluate([baseline("telea")], data=dataset, rank_by="lpips")
    with pytest.raises(ConfigError, match="Did you mean 'rank_by'"):
        evaluate(["telea"], data=dataset, rankby="psnr")
    with pytest.raises(ConfigError, match="No systems"):
        evaluate([], data=dataset)
    with pytest.raises(ConfigError, match="2 systems are called 'telea'"):
        evaluate([baseline("telea")] * 2, data=dataset)
    with pytest.raises(ConfigError) as caught:
        EvaluateOptions(batch_size=0, num_workers=-1, rank_by="psnrr", columns=("lpips", "ssimm"))
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("batch_size", [1, 3])
def test_pictures_without_truth_are_measured_by_what_needs_none(
    tmp_path: Path, batch_size: int, lpips: LpipsMetric
) -> None:
    dataset = write_set(tmp_path / "blind", SIZES, truth=False, labelled=True)
    assert not dataset.has_truth
    systems = [baseline("mean"), baseline("telea"), model(joint(), called="joint")]
    found = evaluate(systems, data=dataset, num_workers=1, batch_size=batch_size, lpips=lpips)
    known = write_set(tmp_path / "known", SIZES)
    expected = evaluate(systems[:2], data=known, num_workers=1)
    for name, measured in found.measured.items():
        assert set(measured.values) == set(measured.table.total) == {"coherence", "ring_sharpness"}
        assert measured.table.total["coherence"].n == 9
        if name != "joint":
            other = expected.measured[name].values["coherence"]
            np.testing.assert_array_equal(measured.values["coherence"], other)
    ranked = [entry.table.total["coherence"].mean for entry in found.board.ranked()]
    assert ranked == sorted(ranked)
    shown = found.markdown()
    assert "coherence ↓" in shown
    assert "no truth to compare with" in shown
    assert "PSNR" not in shown
    assert {d.metric for d in found.differences} == {"coherence", "ring_sharpness"}
    assert {d.verdict() for d in found.differences} <= {
        "better", "worse", "more", "less", "no difference found",
    }  # fmt: skip
    assert len(found.write(str(tmp_path / "out"))) == 4
    for metric in ("hole_psnr", "sharpness", "lpips", "residual_object"):
        with pytest.raises(ConfigError, match=f"'{metric}', which is not measured"):
            evaluate([baseline("telea")], data=dataset, rank_by=metric)
    with pytest.raises(ConfigError, match="'ring_sharpness', which is not measured"):
        evaluate([baseline("telea")], data=known, rank_by="ring_sharpness")


class Means(nn.Module):
    """Six features of an 8-bit picture in place of Inception's 2,048."""

    num_features = 6

    def forward(self, image: Tensor) -> Tensor:
        x = image.double() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


def test_fid_adds_up_over_parts_and_needs_enough_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pth").touch()
    monkeypatch.setattr(fid, "find_spec", lambda _: True)
    monkeypatch.setattr(fid, "_load_inception", lambda _: Means())
    dataset = write_set(tmp_path / "set", [(32, 40)] * 9)
    few = FidMetric(weights_path=tmp_path / "weights.pth", min_samples=9)
    systems = [baseline("telea"), baseline("mean")]
    found = evaluate(
        systems,
        data=dataset,
        batch_size=2,
        num_workers=1,
        rank_by="fid",
        fid=few,
    )
    arrays = dataset.load("test")
    image, target = (torch.from_numpy(to_nchw(a)) for a in (arrays.image, arrays.target))
    mask = torch.from_numpy((arrays.hole_mask > 0)[:, None].astype(np.float32))
    for name in ("telea", "mean"):
        alone = FidMetric(weights_path=tmp_path / "weights.pth", min_samples=9)
        filled = BASELINES[name](image, mask).mul(255).round().div(255)
        alone.update(composite(filled, image, mask), target)
        score = found.measured[name].table.total["fid"]
        assert score.mean == pytest.approx(alone.compute().item(), rel=1e-6)
        assert score.n == 9
    assert [entry.name for entry in found.board.ranked()] == ["telea", "mean"]
    many = FidMetric(weights_path=tmp_path / "weights.pth")
    with pytest.raises(RayfillError, match="FID of 9 pictures; at least 2048"):
        evaluate(systems, data=dataset, fid=many)


@pytest.mark.parametrize("connected", [False, True])
def test_work_goes_to_ray_where_more_is_left_than_that_takes(
    monkeypatch: pytest.MonkeyPatch, connected: bool
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("ray.is_initialized", lambda: connected)
    assert not pays_off(spent_s=1.0, done=10, left=30)
    assert pays_off(spent_s=10.0, done=10, left=30) is connected
    assert pays_off(spent_s=30.0, done=10, left=30)
    assert not pays_off(spent_s=30.0, done=0, left=30)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert pays_off(spent_s=30.0, done=10, left=30) is connected


def noting_processes(folder: Path) -> Callable[..., Any]:
    """Return :func:`work.measure` that leaves a file for every process it ran in."""
    measure, where = work.measure, str(folder)

    def noted(*args: Any) -> Any:
        Path(where, f"process-{os.getpid()}").touch()
        return measure(*args)

    return noted


def test_work_that_turns_out_long_goes_on_on_ray_with_the_same_values(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_set(tmp_path / "set", SIZES)
    systems = [baseline("telea"), baseline("mean")]
    here = evaluate(systems, data=dataset, batch_size=2)
    monkeypatch.setattr(work, "CONNECTED_PAYS_OFF_S", 0.0)
    monkeypatch.setattr(work, "measure", noting_processes(tmp_path))
    there = evaluate(systems, data=dataset, batch_size=2)
    assert {path.name for path in tmp_path.glob("process-*")} > {f"process-{os.getpid()}"}
    for name in ("telea", "mean"):
        same(here.measured[name], there.measured[name])


def test_the_table_shows_every_bucket_with_deviations_and_reads_back(tmp_path: Path) -> None:
    found = evaluate(
        [baseline("telea"), baseline("mean")],
        data=write_set(tmp_path / "set", SIZES),
        num_workers=1,
        columns=("psnr", "l1", "dice"),
    )
    stream = io.StringIO()
    found.show(Console(file=stream, width=150))
    shown = stream.getvalue()
    for score in (
        found.measured["telea"].table.total,
        found.measured["telea"].table.buckets["[20,30)"],
    ):
        assert f"{score['psnr'].mean:.2f} ±{score['psnr'].std:.1f}" in shown
    rows = pq.read_table(io.BytesIO(Path(found.write(str(tmp_path / "out"))[3]).read_bytes()))
    assert rows.num_rows == 18
    mean = np.mean([row["psnr"] for row in rows.to_pylist() if row["system"] == "mean"])
    assert found.measured["mean"].table.total["psnr"].mean == pytest.approx(mean, rel=1e-12)
