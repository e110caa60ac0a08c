"""`rayfill evaluate`: a table of systems on one dataset, and everything that may be wrong."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rayfill.evaluation.leaderboard import Leaderboard
from rayfill.models import build_model
from rayfill.runs.bundle import save_bundle
from rayfill_data.prepared.reader import PreparedDataset

Cli = Callable[..., Any]

DATA = Path(__file__).parents[3] / "shared/data"
TRIPLES = DATA / "inpaint_triples"
LPIPS_WEIGHTS = DATA / "weights/lpips_squeeze_v0.1_full.pth"


@pytest.fixture
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its weights could be downloaded is no matter here."""
    monkeypatch.setattr("rayfill.metrics.lpips.find_spec", lambda _: None)


@pytest.fixture
def dataset(cli: Cli, no_lpips: None, make_dataset: Callable[..., Path]) -> Path:
    """Five test samples of 16x16 pixels."""
    return make_dataset()


def finished(dataset: Path, folder: Path, *, suffix: str = ".png") -> Path:
    """Write OpenCV's answers under the samples' names, as an outside system would."""
    folder.mkdir(parents=True)
    arrays = PreparedDataset.open(str(dataset)).load("test")
    for name, image, mask in zip(arrays.sample_id, arrays.image, arrays.hole_mask, strict=True):
        blank = np.where(mask[..., None] > 0, np.uint8(128), image)
        filled = cv2.inpaint(blank, mask, 3, cv2.INPAINT_TELEA)
        Image.fromarray(filled).save(folder / f"{name}{suffix}")
    return folder


