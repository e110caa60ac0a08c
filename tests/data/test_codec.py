from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from rayfill_data.codec import (
    FILE_FORMATS,
    MAX_PIXELS,
    decode_mask,
    decode_photo,
    decode_png,
    encode_png,
    to_nchw,
    to_uint8,
)
from rayfill_data.errors import ImageError

ADDRESS = re.compile(r"0x[0-9a-f]{6}")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(data: bytes, code: str, **options: Any) -> str:
    """Assert that both decoders refuse and return the photo's message."""
    with pytest.raises(ImageError) as mask_error:
        decode_mask(data, **options)
    with pytest.raises(ImageError) as photo_error:
        decode_photo(data, **options)
    assert photo_error.value.code == mask_error.value.code == code
    message = str(photo_error.value)
    assert not ADDRESS.search(message)
    assert "BytesIO" not in message
    return message


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_rgb_is_exact(make_picture: Any, kind: str) -> None:
    rgb = make_picture(17, 31)
    photo = decode_photo(encoded(Image.fromarray(rgb), kind, lossless=True))
    assert photo.format == kind
    np.testing.assert_array_equal(photo.rgb, rgb)
    assert photo.rgb.flags.writeable


def test_jpeg_equals_pillow(make_picture: Any) -> None:
    data = encoded(Image.fromarray(make_picture(40, 60)), "JPEG", quality=90)
    np.testing.assert_array_equal(decode_photo(data).rgb, np.array(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("data", "formats"),
    [
        (b"", None),
        (b"\x00" * 100, None),
        (b"<html><body>not found</body></html>", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (encoded(Image.new("RGB", (4, 4)), "GIF"), None),
        (encoded(Image.new("RGB", (4, 4)), "BMP"), None),
        (encoded(Image.new("RGB", (4, 4)), "TIFF"), None),
        (encoded(Image.new("RGB", (4, 4)), "WEBP"), ("JPEG", "PNG")),
    ],
)
def test_other_formats_are_not_images(data: bytes, formats: tuple[str, ...] | None) -> None:
    message = refused(data, "not_an_image", **({"formats": formats} if formats else {}))
    assert "allowed: JPEG, PNG" in message


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_files_on_disk_may_be_bmp_or_tiff(make_picture: Any, kind: str) -> None:
    rgb = make_picture(9, 12)
    photo = decode_photo(encoded(Image.fromarray(rgb), kind), formats=FILE_FORMATS)
    np.testing.assert_array_equal(photo.rgb, rgb)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_malformed(make_picture: Any, kind: str, share: float) -> None:
    data = encoded(Image.fromarray(make_picture(64, 64)), kind)
    refused(data[: max(12, int(len(data) * share))], "malformed")


def test_damaged_png_chunks_are_malformed(make_picture: Any) -> None:
    data = bytearray(encoded(Image.fromarray(make_picture(64, 64))))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    refused(bytes(data), "malformed")
    header = bytearray(encoded(Image.new("RGB", (8, 8))))
    header[30] ^= 0xFF  # the checksum of the header
    refused(bytes(header), "malformed")


@pytest.mark.parametrize("place", [-8, -7, -6, -5])
def test_a_damaged_checksum_of_the_pixels_is_malformed(place: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    data = bytearray(encoded(Image.fromarray(noise)))
    assert data.count(b"IDAT") > 1  # the checksums of all but the last are seen while decoding
    data[data.index(b"IEND") + place] ^= 1
    refused(bytes(data), "malformed")


@pytest.mark.parametrize("side", [5000, 10_000, 14_000, 30_000])
def test_bombs_are_refused_before_decoding(side: int) -> None:
    message = refused(png_claiming(side, side), "too_large")
    assert f"{MAX_PIXELS:,}" in message


def test_limit_is_exact() -> None:
    data = encoded(Image.new("RGB", (10, 10)))
    assert decode_photo(data, max_pixels=100).rgb.shape == (10, 10, 3)
    assert "10x10" in refused(data, "too_large", max_pixels=99)


def test_absurd_headers_are_refused() -> None:
    refused(png_claiming(0, 0), "malformed")
    with pytest.raises(ImageError):
        decode_photo(png_claiming(2**31 - 1, 2**31 - 1))


def test_text_chunk_bomb_is_refused() -> None:
    text = b"zTXtComment\0\0" + zlib.compress(b"a" * 80 * 2**20)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    data = encoded(Image.new("RGB", (4, 4)))
    refused(data[:33] + chunk + data[33:], "malformed")


def test_mutants_only_ever_raise_image_errors(make_picture: Any) -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        whole = encoded(Image.fromarray(make_picture(24, 24)), kind)
        for _ in range(120):
            data = bytearray(whole)
            for _ in range(int(rng.integers(1, 6))):
                data[int(rng.integers(len(data)))] = int(rng.integers(256))
            for decode in (decode_photo, decode_mask):
                with contextlib.suppress(ImageError):
                    decode(bytes(data), formats=FILE_FORMATS)


def test_gray_palette_and_one_bit(make_picture: Any) -> None:
    gray = Image.fromarray(make_picture(12, 15)).convert("L")
    expected = np.repeat(np.array(gray)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_photo(encoded(gray)).rgb, expected)
    palette = Image.fromarray(make_picture(12, 15)).quantize(16)
    np.testing.assert_array_equal(
        decode_photo(encoded(palette)).rgb, np.array(palette.convert("RGB"))
    )
    bits = gray.convert("1")
    np.testing.assert_array_equal(decode_photo(encoded(bits)).rgb, np.array(bits.convert("RGB")))


@pytest.mark.parametrize("factor", [256, 257])
def test_sixteen_bits_are_scaled_to_eight(make_picture: Any, factor: int) -> None:
    levels = make_picture(12, 15)[..., 0]
    wide = Image.fromarray(levels.astype(np.uint16) * factor)
    rgb = decode_photo(encoded(wide)).rgb
    np.testing.assert_array_equal(rgb[..., 1], levels)
    assert rgb.shape == (12, 15, 3)


def test_transparency_lies_over_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (200, 100, 0, 0)
    rgba[0, 2] = (0, 0, 0, 128)
    rgb = decode_photo(encoded(Image.fromarray(rgba))).rgb
    assert rgb[0, 0].tolist() == [10, 20, 30]
    assert rgb[0, 1].tolist() == [255, 255, 255]
    assert abs(int(rgb[0, 2, 0]) - 127) <= 1
    keyed = Image.new("P", (2, 1), 1)
    keyed.putpalette([0, 0, 0, 250, 0, 0])
    assert decode_photo(encoded(keyed, transparency=1)).rgb.tolist() == [[[255] * 3] * 2]


def test_cmyk_is_converted_and_loses_its_profile(make_picture: Any) -> None:
    cmyk = Image.fromarray(make_picture(16, 16)).convert("CMYK")
    profile = b"\0" * 16 + b"CMYK" + b"\0" * 200
    photo = decode_photo(encoded(cmyk, "JPEG", quality=95, icc_profile=profile))
    assert photo.icc_profile is None
    difference = np.abs(photo.rgb.astype(int) - make_picture(16, 16))
    assert difference.mean() < 6


def test_rgb_profile_survives_a_round_trip(make_picture: Any) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = make_picture(8, 9)
    data = encode_png(rgb, icc_profile=profile)
    photo = decode_photo(data)
    assert photo.icc_profile == profile
    np.testing.assert_array_equal(photo.rgb, rgb)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_and_mask_are_turned_alike(orientation: int) -> None:
    stored = np.zeros((10, 16), np.uint8)
    stored[1:4, 2:12] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(stored), exif=exif)
    upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode_photo(data).rgb[..., 0], upright)
    np.testing.assert_array_equal(decode_mask(data, size=upright.shape).mask, upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_leaves_the_picture_as_stored(make_picture: Any) -> None:
    data = encoded(
        Image.fromarray(make_picture(8, 8)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"
    )
    assert decode_photo(data).rgb.shape == (8, 8, 3)


def test_min_side_decodes_jpeg_smaller_but_never_too_small(make_picture: Any) -> None:
    data = encoded(Image.fromarray(make_picture(400, 640)), "JPEG", quality=95)
    small = decode_photo(data, min_side=48).rgb
    assert small.shape == (100, 160, 3)
    assert decode_photo(data, min_side=300).rgb.shape == (400, 640, 3)
    import cv2

    reference = cv2.resize(decode_photo(data).rgb, (160, 100), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - reference).mean() < 2


def test_mask_is_thresholded_and_noted() -> None:
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    reading = decode_mask(encoded(Image.fromarray(levels)))
    assert reading.mask.tolist() == [[0, 0, 255, 255]]
    assert "2 of 4" in reading.notes[0]


def test_clean_mask_has_no_notes() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 2:4] = 255
    reading = decode_mask(encoded(Image.fromarray(mask)), size=(8, 8))
    assert reading.notes == ()
    np.testing.assert_array_equal(reading.mask, mask)


def test_jpeg_mask_is_read_and_noted() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 10:50] = 255
    reading = decode_mask(encoded(Image.fromarray(mask), "JPEG", quality=60))
    assert (reading.mask != mask).mean() < 0.01
    assert set(np.unique(reading.mask)) == {0, 255}
    assert "JPEG" in reading.notes[0]


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (np.zeros((8, 8), np.uint8), "no hole"),
        (np.full((8, 8), 255, np.uint8), "everything"),
        (np.pad(np.zeros((4, 4), np.uint8), 4, constant_values=255), "inverted"),
        (np.pad(np.ones((4, 4), np.uint8), 4), "0 and 1"),
    ],
)
def test_likely_mistakes_are_noted(mask: np.ndarray, word: str) -> None:
    assert word in " ".join(decode_mask(encoded(Image.fromarray(mask))).notes)


