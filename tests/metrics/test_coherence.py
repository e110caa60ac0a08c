"""Removal coherence and sharpness: the orders that people see, an independent MMD, odd holes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models import squeezenet1_1

from rayfill.inference.baselines import BASELINES
from rayfill.metrics import (
    InpaintingMetrics,
    removal_coherence,
    sharpness,
    sharpness_beside_surroundings,
)
from rayfill.metrics.picture_features import SqueezeNetFeatures, texture_and_colour
from rayfill_data.errors import RayfillError

TRIPLES = Path(__file__).parents[3] / "shared/data/inpaint_triples/places2_512_object"
SQUEEZENET = Path(__file__).parents[3] / "shared/data/weights/squeezenet1_1_features.pth"

#: Name of a picture of scikit-image, and the corner of a crop of 256x256 pixels.
SCENES = {
    "gravel": (0, 0), "grass": (128, 128), "brick": (100, 60), "astronaut": (0, 120),
    "coffee": (100, 300), "chelsea": (20, 100), "rocket": (171, 200),
}  # fmt: skip

#: Those that are of one texture, and so look the same from elsewhere.
TEXTURES = ("gravel", "grass", "brick")

Levels = NDArray[np.float32]


def scene(name: str) -> Levels:
    """A real picture, (256, 256, 3) in [0, 1]."""
    picture = getattr(skimage.data, name)()
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    y, x = SCENES[name]
    return picture[y : y + 256, x : x + 256].astype(np.float32) / 255


def blob() -> NDArray[np.bool_]:
    """A hole of two discs that touch, (256, 256)."""
    y, x = np.mgrid[:256, :256]
    upper = (y - 110) ** 2 + (x - 120) ** 2 < 34**2
    return upper | ((y - 150) ** 2 + (x - 140) ** 2 < 26**2)


def tensors(picture: Levels, hole: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    levels = np.ascontiguousarray(picture.transpose(2, 0, 1))
    return torch.from_numpy(levels)[None], torch.from_numpy(hole)[None, None].float()


def score(picture: Levels, hole: NDArray[np.bool_]) -> float:
    return float(removal_coherence(*tensors(picture, hole)))


def filled(
    picture: Levels, hole: NDArray[np.bool_], content: Levels | Callable[..., Tensor]
) -> Levels:
    """The picture with other content in its hole, in 8 bits as a user gets it."""
    if callable(content):
        content = content(*tensors(picture, hole))[0].permute(1, 2, 0).numpy()
    levels = np.rint(255 * np.clip(content, 0, 1)) / 255
    return np.where(hole[..., None], levels, picture).astype(np.float32)


@pytest.mark.parametrize("name", TEXTURES)
def test_the_truth_and_its_own_texture_are_ahead_of_blurs(name: str) -> None:
    picture, hole = scene(name), blob()
    pasted = np.roll(picture, (97, 110), (0, 1))
    truth, paste, telea, harmonic = (
        score(filled(picture, hole, content), hole)
        for content in (picture, pasted, BASELINES["telea"], BASELINES["harmonic"])
    )
    # A texture from elsewhere is a fill as good as the truth, but for chance.
    assert truth < paste + 0.05
    assert paste < truth + 0.25
    assert max(truth, paste) + 0.1 < telea < harmonic


@pytest.mark.parametrize("name", [*TEXTURES, "astronaut", "coffee", "chelsea"])
def test_whatever_is_wrong_scores_worse_than_the_truth(name: str) -> None:
    picture, hole = scene(name), blob()
    seam = hole & (cv2.erode(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0)
    wrong = {
        "colour": picture + np.float32([0.12, -0.04, -0.1]),
        "texture": scene("brick" if name == "gravel" else "gravel") * picture.mean() / 0.5,
        "blur": cv2.GaussianBlur(picture, (0, 0), 3),
        "noise": picture + np.random.default_rng(0).normal(0, 0.1, picture.shape),
        "telea": BASELINES["telea"],
        "harmonic": BASELINES["harmonic"],
    }
    truth = score(picture, hole)
    worse = {what: score(filled(picture, hole, content), hole) for what, content in wrong.items()}
    worse["seam"] = score(filled(picture, seam, np.zeros_like(picture)), hole)
    assert {what: value for what, value in worse.items() if value < truth + 0.02} == {}
    assert 0 <= truth < 0.6
    assert max(worse.values()) < math.sqrt(2)


def test_it_depends_neither_on_what_is_far_away_nor_on_the_batch() -> None:
    picture, hole = scene("astronaut"), np.zeros((256, 256), bool)
    hole[100:130, 90:125] = True
    other = picture.copy()
    near = np.s_[60:170, 50:165]
    other[:] = scene("gravel")
    other[near] = picture[near]
    alone = removal_coherence(*tensors(picture, hole))
    assert torch.equal(removal_coherence(*tensors(other, hole)), alone)
    rows = [tensors(picture, hole), tensors(scene("coffee"), blob()), tensors(other, hole)]
    together = removal_coherence(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
    each = torch.cat([removal_coherence(*row) for row in rows])
    assert together.dtype == torch.float64
    assert torch.equal(together, each)
    for measure in (sharpness_beside_surroundings, lambda c, m: sharpness(c, 1 - c**2, m)):
        each = torch.cat([measure(*row) for row in rows])
        assert torch.equal(measure(*map(torch.cat, zip(*rows, strict=True))), each)


def plain_coherence(values: NDArray[np.float64], hole: NDArray[np.bool_]) -> float:
    """The mean MMD of a hole's windows as it is defined, pixel by pixel: (64, 64, C), (64, 64)."""
    known = values[~hole]
    references = known[np.linspace(0, len(known) - 1, 400).astype(int)]
    apart = [np.sum((a - b) ** 2) for a in references for b in references]
    variance = np.median(apart) / 2

    def similarity(ones: NDArray[np.float64], others: NDArray[np.float64]) -> float:
        kernel = [np.exp(-np.sum((others - a) ** 2, axis=1) / (2 * variance)) for a in ones]
        return float(np.mean(kernel))

    found, weights = [], []
    for y in range(0, 57, 4):
        for x in range(0, 57, 4):
            window = np.s_[y : y + 8, x : x + 8]
            inside, outside = values[window][hole[window]], values[window][~hole[window]]
            if not len(inside):
                continue
            outside = outside if len(outside) else references
            squared = similarity(inside, inside) + similarity(outside, outside)
            found.append(math.sqrt(squared - 2 * similarity(inside, outside)))
            weights.append(len(inside))
    return float(np.average(found, weights=weights))


