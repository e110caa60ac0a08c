"""What /api/v1/inpaint and /api/v1/adjust_mask answer to good and odd requests."""

from __future__ import annotations

import base64
import io
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from rayfill.inference.baselines import BASELINES
from rayfill.inference.inpainter import Inpainter
from rayfill.metrics import removal_coherence
from rayfill_data.codec import to_nchw


@pytest.mark.parametrize("size", [(48, 64), (1, 1), (1, 5000), (5000, 1), (17, 31)])
def test_png_is_untouched_outside_the_mask(server: Any, pictures: Any, size: Any) -> None:
    photo = pictures.photo(*size)
    hole = pictures.hole(*size)
    answer = server.inpaint(pictures.encode(photo), pictures.encode(hole))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model"] == "rayfill/1"
    assert answer.headers["x-run-id"] == "run-1"
    assert float(answer.headers["x-latency-ms"]) > 0
    filled = pictures.decode(answer.content)
    assert filled.shape == photo.shape
    np.testing.assert_array_equal(filled[hole == 0], photo[hole == 0])


def test_hole_content_does_not_reach_the_answer(server: Any, pictures: Any) -> None:
    hole = pictures.hole()
    first, second = pictures.photo(), pictures.photo()
    second[hole > 0] = 255 - second[hole > 0]
    answers = [
        server.inpaint(pictures.encode(photo), pictures.encode(hole)).content
        for photo in (first, second)
    ]
    np.testing.assert_array_equal(*map(pictures.decode, answers))


def test_expand_px_lets_more_pixels_change(server: Any, pictures: Any) -> None:
    photo, hole = pictures.photo(), pictures.hole()
    answer = server.inpaint(pictures.encode(photo), pictures.encode(hole), expand_px="5")
    changed = (pictures.decode(answer.content) != photo).any(axis=2)
    disc = np.hypot(*np.mgrid[-5:6, -5:6]) <= 5
    grown = cv2.dilate(hole, disc.astype(np.uint8)) > 0
    assert not changed[~grown].any()
    assert changed[grown & (hole == 0)].any()


@pytest.mark.parametrize("expand_px", [0, 5])
def test_the_answer_says_how_well_the_hole_really_filled_goes_with_its_surroundings(
    server: Any, pictures: Any, expand_px: int
) -> None:
    photo, hole = pictures.scene()[0], pictures.hole(96, 128)
    files = pictures.encode(photo), pictures.encode(hole)
    answer = server.inpaint(*files, expand_px=str(expand_px))
    disc = np.hypot(*np.mgrid[-expand_px : expand_px + 1, -expand_px : expand_px + 1]) <= expand_px
    grown = cv2.dilate(hole, disc.astype(np.uint8)) > 0
    composite = torch.from_numpy(to_nchw(pictures.decode(answer.content)[None]))
    mask = torch.from_numpy(grown.astype(np.float32))[None, None]
    expected = float(removal_coherence(composite, mask))
    assert answer.headers["x-coherence"] == f"{expected:.3f}"


def test_without_a_hole_or_surroundings_there_is_no_coherence(server: Any, pictures: Any) -> None:
    photo = pictures.encode(pictures.photo())
    for level in (0, 255):
        mask = pictures.encode(np.full((48, 64), level, np.uint8))
        answer = server.inpaint(photo, mask)
        assert answer.status_code == 200
        assert "x-coherence" not in answer.headers


def test_an_empty_mask_changes_nothing_and_is_noted(server: Any, pictures: Any) -> None:
    photo = pictures.photo()
    answer = server.inpaint(pictures.encode(photo), pictures.encode(pictures.hole() * 0))
    assert answer.status_code == 200
    np.testing.assert_array_equal(pictures.decode(answer.content), photo)
    assert "no hole" in answer.headers["x-notes"]


def test_a_mask_of_holes_only_is_filled(server: Any, pictures: Any) -> None:
    photo = pictures.photo()
    answer = server.inpaint(
        pictures.encode(photo), pictures.encode(np.full((48, 64), 255, np.uint8))
    )
    assert answer.status_code == 200
    assert pictures.decode(answer.content).shape == photo.shape


def test_soft_masks_are_thresholded_at_128(server: Any, pictures: Any) -> None:
    photo, hole = pictures.photo(), pictures.hole()
    soft = np.where(hole > 0, 128, 127).astype(np.uint8)
    hard = server.inpaint(pictures.encode(photo), pictures.encode(hole))
    answer = server.inpaint(pictures.encode(photo), pictures.encode(soft))
    assert answer.content == hard.content
    assert "thresholded" in answer.headers["x-notes"]
    assert "x-notes" not in hard.headers


