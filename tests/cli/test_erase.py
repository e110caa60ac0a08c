"""`rayfill erase`: every picture a user may have, and every way it may be wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from rayfill.cli.commands import erase
from rayfill.inference.baselines import BASELINES
from rayfill.inference.inpainter import Inpainter
from rayfill.models import build_model
from rayfill.models.segmentation import SegmentationUNet
from rayfill.runs.bundle import save_bundle
from rayfill.runs.registry import promote, register_bundle
from rayfill.runs.tracking import ensure_experiment

HEIGHT, WIDTH = 40, 56
Cli = Callable[..., Any]


@pytest.fixture
def rgb(make_picture: Callable[..., np.ndarray]) -> np.ndarray:
    return make_picture(HEIGHT, WIDTH)


@pytest.fixture
def hole() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:20, 10:30] = 255
    return mask


@pytest.fixture
def files(cli: Cli, rgb: np.ndarray, hole: np.ndarray) -> Path:
    """The command's own folder with photo.png and mask.png in it."""
    folder = Path.cwd()
    Image.fromarray(rgb).save(folder / "photo.png")
    Image.fromarray(hole).save(folder / "mask.png")
    return folder


def erase_telea(cli: Cli, photo: Any = "photo.png", *more: Any, out: str = "out.png") -> Any:
    return cli("erase", photo, "--mask", "mask.png", "-o", out, "--model", "telea", *more)


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def sixteen_bit(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "deep.png"
    deep = rgb.astype(np.uint16) * 257
    assert cv2.imwrite(str(path), deep[..., ::-1])
    return path, rgb


def sixteen_bit_gray(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "deep-gray.png"
    gray = rgb[..., 0]
    assert cv2.imwrite(str(path), gray.astype(np.uint16) * 257)
    return path, np.repeat(gray[..., None], 3, axis=2)


def gray(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "gray.png"
    Image.fromarray(rgb[..., 1]).save(path)
    return path, np.repeat(rgb[..., 1:2], 3, axis=2)


def rgba(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "rgba.png"
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:, :9] = 0
    Image.fromarray(np.dstack([rgb, alpha])).save(path)
    seen = rgb.copy()
    seen[:, :9] = 255  # transparent over white
    return path, seen


def cmyk(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "cmyk.jpg"
    Image.fromarray(rgb).convert("CMYK").save(path, quality=95)
    with Image.open(path) as picture:
        return path, np.asarray(picture.convert("RGB"))


def rotated(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "rotated.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    stored = Image.fromarray(rgb).transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif)
    return path, rgb


def palette(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "palette.png"
    picture = Image.fromarray(rgb).quantize(32)
    picture.save(path)
    return path, np.asarray(picture.convert("RGB"))


def jpeg(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "photo.jpg"
    Image.fromarray(rgb).save(path)
    return path, read(path)


def webp(rgb: np.ndarray, folder: Path) -> tuple[Path, np.ndarray]:
    path = folder / "photo.webp"
    Image.fromarray(rgb).save(path, lossless=True)
    return path, rgb


@pytest.mark.parametrize(
    "make", [sixteen_bit, sixteen_bit_gray, gray, rgba, cmyk, rotated, palette, jpeg, webp]
)
def test_every_kind_of_photo_comes_back_as_seen_outside_the_hole(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray, make: Callable[..., Any]
) -> None:
    path, seen = make(rgb, files)
    done = erase_telea(cli, path)
    assert (done.status, done.err) == (0, "")
    result = read("out.png")
    assert result.shape == (HEIGHT, WIDTH, 3)
    known = hole == 0
    assert np.array_equal(result[known], seen[known])
    assert not np.array_equal(result, seen)


def test_it_is_the_named_model_that_fills(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray
) -> None:
    done = erase_telea(cli, "photo.png", "--expand-px", 3, "--feather-px", 2)
    assert done.status == 0
    expected = Inpainter(BASELINES["telea"]).inpaint(rgb, hole, expand_px=3, feather_px=2)
    assert np.array_equal(read("out.png"), expected)
    assert done.out == f"out.png: filled {(hole > 0).mean():.1%} of 56x40 pixels with telea.\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    options = {"width": 2, "depth": 2}
    save_bundle(
        tmp_path / "best", model=build_model("unet", **options), name="unet", config=options
    )
    return tmp_path / "best"


def test_a_bundle_fills_by_folder_and_by_uri(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray, bundle: Path
) -> None:
    for number, model in enumerate((bundle, bundle.as_uri())):
        out = f"out-{number}.png"
        done = cli("erase", "photo.png", "--mask", "mask.png", "-o", out, "--model", model)
        assert (done.status, done.err) == (0, "")
        assert np.array_equal(read(out)[hole == 0], rgb[hole == 0])
    assert Path("out-0.png").read_bytes() == Path("out-1.png").read_bytes()


def test_the_champion_fills_by_its_alias(cli: Cli, files: Path, bundle: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{files}/var/mlflow.db"
    run = MlflowClient(uri).create_run(ensure_experiment("x", tracking_uri=uri))
    model = register_bundle(
        bundle, name="rayfill", run_id=run.info.run_id, scores={}, protocol={}, tracking_uri=uri
    )
    promote(model, reason="a test", tracking_uri=uri)
    asked = ("erase", "photo.png", "--mask", "mask.png", "-o", "out.png")
    done = cli(*asked, "--model", "rayfill@champion")
    assert done.status == 0, done.err
    named = cli("erase", "photo.png", "--mask", "mask.png", "-o", "b.png", "--model", bundle)
    assert named.status == 0
    assert Path("out.png").read_bytes() == Path("b.png").read_bytes()


def test_with_nothing_trained_patches_fill_and_the_next_try_is_another(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray
) -> None:
    asked = ("erase", "photo.png", "--mask", "mask.png")
    assert cli(*asked, "-o", "out.png").status == 0
    assert cli(*asked, "-o", "b.png", "--variant", 1).status == 0
    expected = Inpainter(BASELINES["exemplar"]).inpaint(rgb, hole)
    assert np.array_equal(read("out.png"), expected)
    assert not np.array_equal(read("b.png"), expected)
    refused = cli(*asked, "-o", "c.png", "--variant", 4)
    assert refused.status == 2
    assert "variant" in refused.err


def test_a_finish_is_laid_over_any_answer(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray
) -> None:
    assert erase_telea(cli, "photo.png", "--finish", "exemplar").status == 0
    expected = Inpainter(BASELINES["telea"], finish="exemplar").inpaint(rgb, hole)
    assert np.array_equal(read("out.png"), expected)
    assert not np.array_equal(expected, Inpainter(BASELINES["telea"]).inpaint(rgb, hole))


def test_with_no_champion_it_says_what_to_do_and_makes_nothing(cli: Cli, files: Path) -> None:
    before = listing(files)
    asked = ("erase", "photo.png", "--mask", "mask.png", "-o", "out.png")
    done = cli(*asked, "--model", "rayfill@champion")
    assert done.status == 2
    assert done.err == (
        "rayfill: No model 'rayfill' with alias 'champion' is registered: run `make sweep`, or "
        "register one with `rayfill promote`.\n"
    )
    assert listing(files) == before


def test_a_damaged_bundle_is_refused(cli: Cli, files: Path, bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = cli("erase", "photo.png", "--mask", "mask.png", "-o", "out.png", "--model", bundle)
    assert done.status == 2
    assert "model.safetensors" in done.err
    assert not Path("out.png").exists()


def truncated_jpeg(rgb: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG")
    return stream.getvalue()[: len(stream.getvalue()) // 2]


def no_picture(_: np.ndarray) -> bytes:
    return b"this is a text, whatever its name says"


def empty(_: np.ndarray) -> bytes:
    return b""


def gif(rgb: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "GIF")
    return stream.getvalue()


def huge(_: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (10_000, 8_500)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("role", ["photo", "mask"])
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (truncated_jpeg, "The JPEG file is damaged or incomplete; export it again."),
        (no_picture, "no known picture format; allowed: JPEG, PNG, WEBP."),
        (empty, "no known picture format; allowed: JPEG, PNG, WEBP."),
        (gif, "no known picture format; allowed: JPEG, PNG, WEBP."),
        (huge, "10000x8500 pixels; at most 80,000,000 are allowed."),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(
    cli: Cli,
    files: Path,
    rgb: np.ndarray,
    make: Callable[[np.ndarray], bytes],
    expected: str,
    role: str,
) -> None:
    (files / f"{role}.png").write_bytes(make(rgb))
    before = listing(files)
    done = erase_telea(cli)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"rayfill: {role}.png: ")
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert listing(files) == before


@pytest.mark.parametrize("role", ["photo", "mask"])
def test_a_file_that_is_not_there(cli: Cli, files: Path, role: str) -> None:
    (files / f"{role}.png").unlink()
    done = erase_telea(cli)
    assert done.status == 2
    assert done.err == (
        f"rayfill: {role}.png cannot be read: No such file or directory. Name a file.\n"
    )


def test_a_mask_of_another_size_names_both(cli: Cli, files: Path, hole: np.ndarray) -> None:
    Image.fromarray(hole[:-1]).save("mask.png")
    done = erase_telea(cli)
    assert done.status == 2
    assert "mask.png: The mask is 56x39 pixels (width x height), the image 56x40" in done.err
    assert not Path("out.png").exists()


def test_a_mask_is_turned_as_the_photo_is(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray
) -> None:
    for name, picture in (("photo.png", rgb), ("mask.png", hole)):
        exif = Image.Exif()
        exif[0x0112] = 6
        stored = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)
        stored.save(name, exif=exif)
    assert erase_telea(cli).status == 0
    assert np.array_equal(read("out.png")[hole == 0], rgb[hole == 0])
    with Image.open("out.png") as picture:
        assert picture.getexif().get(0x0112, 1) == 1  # or a viewer would turn it again


def test_an_empty_mask_changes_nothing_and_says_so(cli: Cli, files: Path, rgb: np.ndarray) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save("mask.png")
    done = erase_telea(cli)
    assert done.status == 0
    assert "mask.png: The mask marks no hole at all" in done.err
    assert np.array_equal(read("out.png"), rgb)


def test_a_full_mask_gives_a_picture_and_says_so(cli: Cli, files: Path, bundle: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save("mask.png")
    for model in ("telea", bundle):
        done = cli(
            "erase", "photo.png", "--mask", "mask.png", "-o", "out.png", "--model", model,
            "--overwrite",
        )  # fmt: skip
        assert done.status == 0
        assert "mask.png: The mask marks everything as hole" in done.err
        assert read("out.png").shape == (HEIGHT, WIDTH, 3)


def test_a_jpeg_mask_is_thresholded_and_the_user_told(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray
) -> None:
    Image.fromarray(cv2.GaussianBlur(hole, (0, 0), 2)).save("mask.jpg", quality=60)
    with Image.open("mask.jpg") as picture:
        levels = np.asarray(picture)
    assert len(np.unique(levels)) > 2
    done = cli("erase", "photo.png", "--mask", "mask.jpg", "-o", "out.png", "--model", "telea")
    assert done.status == 0
    assert "thresholded at 128" in done.err
    known = levels < 128
    assert np.array_equal(read("out.png")[known], rgb[known])


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_the_ending_names_the_format_and_the_colour_profile_stays(
    cli: Cli, files: Path, rgb: np.ndarray, ending: str
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(rgb).save("photo.png", icc_profile=profile)
    assert erase_telea(cli, out=f"out{ending}").status == 0
    with Image.open(f"out{ending}") as picture:
        kind = ending.lower().removeprefix(".").upper()
        assert picture.format == {"JPG": "JPEG"}.get(kind, kind)
        assert picture.info["icc_profile"] == profile
        assert np.abs(np.asarray(picture).astype(int) - rgb)[30:].max() < 40


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("out.gif", "its ending must be one of .png, .jpg, .jpeg, .webp."),
        ("out", "its ending must be one of"),
        ("nowhere/out.png", "nowhere is not a folder that can be written to; name another."),
        ("photo.png/out.png", "photo.png is not a folder that can be written to"),
        ("folder.png", "folder.png is a folder; name a file."),
        ("photo.png", "photo.png exists; name another file or add --overwrite."),
    ],
)
def test_an_output_that_cannot_be_is_said_before_any_work(
    cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch, out: str, expected: str
) -> None:
    (files / "folder.png").mkdir()
    before = listing(files)
    content = (files / "photo.png").read_bytes()
    monkeypatch.setattr(erase, "_decode", None)
    done = erase_telea(cli, out=out)
    assert done.status == 2
    assert expected in done.err
    assert listing(files) == before
    assert (files / "photo.png").read_bytes() == content


def test_a_folder_is_not_overwritten_even_when_asked(cli: Cli, files: Path) -> None:
    (files / "folder.png").mkdir()
    done = erase_telea(cli, "photo.png", "--overwrite", out="folder.png")
    assert done.status == 2
    assert "is a folder" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_said_before_any_work(cli: Cli, files: Path) -> None:
    (files / "closed").mkdir(mode=0o500)
    done = erase_telea(cli, out="closed/out.png")
    assert done.status == 2
    assert "closed is not a folder that can be written to" in done.err


def test_the_photo_itself_may_be_replaced(
    cli: Cli, files: Path, rgb: np.ndarray, hole: np.ndarray
) -> None:
    done = erase_telea(cli, "photo.png", "--overwrite", out="photo.png")
    assert done.status == 0
    assert np.array_equal(read("photo.png")[hole == 0], rgb[hole == 0])
    assert listing(files) == {"photo.png", "mask.png"}


def test_a_full_disk_leaves_what_was_there(
    cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "out.png").write_bytes(b"older")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = erase_telea(cli, "photo.png", "--overwrite")
    assert done.status == 2
    assert "out.png could not be written" in done.err
    assert "No space left on device" in done.err
    assert (files / "out.png").read_bytes() == b"older"
    assert listing(files) == {"photo.png", "mask.png", "out.png"}


@pytest.mark.skipif(not features.check("webp"), reason="Pillow without WebP")
def test_a_picture_the_format_cannot_hold(cli: Cli, files: Path) -> None:
    wide = np.zeros((2, 16_500, 3), np.uint8)
    Image.fromarray(wide).save("photo.png")
    Image.fromarray(wide[..., 0]).save("mask.png")
    done = erase_telea(cli, out="out.webp")
    assert done.status == 2
    assert "out.webp: 16500x2 pixels cannot be stored as WEBP; name a .png file." in done.err
    assert listing(files) == {"photo.png", "mask.png"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "teleaa"], "names nothing"),
        (["--model", "rayfill@nobody"], "No model 'rayfill' with alias 'nobody'"),
        (["--feather-px", "-1", "--model", "telea"], "feather_px is -1: it must be at least 0."),
        (["--expand-px", "much", "--model", "telea"], "much"),
    ],
)
def test_options_that_cannot_be_used(
    cli: Cli, files: Path, flags: list[str], expected: str
) -> None:
    done = cli("erase", "photo.png", "--mask", "mask.png", "-o", "out.png", *flags)
    assert done.status == 2
    assert expected in done.err
    assert listing(files) == {"photo.png", "mask.png"}


@pytest.fixture
def joint_bundle(tmp_path: Path) -> Path:
    """A joint model set by hand: what is redder than green by more than a quarter is a ball."""
    options = {
        "inpainter_options": {"width": 2, "depth": 2},
        "segmenter_options": {"width": 2, "depth": 1},
        "label_names": ["nothing", "ball"],
    }
    model = build_model("joint", **options)
    segmenter = model.segmenter
    with torch.no_grad():
        for layer in segmenter.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.zero_()
        first, *rest = (
            layer
            for part in (segmenter.stem, segmenter.fuse)
            for layer in part.modules()
            if isinstance(layer, torch.nn.Conv2d)
        )
        first.weight[0, :2, 1, 1] = torch.tensor([1.0, -1.0])
        for layer in rest:
            layer.weight[0, 0, 1, 1] = 1.0
        segmenter.head.weight[1, 0] = 40.0
        segmenter.head.bias.copy_(torch.tensor([0.0, -10.0]))
    save_bundle(tmp_path / "joint", model=model, name="joint", config=options)
    return tmp_path / "joint"


@pytest.fixture
def balls(files: Path, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """photo.png in gray with two red balls; the photo and the two masks, the left one first."""
    photo = rgb[..., :1].repeat(3, axis=2)
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 8:20, 6:18] = True
    masks[1, 15:34, 36:50] = True
    photo[masks.any(axis=0)] = (200, 40, 40)
    Image.fromarray(photo).save(files / "photo.png")
    return photo, masks


@pytest.fixture
def register(cli: Cli, joint_bundle: Path) -> Callable[..., str]:
    """Return what registers the joint model as the champion with scores, and its reference."""
    from mlflow.tracking import MlflowClient

    def registering(**scores: float) -> str:
        uri = f"sqlite:///{Path.cwd()}/var/mlflow.db"
        run = MlflowClient(uri).create_run(ensure_experiment("x", tracking_uri=uri))
        model = register_bundle(
            joint_bundle,
            name="rayfill",
            run_id=run.info.run_id,
            scores=scores,
            protocol={"size": "20x32"},
            tracking_uri=uri,
        )
        promote(model, reason="a test", tracking_uri=uri)
        return "rayfill@champion"

    return registering


@pytest.fixture
def measured(register: Callable[..., str]) -> str:
    """A joint model whose segmenter was measured to work."""
    return register(iou=0.9)


def erase_clicks(cli: Cli, model: Any, *more: Any, out: str = "out.png") -> Any:
    return cli("erase", "photo.png", "-o", out, "--model", model, *more)


def test_a_click_removes_what_it_is_on(
    cli: Cli, balls: tuple[np.ndarray, np.ndarray], joint_bundle: Path, measured: str
) -> None:
    photo, (left, right) = balls
    done = erase_clicks(cli, measured, "--click", 10, 12, "--expand-px", 0, "--segment-side", 56)
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        f"photo.png: found ball.\nout.png: filled {left.mean():.1%} of 56x40 pixels with joint.\n"
    )
    expected = Inpainter.from_bundle(joint_bundle).inpaint(photo, left.astype(np.uint8) * 255)
    assert np.array_equal(read("out.png"), expected)
    both = erase_clicks(
        cli, measured, "--click", 10, 12, "--click", 40.5, 20, "--expand-px", 2,
        "--segment-side", 56, out="both.png",
    )  # fmt: skip
    assert both.status == 0
    grown = cv2.dilate(
        (left | right).astype(np.uint8), (np.hypot(*np.mgrid[-2:3, -2:3]) <= 2).astype(np.uint8)
    )
    changed = (read("both.png") != photo).any(axis=2)
    assert not changed[grown == 0].any()
    assert changed[left].mean() > 0.9
    assert changed[right].mean() > 0.9


def test_clicks_are_on_the_photo_as_displayed(
    cli: Cli, balls: tuple[np.ndarray, np.ndarray], measured: str
) -> None:
    photo, (left, _) = balls
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90)
    stored.save("photo.png", exif=exif)
    assert (
        erase_clicks(
            cli, measured, "--click", 10, 12, "--expand-px", 0, "--segment-side", 56
        ).status
        == 0
    )
    result = read("out.png")
    assert np.array_equal(result[~left], photo[~left])
    assert not np.array_equal(result, photo)


def test_the_champion_is_shown_photos_as_large_as_it_was_trained_on(
    cli: Cli, balls: tuple[np.ndarray, np.ndarray], measured: str, monkeypatch: Any
) -> None:
    seen = []
    label = SegmentationUNet.forward

    def watched(self: Any, image: torch.Tensor, labels: Any = None) -> Any:
        seen.append(tuple(image.shape[-2:]))
        return label(self, image, labels)

    monkeypatch.setattr(SegmentationUNet, "forward", watched)
    for number, (flags, size) in enumerate([((), (23, 32)), (("--segment-side", 40), (29, 40))]):
        done = erase_clicks(cli, measured, "--click", 10, 12, *flags, out=f"{number}.png")
        assert done.status == 0, done.err
        assert seen.pop() == size


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), "Give either --mask, or --box or --click"),
        (("--mask", "mask.png", "--click", 1, 1), "Give either --mask, or --box or --click"),
        (("--mask", "mask.png", "--box", 1, 1, 9, 9), "Give either --mask, or --box"),
        (("--click", 56, 1), "Click [56, 1] lies outside the photo of 56x40 pixels"),
        (("--click", 10, 12, "--click", 3, -1), "Click [3, -1] lies outside the photo of 56x40"),
        (("--click", "nan", 1), "Click [nan, 1] lies outside"),
        (("--click", 30, 2), "finds no ball at 30 2: click elsewhere, draw a --box"),
        (("--click", 10, 12, "--segment-side", 8), "max_side is 8: it must be at least 32."),
        (("--box", 1, 1, 57, 9), "Box [1, 1, 57, 9] lies outside the photo of 56x40 pixels"),
        (("--box", 1, 1, "nan", 9), "Box [1, 1, nan, 9] lies outside"),
        (("--box", 9, 1, 9, 9), "Box [9, 1, 9, 9] is empty"),
        (("--box", 9, 1, 1, 9), "Box [9, 1, 1, 9] is empty"),
        (("--box", 1, 1, 9, 9, "--click", 99, 1), "Click [99, 1] lies outside"),
        (("--box", 1, 1, 9), "--box"),
        (("--click", 10), "--click"),
        (("--click", 10, "there"), "--click"),
    ],
)
def test_clicks_that_cannot_be_used(
    cli: Cli,
    files: Path,
    balls: tuple[np.ndarray, np.ndarray],
    measured: str,
    flags: tuple[Any, ...],
    expected: str,
) -> None:
    done = erase_clicks(cli, measured, *flags)
    assert done.status == 2
    assert expected in done.err
    assert not Path("out.png").exists()


@pytest.mark.parametrize("flags", [("--box", 3, 5, 21, 23), ("--click", 11.5, 13.5)])
@pytest.mark.parametrize("model", ["telea", "bundle", "unmeasured"])
def test_grabcut_finds_it_without_a_trained_segmenter(
    cli: Cli,
    balls: tuple[np.ndarray, np.ndarray],
    bundle: Path,
    register: Callable[..., str],
    flags: tuple[Any, ...],
    model: str,
) -> None:
    photo, (left, _) = balls
    reference = {"bundle": bundle, "unmeasured": register(iou=0.5) if model != "telea" else ""}
    done = erase_clicks(cli, reference.get(model, model), *flags, "--expand-px", 0)
    assert (done.status, done.err) == (0, "")
    assert "of the photo by GrabCut." in done.out
    if flags[0] == "--box":  # how far a thing reaches is not in one click on so small a photo
        assert f"found {left.mean():.1%} of the photo" in done.out
        assert np.array_equal(read("out.png")[~left], photo[~left])
    assert (read("out.png")[left] != photo[left]).any(axis=1).mean() > 0.9


def test_what_was_found_grows_by_default_and_a_mask_does_not(
    cli: Cli, balls: tuple[np.ndarray, np.ndarray]
) -> None:
    photo, (left, _) = balls
    kernel = (np.hypot(*np.mgrid[-2:3, -2:3]) <= 2).astype(np.uint8)
    grown = cv2.dilate(left.astype(np.uint8), kernel) > 0
    assert erase_clicks(cli, "telea", "--box", 3, 5, 21, 23).status == 0
    changed = (read("out.png") != photo).any(axis=2)
    assert changed[grown & ~left].any()
    assert not changed[~grown].any()
    Image.fromarray(left.astype(np.uint8) * 255).save("mask.png")
    assert erase_telea(cli, out="masked.png").status == 0
    assert not (read("masked.png") != photo).any(axis=2)[~left].any()


def test_a_box_is_never_left_to_the_trained_segmenter(
    cli: Cli, balls: tuple[np.ndarray, np.ndarray], measured: str
) -> None:
    done = erase_clicks(cli, measured, "--box", 3, 5, 21, 23, "--click", 11, 13)
    assert done.status == 0
    assert "by GrabCut" in done.out


def test_the_result_may_be_read_by_whom_other_new_files_may(cli: Cli, files: Path) -> None:
    erase_telea(cli)
    plain = files / "plain"
    plain.touch()
    assert (files / "out.png").stat().st_mode == plain.stat().st_mode


@pytest.mark.process
def test_the_installed_command(files: Path, rgb: np.ndarray, hole: np.ndarray) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).parent / "rayfill", "erase", "photo.png", "--mask", "mask.png",
            "-o", "out.png", "--model", "navier_stokes",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert np.array_equal(read("out.png")[hole == 0], rgb[hole == 0])