def test_it_equals_a_plain_computation() -> None:
    # 64 pixels a side: every pixel is a point, and the whole picture the crop.
    picture, hole = scene("coffee")[90:154, 90:154], np.zeros((64, 64), bool)
    hole[14:46, 20:40] = True
    expected = plain_coherence(texture_and_colour(picture).astype(np.float64), hole)
    assert score(picture, hole) == pytest.approx(expected, abs=2e-5)

    def colour(part: Levels) -> Levels:
        lab: Levels = cv2.cvtColor(part, cv2.COLOR_RGB2LAB)
        return lab

    expected = plain_coherence(colour(picture).astype(np.float64), hole)
    found = float(removal_coherence(*tensors(picture, hole), features=colour))
    assert found == pytest.approx(expected, abs=2e-5)


def odd_holes() -> Iterator[tuple[str, NDArray[np.bool_]]]:
    none = np.zeros((256, 256), bool)
    for size in (1, 2, 5):
        one = none.copy()
        one[77 : 77 + size, 140] = True
        yield f"{size} px", one
    corner = none.copy()
    corner[:40, :30] = True
    yield "corner", corner
    line = none.copy()
    line[100] = True
    yield "line across", line
    border = ~none
    border[60:200, 60:200] = False
    yield "all but the middle", border
    yield "scattered", np.random.default_rng(0).random((256, 256)) < 0.02
    apart = none.copy()
    for y in range(10, 256, 60):
        for x in range(10, 256, 60):
            apart[y : y + 8, x : x + 8] = True
    yield "25 parts", apart


@pytest.mark.parametrize("hole", [hole for _, hole in odd_holes()], ids=[n for n, _ in odd_holes()])
def test_every_hole_with_surroundings_has_a_value(hole: NDArray[np.bool_]) -> None:
    picture = scene("chelsea")
    for value in (
        score(picture, hole),
        float(sharpness(*tensors(picture, hole)[:1], *tensors(picture, hole))),
        float(sharpness_beside_surroundings(*tensors(picture, hole))),
    ):
        assert math.isfinite(value)


