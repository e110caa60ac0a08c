"""What /api/v1/segment answers, to clicks and to what is no click."""

from __future__ import annotations

import base64
import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.ndimage import label as components

from rayfill_data.codec import to_nchw
from rayfill_serving.models import ModelShelf


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return intersection over union."""
    return float(((mask > 0) & truth).sum() / ((mask > 0) | truth).sum())


@pytest.fixture
def scene(pictures: Any) -> tuple[np.ndarray, np.ndarray]:
    return pictures.scene()


@pytest.fixture
def good(pictures: Any, scene: Any) -> tuple[bytes, list[list[int]]]:
    return pictures.encode(scene[0]), [pictures.click(scene[1], 1)]


@pytest.mark.parametrize(("label", "name"), [(1, "red%20car"), (2, "blue%20boat")])
@pytest.mark.parametrize("seed", range(3))
def test_a_click_finds_its_object(
    joint_server: Any, pictures: Any, label: int, name: str, seed: int
) -> None:
    photo, truth = pictures.scene(seed=seed)
    answer = joint_server.segment(pictures.encode(photo), [pictures.click(truth, label)])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-found"] == "1"
    assert answer.headers["x-label"] == name
    assert answer.headers["x-model"] == answer.headers["x-selector"] == "rayfill/1"
    assert answer.headers["x-run-id"] == "run-1"
    assert float(answer.headers["x-latency-ms"]) > 0
    mask = pictures.decode(answer.content)
    assert mask.shape == truth.shape
    assert set(np.unique(mask)) == {0, 255}
    assert overlap(mask, truth == label) > 0.95


def test_the_mask_is_the_region_that_scipy_finds_under_the_click(
    joint_server: Any, joint: Any, pictures: Any, scene: Any
) -> None:
    photo, truth = scene
    with torch.inference_mode():
        logits = joint.model.segment(torch.from_numpy(to_nchw(photo[None])))
    likely = logits.softmax(dim=1)[0, 1].numpy() > 0.5
    regions, _ = components(likely, structure=np.ones((3, 3)))
    x, y, _ = pictures.click(truth, 1)
    answer = joint_server.segment(pictures.encode(photo), [[x, y, 1]])
    np.testing.assert_array_equal(pictures.decode(answer.content) > 0, regions == regions[y, x])


def test_clicks_add_and_exclude(joint_server: Any, pictures: Any, scene: Any) -> None:
    photo, truth = scene
    car, boat = pictures.click(truth, 1), pictures.click(truth, 2)
    data = pictures.encode(photo)
    both = joint_server.segment(data, [car, boat])
    assert overlap(pictures.decode(both.content), truth > 0) > 0.95
    larger_first = ["red%20car", "blue%20boat"]
    if (truth == 2).sum() > (truth == 1).sum():
        larger_first.reverse()
    assert both.headers["x-label"] == ",".join(larger_first)
    without = joint_server.segment(data, [car, boat, [boat[0] + 1, boat[1], 0]])
    assert without.content == joint_server.segment(data, [car]).content
    assert without.headers["x-label"] == "red%20car"


def test_nothing_there_is_an_empty_mask(joint_server: Any, pictures: Any) -> None:
    gray = np.full((96, 128, 3), 128, np.uint8)
    answer = joint_server.segment(pictures.encode(gray), [[64, 48, 1]])
    assert answer.status_code == 200
    assert answer.headers["x-found"] == "0"
    assert "x-label" not in answer.headers
    np.testing.assert_array_equal(pictures.decode(answer.content), np.zeros((96, 128)))


def test_the_mask_fills_through_inpaint(joint_server: Any, pictures: Any, good: Any) -> None:
    mask = joint_server.segment(*good).content
    answer = joint_server.inpaint(good[0], mask)
    assert answer.status_code == 200
    changed = (pictures.decode(answer.content) != pictures.decode(good[0])).any(axis=2)
    assert changed.any()
    assert not changed[pictures.decode(mask) == 0].any()


def test_json_gives_the_same_bytes_as_a_form(joint_server: Any, good: Any) -> None:
    data, clicks = good
    document = {"image": base64.b64encode(data).decode(), "clicks": clicks, "model": "rayfill/1"}
    by_json = joint_server.client.post("/api/v1/segment", json=document)
    by_form = joint_server.segment(data, clicks, model="rayfill")
    assert by_json.status_code == by_form.status_code == 200
    assert by_json.content == by_form.content


@pytest.mark.parametrize("orientation", range(1, 9))
def test_clicks_are_on_the_photo_as_displayed(
    joint_server: Any, pictures: Any, scene: Any, orientation: int
) -> None:
    stored = Image.fromarray(scene[0])
    exif = stored.getexif()
    exif[0x0112] = orientation
    shown = ImageOps.exif_transpose(Image.open(_file(pictures.encode(stored, "PNG", exif=exif))))
    photo, truth = np.asarray(shown), np.asarray(_turned(scene[1], orientation))
    click = pictures.click(truth, 2)
    answer = joint_server.segment(pictures.encode(stored, "PNG", exif=exif), [click])
    mask = pictures.decode(answer.content)
    assert mask.shape == photo.shape[:2]
    assert overlap(mask, truth == 2) > 0.9


@pytest.mark.parametrize("side", [48, 128])
def test_a_large_photo_is_looked_at_scaled_down(
    serving: Any, joint: Any, pictures: Any, side: int
) -> None:
    photo, truth = pictures.scene()
    large = np.asarray(Image.fromarray(photo).resize((1001, 751), Image.Resampling.BICUBIC))
    meant = np.asarray(Image.fromarray(truth).resize((1001, 751), Image.Resampling.NEAREST)) == 1
    seen = []
    watched = copy.deepcopy(joint)
    watched.model.segmenter.register_forward_pre_hook(
        lambda _, arguments: seen.append(tuple(arguments[0].shape[-2:]))
    )
    with serving(watched, segment_side=side) as server:
        x, y = (int(axis.mean()) for axis in meant.nonzero()[::-1])
        answer = server.segment(pictures.encode(large), [[x, y, 1]])
    assert answer.headers["x-found"] == "1"
    assert seen[-1] == (round(751 * side / 1001), side)
    mask = pictures.decode(answer.content)
    assert mask.shape == (751, 1001)
    assert overlap(mask, meant) > 0.85


def test_the_side_is_that_of_training_unless_another_is_asked_for(
    static_source: Any, joint: Any
) -> None:
    for protocol, asked, side in (
        ({"size": "96x64"}, 0, 96),
        ({"size": "8x8"}, 0, 32),
        ({"size": "various"}, 0, 512),
        ({}, 0, 512),
        ({"size": "96x64"}, 256, 256),
    ):
        source = static_source(joint, protocol=protocol)
        shelf = ModelShelf(["rayfill"], source=source, poll_s=60, segment_side=asked)
        shelf.refresh()
        found = shelf.find_finder(None)
        assert found is not None
        assert found[1].max_side == side


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (17, 31)])
def test_any_size_is_answered_in_its_own(joint_server: Any, pictures: Any, size: Any) -> None:
    height, width = size
    answer = joint_server.segment(
        pictures.encode(pictures.photo(*size)), [[width - 0.001, height - 0.001, 1], [0, 0, 0]]
    )
    assert answer.status_code == 200
    assert pictures.decode(answer.content).shape == size


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_odd_photos_are_looked_at_as_displayed(
    joint_server: Any, pictures: Any, good: Any, mode: str
) -> None:
    image = Image.fromarray(pictures.decode(good[0])).convert(mode)
    odd = pictures.encode(image, "JPEG" if mode == "CMYK" else "PNG")
    shown = pictures.encode(Image.open(_file(odd)).convert("RGB"))
    answers = [joint_server.segment(data, good[1]) for data in (odd, shown)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content


def test_openapi_describes_the_clicks(joint_server: Any) -> None:
    document = joint_server.client.get("/openapi.json").json()
    about = document["paths"]["/api/v1/segment"]["post"]
    form, by_json = (
        about["requestBody"]["content"][kind]["schema"]
        for kind in ("multipart/form-data", "application/json")
    )
    for schema in (form, by_json):
        assert list(schema["properties"]) == ["image", "scribbles", "box", "clicks", "model"]
        assert schema["required"] == ["image"]
        assert schema["additionalProperties"] is False
    for name in ("clicks", "box"):
        assert form["properties"][name]["contentMediaType"] == "application/json"
    assert by_json["properties"]["clicks"]["maxItems"] == 64
    assert by_json["properties"]["scribbles"]["contentEncoding"] == "base64"
    assert {"X-Found", "X-Label", "X-Selector"} <= about["responses"]["200"]["headers"].keys()


def _file(data: bytes) -> Any:
    return io.BytesIO(data)


def _turned(array: np.ndarray, orientation: int) -> Image.Image:
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    turned = ImageOps.exif_transpose(image)
    assert turned is not None
    return turned