def test_a_mask_as_alpha_channel_is_read(server: Any, pictures: Any) -> None:
    photo, hole = pictures.photo(), pictures.hole()
    layer = np.dstack([np.zeros((48, 64, 3), np.uint8), hole])
    hard = server.inpaint(pictures.encode(photo), pictures.encode(hole))
    assert server.inpaint(pictures.encode(photo), pictures.encode(layer)).content == hard.content


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1"])
def test_png_modes_become_what_is_displayed(server: Any, pictures: Any, mode: str) -> None:
    gray = Image.fromarray(pictures.photo()[..., 0])
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    else:
        image = gray.convert(mode)
    answer = server.inpaint(pictures.encode(image), pictures.encode(pictures.hole()))
    assert answer.status_code == 200
    shown = np.asarray((gray if mode == "I;16" else image).convert("RGB"))
    known = pictures.hole() == 0
    np.testing.assert_array_equal(pictures.decode(answer.content)[known], shown[known])


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_photos_and_cmyk(server: Any, pictures: Any, form: str) -> None:
    image = Image.fromarray(pictures.photo())
    data = pictures.encode(image.convert("CMYK") if form == "JPEG" else image, form)
    answer = server.inpaint(data, pictures.encode(pictures.hole()))
    assert answer.status_code == 200
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    known = pictures.hole() == 0
    np.testing.assert_array_equal(pictures.decode(answer.content)[known], shown[known])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_and_a_mask_as_displayed(
    server: Any, pictures: Any, orientation: int
) -> None:
    stored = Image.fromarray(pictures.photo())
    exif = stored.getexif()
    exif[0x0112] = orientation
    data = pictures.encode(stored, "PNG", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    hole = pictures.hole(*shown.shape[:2])
    answer = server.inpaint(data, pictures.encode(hole))
    assert answer.status_code == 200
    filled = pictures.decode(answer.content)
    np.testing.assert_array_equal(filled[hole == 0], shown[hole == 0])
    assert Image.open(io.BytesIO(answer.content)).getexif() == {}


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_the_answer_has_the_format_and_colour_profile(
    server: Any, pictures: Any, form: str
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    smooth = np.full((48, 64, 3), (200, 120, 60), np.uint8)
    answer = server.inpaint(
        pictures.encode(smooth, icc_profile=profile), pictures.encode(pictures.hole()), format=form
    )
    assert answer.headers["content-type"] == f"image/{form}"
    image = Image.open(io.BytesIO(answer.content))
    assert image.format == form.upper()
    assert image.info["icc_profile"] == profile
    known = pictures.hole() == 0
    off = np.abs(pictures.decode(answer.content).astype(int) - smooth)[known]
    assert np.median(off) <= (0 if form == "png" else 4)


def test_json_gives_the_same_bytes_as_a_form(server: Any, pictures: Any) -> None:
    photo, hole = pictures.encode(pictures.photo()), pictures.encode(pictures.hole())
    document = {
        "image": base64.b64encode(photo).decode(),
        "mask": base64.b64encode(hole).decode(),
        "model": "rayfill/1",
        "feather_px": 2,
    }
    by_json = server.client.post("/api/v1/inpaint", json=document)
    by_form = server.inpaint(photo, hole, model="rayfill", feather_px="2")
    assert by_json.status_code == by_form.status_code == 200
    assert by_json.content == by_form.content


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, lambda m: m),
        ({"invert": "true"}, lambda m: 255 - m),
        (
            {"expand": "1"},
            lambda m: cv2.dilate(m, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))),
        ),
        (
            {"shrink": "1"},
            lambda m: cv2.erode(m, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))),
        ),
    ],
)
def test_adjust_mask(server: Any, pictures: Any, fields: dict[str, str], expected: Any) -> None:
    hole = pictures.hole()
    answer = server.client.post(
        "/api/v1/adjust_mask", files={"mask": ("m", pictures.encode(hole))}, data=fields
    )
    assert answer.status_code == 200
    np.testing.assert_array_equal(pictures.decode(answer.content), expected(hole))


def test_models_lists_finite_scores_and_limits(server: Any) -> None:
    answer = server.client.get("/api/v1/models").json()
    assert [(model["name"], model["version"]) for model in answer["models"]] == [("rayfill", "1")]
    assert answer["models"][0]["scores"] == {"hole_psnr": 24.5, "hole_ssim": 0.81, "iou": 0.8}
    assert answer["limits"]["max_body_bytes"] == 20 * 2**20


def test_small_addresses(server: Any) -> None:
    assert server.client.get("/healthz").json() == {"status": "ok"}
    assert server.client.get("/readyz").json() == {"status": "ready"}
    assert server.client.get("/version").json()["api"] == "v1"
    counters = server.client.get("/metrics").text
    assert 'rayfill_http_requests_total{method="GET",path="/healthz",status="200"} ' in counters


def test_pages_use_nothing_from_elsewhere(server: Any) -> None:
    for path in ("/", "/docs", "/static/main.js", "/static/style.css"):
        answer = server.client.get(path)
        assert answer.status_code == 200
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_model_says_what_it_is_and_other_tries_are_other_fills(
    serving: Any, pictures: Any
) -> None:
    photo, mask = pictures.encode(pictures.photo()), pictures.encode(pictures.hole())
    with serving(Inpainter(BASELINES["exemplar"], name="exemplar"), models="exemplar") as server:
        (model,) = server.client.get("/api/v1/models").json()["models"]
        assert (model["title"], model["variants"]) == ("Patches", 4)
        assert "sharp" in model["about"]
        fills = [server.inpaint(photo, mask, variant=str(number)).content for number in range(4)]
        assert server.inpaint(photo, mask).content == fills[0]
        assert len(set(fills)) > 1
        refused = server.inpaint(photo, mask, variant="4")
        assert refused.status_code == 422
        assert "variant must be" in refused.json()["error"]


def test_openapi_names_every_field(server: Any) -> None:
    document = server.client.get("/openapi.json").json()
    body = document["paths"]["/api/v1/inpaint"]["post"]["requestBody"]["content"]
    for kind in ("multipart/form-data", "application/json"):
        schema = body[kind]["schema"]
        assert list(schema["properties"]) == [
            "image",
            "mask",
            "model",
            "expand_px",
            "feather_px",
            "variant",
            "format",
        ]
        assert schema["required"] == ["image", "mask"]
        assert schema["additionalProperties"] is False
    done = document["paths"]["/api/v1/inpaint"]["post"]["responses"]["200"]
    assert "Absent where" in done["headers"]["X-Coherence"]["description"]