def test_big_object_is_not_called_inverted() -> None:
    mask = np.pad(np.full((30, 30), 255, np.uint8), 1)
    assert decode_mask(encoded(Image.fromarray(mask))).notes == ()


def test_mask_with_transparency_is_its_alpha_channel() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[1, 1:3] = (30, 0, 0, 255)  # a dark red stroke on an empty layer
    reading = decode_mask(encoded(Image.fromarray(rgba)))
    assert reading.mask.tolist() == [[0] * 4, [0, 255, 255, 0], [0] * 4, [0] * 4]
    assert "alpha" in reading.notes[0]


def test_mask_with_opaque_alpha_is_its_luminance() -> None:
    gray = np.array([[0, 255], [255, 0]], np.uint8)
    rgba = np.dstack([gray, gray, gray, np.full_like(gray, 255)])
    np.testing.assert_array_equal(decode_mask(encoded(Image.fromarray(rgba))).mask, gray)


def test_mask_of_another_size_names_both() -> None:
    with pytest.raises(ImageError, match=r"5x4 .* 8x6") as error:
        decode_mask(encoded(Image.new("L", (5, 4))), size=(6, 8))
    assert error.value.code == "size_mismatch"


def test_png_round_trip_is_exact() -> None:
    rng = np.random.default_rng(0)
    for shape in [(1, 1, 3), (7, 5, 3), (7, 5), (64, 64, 3)]:
        array = rng.integers(0, 256, shape, dtype=np.uint8)
        np.testing.assert_array_equal(decode_png(encode_png(array)), array)


@pytest.mark.parametrize("data", [b"", b"nonsense", encode_png(np.zeros((9, 9), np.uint8))[:40]])
def test_decode_png_refuses_damage(data: bytes) -> None:
    with pytest.raises(ImageError, match="PNG"):
        decode_png(data)


def test_encode_png_refuses_other_arrays() -> None:
    for array in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(ValueError, match="need uint8"):
            encode_png(array)


def test_float_conversion_round_trips_every_level() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    planes = to_nchw(levels)
    assert planes.shape == (1, 3, 16, 16)
    assert planes.dtype == np.float32
    assert planes.min() == 0
    assert planes.max() == 1
    np.testing.assert_array_equal(to_uint8(planes), levels)
    assert to_nchw(levels[..., 0]).shape == (1, 1, 16, 16)


def test_to_uint8_rounds_and_clips() -> None:
    planes = np.array([-0.5, 0.4 / 255, 0.6 / 255, 1.7], np.float32).reshape(1, 1, 1, 4)
    assert to_uint8(planes).ravel().tolist() == [0, 0, 1, 255]
