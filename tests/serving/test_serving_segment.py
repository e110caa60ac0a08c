"""What /api/v1/segment answers, to clicks and to what is no click."""

from __future__ import annotations

import base64
import copy
import json
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.ndimage import label as components

from rayfill_data.codec import to_nchw
from rayfill_serving.models import ModelShelf


def middle(truth: np.ndarray, label: int) -> list[int]:
    """Return x and y of the middle of an object, and 1."""
    lines, columns = (truth == label).nonzero()
    return [int(columns.mean()), int(lines.mean()), 1]


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return intersection over union."""
    return float(((mask > 0) & truth).sum() / ((mask > 0) | truth).sum())


@pytest.fixture
def scene(pictures: Any) -> tuple[np.ndarray, np.ndarray]:
    return pictures.scene()


@pytest.fixture
def good(pictures: Any, scene: Any) -> tuple[bytes, list[list[int]]]:
    return pictures.encode(scene[0]), [middle(scene[1], 1)]


@pytest.mark.parametrize(("label", "name"), [(1, "red%20car"), (2, "blue%20boat")])
@pytest.mark.parametrize("seed", range(3))
def test_a_click_finds_its_object(
    joint_server: Any, pictures: Any, label: int, name: str, seed: int
) -> None:
    photo, truth = pictures.scene(seed=seed)
    answer = joint_server.segment(pictures.encode(photo), [middle(truth, label)])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-found"] == "1"
    assert answer.headers["x-label"] == name
    assert answer.headers["x-model"] == "rayfill/1"
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
    x, y, _ = middle(truth, 1)
    answer = joint_server.segment(pictures.encode(photo), [[x, y, 1]])
    np.testing.assert_array_equal(pictures.decode(answer.content) > 0, regions == regions[y, x])


def test_clicks_add_and_exclude(joint_server: Any, pictures: Any, scene: Any) -> None:
    photo, truth = scene
    car, boat = middle(truth, 1), middle(truth, 2)
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
    answer = joint_server.segment(pictures.encode(stored, "PNG", exif=exif), [middle(truth, 2)])
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


def test_the_side_is_that_of_training_unless_another_is_asked_for(joint: Any) -> None:
    for protocol, asked, side in (
        ({"size": "96x64"}, 0, 96),
        ({"size": "8x8"}, 0, 32),
        ({"size": "various"}, 0, 512),
        ({}, 0, 512),
        ({"size": "96x64"}, 256, 256),
    ):
        source = _Source(joint, protocol)
        shelf = ModelShelf(["rayfill"], source=source, poll_s=60, segment_side=asked)
        shelf.refresh()
        assert shelf.get_finder(None)[1].max_side == side


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


LIST = "clicks must be a list of 1 to 64"


@pytest.mark.parametrize(
    "clicks",
    [
        "",
        "hello",
        "null",
        "7",
        "{}",
        "[]",
        "[1, 2, 1]",
        "[[1, 2]]",
        "[[1, 2, 1, 1]]",
        "[[1, 2, 2]]",
        "[[1, 2, -1]]",
        "[[1, 2, 0.5]]",
        "[[1, 2, 0], [3, 4, 0]]",
        '[["1", 2, 1]]',
        "[[true, 2, 1]]",
        "[[1, 2, true]]",
        "[[null, 2, 1]]",
        "[[NaN, 2, 1]]",
        "[[1, Infinity, 1]]",
        "[[1e999, 2, 1]]",
        '[[1, 2, 1], {"a": 1, "a": 2}]',
        f"[[{'9' * 3000}, 2, 1]]",
        "[" * 2000 + "]" * 2000,
        json.dumps([[1, 1, 1]] * 65),
        "\x00",
    ],
)
def test_what_are_no_clicks_is_refused(joint_server: Any, good: Any, clicks: str) -> None:
    answer = joint_server.segment(good[0], clicks)
    code = "repeated_field" if '"a"' in clicks else "invalid_field"
    joint_server.check_refusal(answer, 422, code)
    if code == "invalid_field":
        assert LIST in answer.json()["error"]
    assert joint_server.segment(*good).status_code == 200


def test_a_huge_list_of_clicks_is_refused(joint_server: Any, good: Any) -> None:
    many = json.dumps([[1, 1, 1]] * 200_000)
    joint_server.check_refusal(joint_server.segment(good[0], many), 400, "malformed_body")
    document = f'{{"image": "{base64.b64encode(good[0]).decode()}", "clicks": {many}}}'
    headers = {"Content-Type": "application/json"}
    answer = joint_server.client.post("/api/v1/segment", content=document, headers=headers)
    joint_server.check_refusal(answer, 422, "invalid_field")
    assert joint_server.segment(*good).status_code == 200


def test_sixty_four_clicks_are_not_too_many(joint_server: Any, good: Any) -> None:
    x, y, _ = good[1][0]
    many = [[x + index / 1000, y + 0.123456789012345, 1] for index in range(64)]
    answer = joint_server.segment(good[0], many)
    assert answer.status_code == 200
    assert answer.content == joint_server.segment(*good).content


@pytest.mark.parametrize(
    "click", [[128, 5, 1], [5, 96, 1], [-0.5, 5, 1], [5, -1, 0], [1e308, 5, 1], [127, 4e9, 1]]
)
def test_a_click_outside_names_itself_and_the_size(
    joint_server: Any, good: Any, click: list[float]
) -> None:
    answer = joint_server.segment(good[0], [*good[1], click])
    joint_server.check_refusal(answer, 422, "click_outside")
    text = answer.json()["error"]
    assert f"[{click[0]:g}, {click[1]:g}]" in text
    assert "128x96" in text


def test_fields_are_refused_as_in_inpaint(joint_server: Any, good: Any) -> None:
    data, clicks = good
    check, segment = joint_server.check_refusal, joint_server.segment
    post, text = joint_server.client.post, {"clicks": json.dumps(clicks)}
    check(post("/api/v1/segment"), 422, "missing_field")
    check(post("/api/v1/segment", data=text), 415, "unsupported_content_type")
    check(segment(b"", clicks), 422, "missing_field")
    missing = post("/api/v1/segment", files={"image": data})
    check(missing, 422, "missing_field")
    assert "clicks" in missing.json()["error"]
    check(segment(data, clicks, mask="x"), 422, "unknown_field")
    check(segment(data, clicks, model="other"), 404, "unknown_model")
    as_file = post("/api/v1/segment", files={"image": data, "clicks": b"[[1, 1, 1]]"})
    check(as_file, 422, "invalid_field")
    twice = post("/api/v1/segment", files={"image": data}, data={"clicks": ["[]", "[]"]})
    check(twice, 422, "repeated_field")
    image = base64.b64encode(data).decode()
    check(post("/api/v1/segment", json={"image": image, **text}), 422, "invalid_field")
    check(segment(b"GIF89a", clicks), 415, "not_an_image")
    check(segment(data[: len(data) // 2], clicks), 400, "malformed")
    foreign = {"Origin": "https://evil.example"}
    answer = post("/api/v1/segment", files={"image": data}, data=text, headers=foreign)
    check(answer, 403, "foreign_origin")


def test_mutants_of_photos(joint_server: Any, pictures: Any) -> None:
    statuses = set()
    for mutant in pictures.mutants(300):
        answer = joint_server.segment(mutant, [[1, 1, 1]])
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.status_code in (400, 413, 415, 422), mutant
            joint_server.check_refusal(answer, answer.status_code, answer.json()["code"])
    assert statuses >= {200, 400, 415}


def test_without_a_segmenter_the_models_that_have_one_are_named(
    serving: Any, inpainter: Any, joint: Any, good: Any
) -> None:
    with serving({"plain": inpainter, "cars": joint}, models="plain,cars") as server:
        listed = server.client.get("/api/v1/models").json()
        assert [(model["name"], model["labels"]) for model in listed["models"]] == [
            ("plain", []),
            ("cars", ["red car", "blue boat"]),
        ]
        assert listed["limits"]["max_clicks"] == 64
        assert server.segment(*good).headers["x-model"] == "cars/1"  # the first that can
        answer = server.segment(*good, model="plain")
        server.check_refusal(answer, 422, "no_segmenter")
        assert "cars" in answer.json()["error"]
    with serving(inpainter) as server:
        answer = server.segment(*good)
        server.check_refusal(answer, 422, "no_segmenter")
        assert "none" in answer.json()["error"]
        assert server.client.get("/api/v1/models").json()["models"][0]["labels"] == []
    with serving(RuntimeError("not a model")) as server:
        server.check_refusal(server.segment(*good), 503, "no_model")


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_failing_segmenter_is_a_plain_500(
    serving: Any, joint: Any, pictures: Any, good: Any, fault: str
) -> None:
    broken = copy.deepcopy(joint)

    def fail(_: Any, arguments: tuple[Any, ...], output: Any) -> None:
        if arguments[0].mean() > 0.9:
            if fault == "raises":
                raise RuntimeError("secret /root/x 0xdead")
            output.logits.fill_(float("nan"))

    broken.model.segmenter.register_forward_hook(fail)
    bright = pictures.encode(np.full((96, 128, 3), 250, np.uint8))
    with serving(broken) as server:
        server.check_refusal(server.segment(bright, good[1]), 500, "model_failed")
        assert server.segment(*good).status_code == 200
        counters = server.client.get("/metrics").text
        assert 'rayfill_problems_total{code="model_failed"} 1.0' in counters
        assert 'path="/api/v1/segment",status="500"' in counters


def test_a_segmenter_that_answers_nan_never_gets_to_serve(
    serving: Any, joint: Any, good: Any
) -> None:
    broken = copy.deepcopy(joint)
    broken.model.segmenter.head.bias.data.fill_(float("nan"))
    with serving(broken) as server:
        server.check_refusal(server.segment(*good), 503, "no_model")


def test_finding_and_filling_share_their_places(serving: Any, joint: Any, good: Any) -> None:
    entered, go = threading.Event(), threading.Event()

    class Busy:
        model, device = joint.model, joint.device

        def inpaint(self, image: Any, mask: Any, **options: int) -> Any:
            if image.shape != (32, 32, 3):  # the shelf trying it out
                entered.set()
                assert go.wait(30)
            return image

    with serving(Busy(), threads=1, waiting=0) as server:
        filling = threading.Thread(target=server.inpaint, args=(good[0], good[0]))
        filling.start()
        try:
            assert entered.wait(30)
            refused = server.segment(*good)
        finally:
            go.set()
            filling.join()
        server.check_refusal(refused, 503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        while (answer := server.segment(*good)).status_code == 503:
            pass  # its thread is giving its place back
        assert answer.status_code == 200


def test_openapi_describes_the_clicks(joint_server: Any) -> None:
    document = joint_server.client.get("/openapi.json").json()
    about = document["paths"]["/api/v1/segment"]["post"]
    form, by_json = (
        about["requestBody"]["content"][kind]["schema"]
        for kind in ("multipart/form-data", "application/json")
    )
    for schema in (form, by_json):
        assert list(schema["properties"]) == ["image", "clicks", "model"]
        assert schema["required"] == ["image", "clicks"]
        assert schema["additionalProperties"] is False
    assert form["properties"]["clicks"]["contentMediaType"] == "application/json"
    assert by_json["properties"]["clicks"]["maxItems"] == 64
    assert {"X-Found", "X-Label"} <= about["responses"]["200"]["headers"].keys()


def _file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def _turned(array: np.ndarray, orientation: int) -> Image.Image:
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    turned = ImageOps.exif_transpose(image)
    assert turned is not None
    return turned


class _Source:
    """A registry of one model with a protocol."""

    def __init__(self, inpainter: Any, protocol: dict[str, str]) -> None:
        self.inpainter = inpainter
        self.protocol = protocol

    def find(self, name: str) -> Any:
        from rayfill.registry import RegisteredModel

        return RegisteredModel(
            name=name,
            version="1",
            run_id="r",
            alias="champion",
            scores={},
            protocol=self.protocol,
            created_ms=1,
        )

    def load(self, model: Any) -> Any:
        return self.inpainter
