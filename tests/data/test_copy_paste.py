from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rayfill_data.masks.copy_paste import Cutout, paste, random_cutout, random_window, resize
from rayfill_data.sources.bundled import bundled_photo


@pytest.mark.parametrize("size", [4, 5, 16, 48])
def test_cutouts_are_textured_shapes_that_fill_their_box(size: int) -> None:
    photo = bundled_photo("data/astronaut.png")
    for seed in range(30):
        cutout = random_cutout(photo, rng=np.random.default_rng(seed), size_px=size)
        assert cutout.rgb.shape == (size, size, 3)
        assert cutout.alpha.shape == (size, size)
        covered = np.argwhere(cutout.alpha > 0)
        assert max(np.ptp(covered, axis=0)) >= size - 2
        if size >= 16:
            assert 0.1 < (cutout.alpha > 0).mean() < 0.95
            assert cutout.rgb[cutout.alpha > 0].std() > 2


def test_mask_is_exactly_where_the_object_lies(make_picture: Any) -> None:
    background, photo = make_picture(40, 60), make_picture(90, 80, seed=1)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pair = paste(background, random_cutout(photo, rng=rng, size_px=20), rng=rng)
        np.testing.assert_array_equal(pair.target, background)
        assert pair.target is not background
        changed = (pair.image != pair.target).any(axis=2)
        assert not changed[pair.hole_mask == 0].any()
        assert set(np.unique(pair.hole_mask)) == {0, 255}
        assert changed[pair.hole_mask == 255].mean() > 0.9


def test_paste_equals_the_formula(make_picture: Any) -> None:
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 256, (30, 30), dtype=np.uint8)
    cutout = Cutout(rgb=make_picture(30, 30, seed=2), alpha=alpha)
    background = make_picture(30, 30)

    class Corner:
        def integers(self, *_: Any, **__: Any) -> int:
            return 0

    pair = paste(background, cutout, rng=Corner())  # type: ignore[arg-type]
    weight = alpha[..., None] / 255
    expected = weight * cutout.rgb + (1 - weight) * background
    assert np.abs(pair.image - expected).max() <= 0.51
    np.testing.assert_array_equal(pair.hole_mask, np.where(alpha > 0, 255, 0))


def test_objects_may_hang_over_the_edge_but_stay_visible(make_picture: Any) -> None:
    background = make_picture(32, 32)
    full = Cutout(rgb=make_picture(18, 18, seed=3), alpha=np.full((18, 18), 255, np.uint8))
    visible = {
        int((paste(background, full, rng=np.random.default_rng(seed)).hole_mask > 0).sum())
        for seed in range(200)
    }
    assert max(visible) == 18 * 18
    assert min(visible) == 15 * 15


def test_windows_are_only_scaled_down(make_picture: Any) -> None:
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[None, :, None], 160, axis=0).repeat(3, axis=2)
    spans = []
    for seed in range(60):
        window = random_window(ramp, rng=np.random.default_rng(seed), size_px=32)
        assert window.shape == (32, 32, 3)
        spans.append((int(window.max()) - int(window.min())) / 31)
    assert min(spans) >= 0.99
    assert max(spans) > 4
    zoomed = [
        random_window(ramp, rng=np.random.default_rng(seed), size_px=32, zoom=1.0)
        for seed in range(20)
    ]
    assert all(int(window.max()) - int(window.min()) == 31 for window in zoomed)


def test_windows_of_a_photo_smaller_than_asked_for(make_picture: Any) -> None:
    window = random_window(make_picture(20, 30), rng=np.random.default_rng(0), size_px=40)
    assert window.shape == (40, 40, 3)


def test_windows_show_something() -> None:
    sky = np.zeros((200, 300, 3), np.uint8)
    sky[:, 200:] = np.random.default_rng(0).integers(0, 256, (200, 100, 3), dtype=np.uint8)
    shown = [
        random_window(sky, rng=np.random.default_rng(seed), size_px=32, zoom=1.0).std() > 5
        for seed in range(50)
    ]
    assert sum(shown) > 40


def test_resize_averages_areas() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    picture = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    small = resize(picture, height=16, width=16)
    assert np.abs(small.astype(int) - 127).max() <= 1
