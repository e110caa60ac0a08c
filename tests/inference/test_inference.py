"""Any photograph in, the same size out, untouched outside the hole, whatever the model answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import nn

from rayfill.inference.inpainter import Inpainter
from rayfill.models import build_model, push_pull_fill
from rayfill.runs.bundle import save_bundle
from rayfill_data.errors import ConfigError, ImageError, RayfillError

CONFIG = {"width": 2, "depth": 4, "hole_fill": "push_pull"}


class Constant(nn.Module):
    """Answers one colour everywhere and writes down what it was shown."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, image, hole_mask):
        self.seen.append((image.clone(), hole_mask.clone()))
        return torch.full_like(image, self.value)


class PushPull(nn.Module):
    def forward(self, image, hole_mask):
        return push_pull_fill(image, hole_mask)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Inpainter(build_model("attention_unet", **CONFIG), max_side=96)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def box_mask(height, width, *boxes):
    mask = np.zeros((height, width), np.uint8)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = 255
    return mask


SIZES = [(1, 1), (1, 5000), (5000, 1), (17, 31), (64, 64), (65, 200), (130, 300)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["all", "one pixel", "speckle", "half"])
def test_same_size_out_and_untouched_outside(network, size, kind):
    image, rng = photo(*size), np.random.default_rng(3)
    mask = np.zeros(size, np.uint8)
    if kind == "all":
        mask[:] = 255
    elif kind == "one pixel":
        mask[size[0] // 2, size[1] // 2] = 255
    elif kind == "speckle":
        mask[rng.random(size) < 0.01] = 255
    else:
        mask[: (size[0] + 1) // 2, : (size[1] + 1) // 2] = 255
    out = network.inpaint(image, mask)
    assert (out.shape, out.dtype) == (image.shape, np.uint8)
    assert np.array_equal(out[mask == 0], image[mask == 0])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("max_side", [96, 100, 512])
def test_every_hole_pixel_is_filled(size, max_side):
    mask = np.where(np.random.default_rng(1).random(size) < 0.3, np.uint8(255), np.uint8(0))
    mask[0, 0] = 255
    image = photo(*size)  # has no 255
    model = Constant()
    out = Inpainter(model, max_side=max_side, finish="none").inpaint(image, mask)
    assert np.array_equal((out == 255).all(axis=2), mask == 255)
    assert max(max(seen.shape[-2:]) for seen, _ in model.seen) <= max_side


def test_empty_mask_returns_an_equal_copy_without_asking_the_model():
    image, model = photo(20, 30), Constant()
    out = Inpainter(model).inpaint(image, np.zeros((20, 30), np.uint8))
    assert np.array_equal(out, image)
    assert out is not image
    assert model.seen == []


def test_inputs_are_left_alone(network):
    image, mask = photo(40, 50), box_mask(40, 50, (3, 20, 5, 30))
    image.flags.writeable = mask.flags.writeable = False
    network.inpaint(image, mask, expand_px=2, feather_px=2)


def test_mask_threshold_is_128():
    image = photo(1, 4)
    mask = np.array([[0, 127, 128, 255]], np.uint8)
    out = Inpainter(Constant()).inpaint(image, mask)
    assert (out == 255).all(axis=2).tolist() == [[False, False, True, True]]


def test_what_is_under_the_hole_is_not_read(network):
    image, mask = photo(200, 150), box_mask(200, 150, (20, 150, 10, 120))
    other = image.copy()
    other[mask > 0] = 0
    for feather_px in (0, 5):
        first = network.inpaint(image, mask, feather_px=feather_px)
        assert np.array_equal(first, network.inpaint(other, mask, feather_px=feather_px))


@pytest.mark.parametrize("expand_px", [1, 4, 25, -3])
def test_expand_grows_the_hole_by_an_exact_disc(expand_px):
    image, mask = photo(80, 90), box_mask(80, 90, (30, 45, 40, 52))
    out = Inpainter(Constant()).inpaint(image, mask, expand_px=expand_px)
    if expand_px > 0:
        expected = distance_transform_edt(mask == 0) <= expand_px
    else:
        expected = distance_transform_edt(mask > 0) > -expand_px
    assert np.array_equal((out == 255).all(axis=2), expected)


def test_feather_fades_from_the_surroundings_to_the_model():
    image, mask = np.zeros((64, 64, 3), np.uint8), box_mask(64, 64, (10, 50, 10, 50))
    out = Inpainter(Constant(1.0)).inpaint(image, mask, feather_px=4)
    profile = out[30, 8:18, 0].astype(float)
    # Surroundings are 0, the model says 1: exactly the ramp, then the model alone.
    expected = np.array([0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]) * 255
    np.testing.assert_allclose(profile, expected, atol=0.51)
    assert np.array_equal(out[mask == 0], image[mask == 0])


def test_far_holes_are_separate_crops_and_near_ones_share():
    model = Constant()
    far = box_mask(400, 400, (10, 20, 10, 20), (300, 310, 350, 360))
    Inpainter(model).inpaint(photo(400, 400), far)
    assert [tuple(seen.shape[-2:]) for seen, _ in model.seen] == [(96, 96), (96, 96)]
    model.seen.clear()
    near = box_mask(400, 400, (100, 110, 100, 110), (112, 120, 115, 125))
    Inpainter(model).inpaint(photo(400, 400), near)
    assert len(model.seen) == 1
    assert model.seen[0][1].sum() == (near > 0).sum()


def test_context_surrounds_the_hole():
    model = Constant()
    Inpainter(model).inpaint(photo(600, 600), box_mask(600, 600, (250, 350, 250, 350)))
    ((_, mask),) = model.seen
    rows = torch.nonzero(mask[0, 0].any(dim=1))
    assert rows.min() >= 50
    assert mask.shape[2] - 1 - rows.max() >= 50


@pytest.mark.parametrize("size", [(400, 400), (1500, 400)])
def test_a_large_hole_is_seen_whole_at_a_size_the_model_knows(size):
    model = Constant()
    mask = box_mask(*size, (40, size[0] - 40, 40, 360))
    image = photo(*size) // 2
    Inpainter(model, max_side=96).inpaint(image, mask)
    ((seen, hole),) = model.seen
    assert max(seen.shape[-2:]) == 96
    assert hole.unique().tolist() == [0, 1]
    assert float(hole.mean()) == pytest.approx((mask > 0).mean(), abs=0.05)
    # What is known is shown as its mean: of noise below 128, about 63.
    known = seen[(hole < 0.5).expand_as(seen)] * 255
    assert float(known.mean()) == pytest.approx(image[mask == 0].mean(), abs=2)


class Split(nn.Module):
    """Says that the upper half is black and the lower one white."""

    def forward(self, image, hole_mask):
        down = torch.linspace(0, 1, image.shape[-2])[None, None, :, None]
        return (down > 0.5).float().expand_as(image)


@pytest.mark.parametrize("finish", ["none", "auto", "exemplar"])
def test_a_finish_follows_the_model_where_it_says_what_the_photo_does_not(finish):
    """Left and right of the hole there is noise, dark above and bright below."""
    noise = np.random.default_rng(0).integers(0, 60, (300, 300, 3))
    noise[150:] += 190
    image, mask = noise.astype(np.uint8), box_mask(300, 300, (60, 240, 60, 240))
    out = Inpainter(Split(), max_side=96, finish=finish).inpaint(image, mask)
    inside = out[80:220, 80:220].astype(float)
    assert inside[:50].mean() < 60
    assert inside[-50:].mean() > 190
    texture = inside[:50].std()
    true = image[:50].astype(float).std()
    assert texture < 1 if finish == "none" else 0.7 < texture / true < 1.3


def test_a_window_that_the_model_can_be_shown_is_finished_only_when_asked():
    image, mask = photo(90, 90), box_mask(90, 90, (30, 60, 30, 60))
    assert (Inpainter(Constant()).inpaint(image, mask)[mask > 0] == 255).all()
    finished = Inpainter(Constant(), finish="exemplar").inpaint(image, mask)
    assert (finished[mask > 0] < 255).all()  # the photo has no such value


def test_a_smooth_picture_is_continued_across_tiles():
    image = np.full((300, 300, 3), 90, np.uint8)
    mask = box_mask(300, 300, (20, 280, 20, 280))
    out = Inpainter(PushPull(), max_side=96).inpaint(image, mask)
    assert np.abs(out.astype(int) - 90).max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    inpainter = Inpainter(Constant(value), name="broken")
    with pytest.raises(RayfillError, match="'broken' answered with values that are not finite"):
        inpainter.inpaint(photo(20, 20), box_mask(20, 20, (2, 9, 2, 9)))


def test_overshooting_predictions_are_clipped():
    out = Inpainter(Constant(7.0)).inpaint(photo(20, 20), box_mask(20, 20, (2, 9, 2, 9)))
    assert (out[2:9, 2:9] == 255).all()


@pytest.mark.parametrize(
    ("image", "mask", "code"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), "malformed"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), "malformed"),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), "malformed"),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4), np.uint8), "malformed"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool), "malformed"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), np.uint8), "malformed"),
        (np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4), np.uint8), "size_mismatch"),
    ],
)
def test_wrong_pictures_are_refused(image, mask, code):
    with pytest.raises(ImageError) as caught:
        Inpainter(Constant()).inpaint(image, mask)
    assert caught.value.code == code
    if code == "size_mismatch":
        assert "4x6" in str(caught.value)
        assert "6x4" in str(caught.value)


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="feather_px is -1"):
        Inpainter(Constant()).inpaint(photo(4, 4), box_mask(4, 4, (0, 1, 0, 1)), feather_px=-1)
    with pytest.raises(ConfigError, match="max_side is 8"):
        Inpainter(Constant(), max_side=8)
    with pytest.raises(ConfigError, match="Unknown finish 'sharp'"):
        Inpainter(Constant(), finish="sharp")


def test_from_bundle_answers_like_the_model_it_was_saved_from(tmp_path):
    torch.manual_seed(1)
    model = build_model("unet", **CONFIG)
    save_bundle(tmp_path / "m", model=model, name="unet", config=CONFIG, extra={"run_id": "abc"})
    loaded = Inpainter.from_bundle(tmp_path / "m")
    assert (loaded.name, loaded.run_id, loaded.device.type) == ("unet", "abc", "cpu")
    image, mask = photo(50, 70), box_mask(50, 70, (10, 30, 10, 40))
    assert np.array_equal(loaded.inpaint(image, mask), Inpainter(model).inpaint(image, mask))


def test_several_threads_may_share_one(network):
    jobs = [(photo(60, 80, seed), box_mask(60, 80, (5, 40, seed, seed + 30))) for seed in range(8)]
    alone = [network.inpaint(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: network.inpaint(*job), jobs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