def test_what_cannot_be_compared_has_no_value() -> None:
    picture, hole = scene("chelsea"), np.zeros((256, 256), bool)
    for empty in (hole, ~hole):
        assert math.isnan(score(picture, empty))
        assert sharpness_beside_surroundings(*tensors(picture, empty)).isnan().all()
    composite, mask = tensors(picture, hole)
    assert sharpness(composite, composite, mask).isnan().all()
    nearly = ~hole
    nearly[100, 100:103] = False
    assert math.isnan(score(picture, nearly))
    broken = picture.copy()
    broken[120, 120] = np.nan
    assert math.isnan(score(broken, blob()))


@pytest.mark.parametrize("size", [(5, 7), (11, 300), (40, 33), (900, 700)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    picture = cv2.resize(scene("coffee"), size[::-1], interpolation=cv2.INTER_AREA)
    hole = np.zeros(size, bool)
    hole[size[0] // 3 : 2 * size[0] // 3 + 1, size[1] // 3 : 2 * size[1] // 3] = True
    flat = filled(picture, hole, np.full_like(picture, picture[hole].mean()))
    true, wrong = score(picture, hole), score(flat, hole)
    assert 0 <= true < math.sqrt(2)
    assert true < wrong < math.sqrt(2) or min(size) < 8


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (900, 700)])
def test_bytes_are_measured_as_the_levels_they_stand_for(size: tuple[int, int]) -> None:
    levels = cv2.resize(scene("rocket"), size[::-1], interpolation=cv2.INTER_LINEAR)
    shown = np.rint(255 * levels).astype(np.uint8)
    hole = np.zeros(size, bool)
    hole[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    composite, mask = tensors(shown.astype(np.float32) / 255, hole)
    as_it_lies = torch.from_numpy(shown).permute(2, 0, 1)[None]
    expected = removal_coherence(composite, mask)
    assert torch.equal(removal_coherence(as_it_lies, mask), expected)
    assert torch.equal(removal_coherence(as_it_lies, mask > 0), expected)


def test_a_flat_picture_filled_flat_is_perfect_and_a_level_is_not_seen() -> None:
    picture, hole = np.full((128, 128, 3), 0.5, np.float32), np.zeros((128, 128), bool)
    hole[40:90, 50:80] = True
    assert score(picture, hole) == pytest.approx(0, abs=1e-3)
    level = filled(picture, hole, picture + 1 / 255)
    patch = filled(picture, hole, picture + 30 / 255)
    assert score(level, hole) < 0.5 < score(patch, hole)
    composite, mask = tensors(picture, hole)
    assert sharpness(composite, composite, mask).tolist() == [1]
    assert sharpness_beside_surroundings(composite, mask).tolist() == [1]


def test_parts_far_apart_are_each_seen_in_their_own_surroundings() -> None:
    bright, dark = scene("grass"), scene("gravel") * 0.4
    picture = np.concatenate([bright, dark], axis=1)
    hole = np.zeros((256, 512), bool)
    hole[100:140, 60:100] = hole[90:150, 400:460] = True
    left, right = hole.copy(), hole.copy()
    left[:, 256:] = right[:, :256] = False
    parts = [score(picture, part) for part in (left, right)]
    assert score(picture, hole) == pytest.approx(np.average(parts, weights=[40 * 40, 60 * 60]))
    swapped = picture.copy()
    swapped[100:140, 60:100] = dark[:40, :40]
    swapped[90:150, 400:460] = bright[:60, :60]
    assert score(swapped, hole) > score(picture, hole) + 0.2


def test_sharpness_of_blur_and_noise() -> None:
    picture, hole = scene("grass"), blob()
    truth, mask = tensors(picture, hole)

    def of(content: Levels | Callable[..., Tensor]) -> tuple[float, float]:
        composite, _ = tensors(filled(picture, hole, content), hole)
        found = sharpness(composite, truth, mask)
        return float(found), float(sharpness_beside_surroundings(composite, mask))

    noisy = picture + np.random.default_rng(0).normal(0, 0.3, picture.shape)
    blurs = [cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in (1, 2, 4)]
    orders = np.array([of(content) for content in (*reversed(blurs), picture, noisy)])
    assert (np.diff(orders, axis=0) > 0).all()
    assert orders[3, 0] == 1
    assert 0.8 < orders[3, 1] < 1.25
    assert max(of(BASELINES["harmonic"])) < 0.15
    # Half the contrast is half as sharp.
    assert of(0.5 * picture)[0] == pytest.approx(0.5, abs=0.03)


def test_sharpness_equals_a_plain_computation() -> None:
    picture, hole = scene("rocket"), blob()
    other = cv2.GaussianBlur(picture, (0, 0), 1)
    medians = []
    for one in (other, picture):
        grey = one.astype(np.float64) @ [0.299, 0.587, 0.114]
        found = []
        for y, x in zip(*np.nonzero(hole), strict=True):
            if hole[y - 1 : y + 2, x - 1 : x + 2].all():
                around = grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1]
                found.append(abs(around - 4 * grey[y, x]))
        medians.append(max(np.median(found), 1 / 255))
    composite, mask = tensors(other, hole)
    value = float(sharpness(composite, tensors(picture, hole)[0], mask))
    assert value == pytest.approx(medians[0] / medians[1], rel=1e-4)


def test_tables_have_them_where_they_are_defined() -> None:
    hole = blob()
    rows = [
        (filled(scene("brick"), hole, BASELINES["telea"]), scene("brick"), hole),
        (scene("coffee"), scene("coffee"), np.zeros_like(hole)),
        (scene("grass"), scene("grass"), hole),
    ]
    composite, target = (
        torch.cat([tensors(row[index], row[2])[0] for row in rows]) for index in (0, 1)
    )
    mask = torch.cat([tensors(row[0], row[2])[1] for row in rows])
    metrics = InpaintingMetrics(appearance=True, keep_values=True)
    metrics.update(composite, target, mask)
    total, buckets = metrics.compute()
    values = metrics.sample_values()
    for name, expected in {
        "coherence": removal_coherence(composite, mask),
        "sharpness": sharpness(composite, target, mask),
    }.items():
        np.testing.assert_array_equal(values[name], expected.numpy())
        assert (total[name].n, buckets["[0,10)"][name].n) == (2, 2)
        assert total[name].mean == pytest.approx(np.nanmean(expected), rel=1e-12)
        assert total[name].std == pytest.approx(np.nanstd(expected), rel=1e-9)
    assert total["psnr"].n + total["psnr"].n_infinite == 3
    blind = InpaintingMetrics(truth=False, keep_values=True)
    blind.update(composite, torch.rand_like(target), mask)
    assert list(blind.compute().total) == ["coherence", "ring_sharpness"]
    np.testing.assert_array_equal(blind.sample_values()["coherence"], values["coherence"])
    composite[0, 0, 120, 120] = math.nan
    blind.update(composite, target, mask)
    assert math.isnan(blind.compute().total["coherence"].mean)  # a NaN is not hidden
    assert "coherence" not in InpaintingMetrics().metric_names


def test_features_of_a_network_need_its_weights(tmp_path: Path) -> None:
    with pytest.raises(RayfillError, match="there is no file"):
        SqueezeNetFeatures(weights_path=tmp_path / "none.pth")
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).features.state_dict(), tmp_path / "drawn.pth")
    features = SqueezeNetFeatures(weights_path=tmp_path / "drawn.pth")
    picture, hole = scene("brick"), blob()
    assert features(picture).shape == (63, 63, 192)
    assert features(picture[:40, :50]).shape[2] == 192
    blurred = filled(picture, hole, cv2.GaussianBlur(picture, (0, 0), 4))
    found = [
        float(removal_coherence(*tensors(one, hole), features=features))
        for one in (picture, blurred)
    ]
    assert 0 < found[0] < found[1]


