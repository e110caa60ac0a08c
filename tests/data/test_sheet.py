"""Where pictures and captions stand on a contact sheet."""

from __future__ import annotations

import numpy as np
import pytest

from rayfill_data.sheet import GAP_PX, SheetRow, Tile, broken, caption, draw_sheet, fitted


def noise(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rows_and_columns_line_up_and_every_picture_is_there_once() -> None:
    sizes = [[(30, 40), (20, 60)], [(25, 10)], [(5, 40), (9, 50), (30, 8)]]
    pictures = [[noise(*size) for size in row] for row in sizes]
    sheet = draw_sheet(
        [SheetRow(tiles=[Tile(picture=picture) for picture in row]) for row in pictures]
    )
    expected = np.full_like(sheet, 255)
    for row, top in zip(pictures, (0, 30, 55), strict=True):  # after heights 30 and 25
        for number, picture in enumerate(row):
            y = top + GAP_PX * (1 + (0, 30, 55).index(top))
            x = (0, 40, 100)[number] + GAP_PX * (1 + number)  # after widths 40 and 60
            expected[y : y + len(picture), x : x + picture.shape[1]] = picture
    np.testing.assert_array_equal(sheet, expected)
    assert sheet.shape == (30 + 25 + 30 + 4 * GAP_PX, 40 + 60 + 8 + 4 * GAP_PX, 3)


def test_titles_end_where_their_pictures_begin_and_leave_them_as_they_are() -> None:
    picture = noise(40, 60)
    long = "a_name_of-three_lines-at_most"
    plain = draw_sheet([SheetRow(tiles=[Tile(picture=picture)] * 2)])
    tiles = [Tile(picture=picture, title="short", value="1 dB"), Tile(picture=picture, title=long)]
    sheet = draw_sheet([SheetRow(tiles=tiles)], text_px=8)
    lines = len(broken(long, width=60, most=3, text_px=8))
    assert lines > 1
    assert sheet.shape == (len(plain) + 10 * lines + 10, plain.shape[1], 3)
    top = GAP_PX + 10 * lines
    for x in (GAP_PX, 2 * GAP_PX + 60):
        np.testing.assert_array_equal(sheet[top : top + 40, x : x + 60], picture)
    above = sheet[GAP_PX : top - 10, GAP_PX : GAP_PX + 60]
    assert (above == 255).all()  # the short one stands on the last line
    assert (sheet[top - 10 : top, GAP_PX : GAP_PX + 60] < 128).any()
    below = sheet[top + 40 : top + 50]
    assert (below[:, : GAP_PX + 60] < 128).any()
    assert (below[:, 2 * GAP_PX + 60 :] == 255).all()


def test_a_heading_stands_above_its_row() -> None:
    tiles = [Tile(picture=noise(40, 60))]
    plain = draw_sheet([SheetRow(tiles=tiles)])
    headed = draw_sheet([SheetRow(tiles=tiles, heading="best: one")])
    np.testing.assert_array_equal(headed[-len(plain) + GAP_PX :], plain[GAP_PX:])
    assert (headed[: -len(plain) + GAP_PX] < 128).any()


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((64, 64), (128, 128)),
        ((32, 48), (96, 144)),
        ((17, 16), (153, 144)),
        ((512, 256), (160, 80)),
    ],
)
def test_small_pictures_grow_by_whole_numbers(
    shape: tuple[int, int], shown: tuple[int, int]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    large = fitted(picture, side_px=160)
    assert large.shape[:2] == shown
    if shown[0] > shape[0]:
        times = shown[0] // shape[0]
        np.testing.assert_array_equal(large[::times, ::times], picture)


def test_captions_fit_and_lose_nothing_that_has_room() -> None:
    name = "19-attention_unet-log_mse-4-0"
    parts = broken(name, width=128, most=3)
    assert "".join(parts) == name
    assert len(parts) == 2
    assert broken(name, width=60, most=1)[0].endswith("…")
    assert broken("", width=60, most=2) == []
    assert caption(name, width=128, lines=2).shape == (30, 128, 3)
    assert (caption("", width=9) == 255).all()