def rows_of(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with path.open() as stream:
        return {(r["system"], r["bucket"], r["metric"]): r for r in csv.DictReader(stream)}


def test_a_model_a_baseline_and_finished_pictures_in_one_table(
    cli: Cli, no_ray: None, dataset: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = {"width": 2, "depth": 2}
    save_bundle(
        tmp_path / "run" / "best", model=build_model("unet", **config), name="unet", config=config
    )
    folder = finished(dataset, tmp_path / "lama", suffix="_mask001.png")
    done = cli(
        "evaluate", "--model", "telea", "--model", tmp_path / "run", "--model", f"LaMa={folder}",
        "--data", dataset, "--out", tmp_path / "out", "--num-workers", 1,
    )  # fmt: skip
    assert done.status == 0, done.err
    for said in ("telea", "run", "LaMa", "PSNR hole", "By hole ratio", "8-bit composite", "Note:"):
        assert said in done.out
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(e["name"], e["kind"]) for e in Leaderboard.from_dict(table).to_dict()["entries"]] == [
        (e["name"], e["kind"]) for e in table["entries"]
    ]
    assert table["systems"]["run"]["network"] == "unet"
    assert table["systems"]["LaMa"]["source"] == str(folder)
    assert table["protocol"]["dataset_hash"] == PreparedDataset.open(str(dataset)).content_hash
    scores = {e["name"]: e["metrics"]["total"] for e in table["entries"]}
    assert scores["LaMa"] == scores["telea"]  # the same pictures, by another way
    found = {(d["system"], d["metric"]): d for d in table["differences"]}
    assert found["LaMa", "hole_psnr"]["difference"]["mean"] == 0
    assert not found["LaMa", "hole_psnr"]["significant"]
    assert found["run", "hole_psnr"]["against"] == "telea"
    rows = rows_of(tmp_path / "out" / "table.csv")
    assert float(rows["run", "all", "hole_psnr"]["mean"]) == scores["run"]["hole_psnr"]["mean"]
    assert rows["run", "all", "dice"]["std"] == ""
    buckets = {bucket for _, bucket, _ in rows} - {"all"}
    counted = sum(int(rows["telea", bucket, "l1"]["n"]) for bucket in buckets)
    assert counted == int(rows["telea", "all", "l1"]["n"]) == 5
    samples = pq.read_table(tmp_path / "out" / "samples.parquet")
    assert samples.num_rows == 3 * 5
    assert "| LaMa |" in (tmp_path / "out" / "table.md").read_text()


def test_a_small_split_does_not_wait_for_ray(cli: Cli, no_ray: None, dataset: Path) -> None:
    done = cli("evaluate", "--model", "telea", "--data", dataset)
    assert done.status == 0, done.err


def test_one_may_be_compared_with_another_and_ranked_by_what_should_be_small(
    cli: Cli, no_ray: None, dataset: Path, tmp_path: Path
) -> None:
    done = cli(
        "evaluate", "--model", "mean", "--model", "telea", "--data", dataset, "--split", "val",
        "--against", "telea", "--rank-by", "l1", "--columns", "l1", "psnr", "--expand-px", 1,
        "--raw", "--batch-size", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.status == 0, done.err
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {d["against"] for d in table["differences"]} == {"telea"}
    means = [entry["metrics"]["total"]["l1"]["mean"] for entry in table["entries"]]
    assert means == sorted(means)
    assert "known pixels included" in table["protocol"]["measured_on"]
    assert "+1 px" in table["protocol"]["masks"]
    assert "val" in table["protocol"]["split"]


def test_pictures_that_do_not_fit_are_refused_or_left_out_everywhere(
    cli: Cli, no_ray: None, dataset: Path, tmp_path: Path
) -> None:
    folder = finished(dataset, tmp_path / "them")
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[0]).unlink()
    Image.new("RGB", (8, 16)).save(folder / names[1])
    Image.new("RGB", (16, 16)).save(folder / "cover.png")
    args = ("evaluate", "--model", "telea", "--model", folder, "--data", dataset)
    done = cli(*args)
    assert done.status == 2
    for said in (names[0].removesuffix(".png"), names[1], "8x16", "cover.png", "--allow-missing"):
        assert said in done.err
    done = cli(*args, "--allow-missing", "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "3 of 5, those that all systems have" in done.out
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["left_out"] == {"them": [name.removesuffix(".png") for name in names[:2]]}
    assert all(e["metrics"]["total"]["psnr"]["n"] == 3 for e in table["entries"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "No --model"),
        (("--model", "teleaa"), "Did you mean 'telea'"),
        (("--model", "rayfill@champion"), "No model 'rayfill' with alias 'champion'"),
        (("--model", "models:/rayfill/3"), "no version '3' of 'rayfill'"),
        (("--model", "runs:/0123"), "no run '0123'"),
        (("--model", "telea", "--split", "tset"), "Did you mean 'test'"),
        (("--model", "telea", "--split", "train"), "have no hole mask"),
        (("--model", "telea", "--against", "mean"), "Unknown system to compare with 'mean'"),
        (("--model", "telea", "--rank-by", "lpips"), "'lpips', which is not measured"),
        (("--model", "telea", "--fid"), "No FID: the package torch-fidelity"),
        (("--model", "telea", "--fid-weights-path", "x"), "--fid-weights-path is given without"),
        (("--model", "telea", "--lpips-weights-path", "x.pth"), "LPIPS is not measured"),
        (("--model", "telea", "--model", "telea"), "2 systems are called 'telea'"),
        (("--model", "telea", "--batch-size", "0"), "batch_size is 0"),
    ],
)
def test_what_cannot_be_measured_ends_with_what_to_do(
    cli: Cli,
    no_ray: None,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr("rayfill.metrics.fid.find_spec", lambda _: None)
    done = cli("evaluate", *flags, "--data", dataset)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_damaged_bundle_and_no_dataset_are_refused(
    cli: Cli, no_ray: None, dataset: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = {"width": 2, "depth": 2}
    save_bundle(tmp_path / "b", model=build_model("unet", **config), name="unet", config=config)
    weights = tmp_path / "b" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = cli("evaluate", "--model", tmp_path / "b", "--data", dataset)
    assert done.status == 2
    assert "model.safetensors" in done.err
    done = cli("evaluate", "--model", "telea", "--data", tmp_path / "b")
    assert done.status == 2
    done = cli("evaluate", "--model", "telea", "--data", tmp_path / "nothing")
    assert done.status == 2
    assert "rayfill prepare" in done.err


#: LPIPS-squeeze of MI-GAN's published outputs and of OpenCV's Telea, as they are known.
PUBLISHED = {
    "ffhq_256_freeform": (18, 0.131, 0.374),
    "places2_256_freeform": (16, 0.163, 0.307),
    "places2_512_freeform": (20, 0.204, 0.403),
    "places2_512_object": (20, 0.081, 0.093),
}


@pytest.mark.realdata
@pytest.mark.skipif(not TRIPLES.is_dir(), reason="no inpainting triples beside the project")
@pytest.mark.filterwarnings(
    "ignore:.*'pretrained'.*:UserWarning"
)  # lpips calls torchvision as of old
@pytest.mark.filterwarnings("ignore:.*weight enum.*:UserWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_outputs_of_an_outside_system_score_what_is_known_of_them(
    cli: Cli, ray_local: None, tmp_path: Path, name: str
) -> None:
    import lpips

    count, of_mi_gan, of_telea = PUBLISHED[name]
    root = TRIPLES / name
    done = cli(
        "prepare", "test_set", "--input", root / "image", "--mask", root / "mask",
        "--out", tmp_path / "set",
    )  # fmt: skip
    assert done.status == 0, done.err
    done = cli(
        "evaluate", "--model", f"MI-GAN={root / 'result'}", "--model", "telea",
        "--data", tmp_path / "set", "--lpips-network", "squeeze",
        "--lpips-weights-path", LPIPS_WEIGHTS, "--out", tmp_path / "out", "--num-workers", 1,
    )  # fmt: skip
    assert done.status == 0, done.err
    rows = rows_of(tmp_path / "out" / "table.csv")
    shown = {system: float(rows[system, "all", "lpips"]["mean"]) for system in ("MI-GAN", "telea")}
    assert (round(shown["MI-GAN"], 3), round(shown["telea"], 3)) == (of_mi_gan, of_telea)
    # The same by hand, with nothing of ours but the file of weights.
    network = lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False)
    network.load_state_dict(torch.load(LPIPS_WEIGHTS, weights_only=True))
    network.eval()
    values: dict[tuple[str, str], list[float]] = {}
    for path in sorted((root / "image").iterdir()):
        image = np.asarray(Image.open(path).convert("RGB"))
        mask = np.asarray(Image.open(root / "mask" / f"{path.stem}.png")) >= 128
        result = np.asarray(Image.open(root / "result" / f"{path.stem}.png").convert("RGB"))
        hole = mask.astype(np.uint8) * 255
        for system, filled in (
            ("MI-GAN", np.where(mask[..., None], result, image)),
            (
                "telea",
                cv2.inpaint(np.where(mask[..., None], 128, image), hole, 3, cv2.INPAINT_TELEA),
            ),
        ):
            error = (filled.astype(float) - image)[mask] / 255
            pair = [
                torch.from_numpy(x / 127.5 - 1).permute(2, 0, 1)[None].float()
                for x in (filled, image)
            ]
            with torch.inference_mode():
                distance = network(*pair).item()
            similarity = structural_similarity(
                filled, image, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False,
            )  # fmt: skip
            for metric, value in (
                ("psnr", peak_signal_noise_ratio(image, filled, data_range=255)),
                ("hole_psnr", -10 * np.log10(np.mean(error**2))),
                ("ssim", similarity),
                ("lpips", distance),
            ):
                values.setdefault((system, metric), []).append(float(value))
    for (system, metric), of_samples in values.items():
        row = rows[system, "all", metric]
        assert int(row["n"]) == count
        assert float(row["mean"]) == pytest.approx(np.mean(of_samples), rel=2e-4), (system, metric)
        assert float(row["std"]) == pytest.approx(np.std(of_samples), rel=2e-3), (system, metric)
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    found = {(d["system"], d["metric"]): d for d in table["differences"]}
    assert found["telea", "lpips"]["verdict"] == "worse"
    assert found["MI-GAN", "lpips"]["verdict"] == "no difference found"
    samples = pq.read_table(io.BytesIO((tmp_path / "out" / "samples.parquet").read_bytes()))
    assert samples.num_rows == 2 * count