@pytest.mark.realdata
@pytest.mark.skipif(not TRIPLES.is_dir(), reason="no published outputs beside the project")
@pytest.mark.parametrize("weights", [None, SQUEEZENET], ids=["own", "squeezenet"])
def test_published_removals_are_more_coherent_than_telea(weights: Path | None) -> None:
    features = SqueezeNetFeatures(weights_path=weights) if weights else texture_and_colour
    found = []
    for file in sorted((TRIPLES / "image").iterdir()):
        image, result = (
            np.asarray(Image.open(next((TRIPLES / role).glob(f"{file.stem}*"))).convert("RGB"))
            / np.float32(255)
            for role in ("image", "result")
        )
        hole = np.asarray(Image.open(next((TRIPLES / "mask").glob(f"{file.stem}*")))) > 127
        one = [filled(image, hole, content) for content in (result, BASELINES["telea"])]
        composite, mask = (
            torch.cat(parts) for parts in zip(*(tensors(p, hole) for p in one), strict=True)
        )
        found.append(removal_coherence(composite, mask, features=features).tolist())
    migan, telea = np.array(found).T
    assert len(found) == 20
    assert (migan < telea).mean() >= 0.9
    assert migan.mean() < 0.75 * telea.mean() if weights is None else 0.9 * telea.mean()
