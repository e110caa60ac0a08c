"""What is no click, no photo or no segmenter is refused by /api/v1/segment; it then serves on."""

from __future__ import annotations

import base64
import copy
import json
import threading
from typing import Any

import numpy as np
import pytest

LIST = "clicks must be a list of up to 64"


@pytest.fixture
def good(pictures: Any) -> tuple[bytes, list[list[int]]]:
    photo, truth = pictures.scene()
    return pictures.encode(photo), [pictures.click(truth, 1)]


@pytest.mark.parametrize(
    "clicks",
    [
        "",
        "hello",
        "null",
        "7",
        "{}",
        "[1, 2, 1]",
        "[[1, 2]]",
        "[[1, 2, 1, 1]]",
        "[[1, 2, 2]]",
        "[[1, 2, -1]]",
        "[[1, 2, 0.5]]",
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
    for clicks_alone in (None, [], [[1, 2, 0], [3, 4, 0]]):
        nothing = segment(data, clicks_alone)
        check(nothing, 422, "nothing_marked")
        assert "a box, a click with a 1" in nothing.json()["error"]
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
    with serving(
        {"plain": inpainter, "cars": joint}, models="plain@champion,cars@champion"
    ) as server:
        listed = server.client.get("/api/v1/models").json()
        assert [(model["name"], model["labels"]) for model in listed["models"]] == [
            ("plain", []),
            ("cars", ["red car", "blue boat"]),
        ]
        assert listed["limits"]["max_clicks"] == 64
        assert server.segment(*good).headers["x-model"] == "cars/1"  # the first that can
        answer = server.segment(*good, model="plain")
        server.check_refusal(answer, 422, "no_segmenter")
        assert "cars, grabcut" in answer.json()["error"]
    with serving(inpainter) as server:
        assert server.segment(*good).headers["x-selector"] == "grabcut"
        server.check_refusal(server.segment(*good, model="rayfill"), 422, "no_segmenter")
        assert server.client.get("/api/v1/models").json()["models"][0]["labels"] == []
    with serving(RuntimeError("not a model")) as server:
        assert server.segment(*good).headers["x-selector"] == "grabcut"
        server.check_refusal(server.segment(*good, model="rayfill"), 503, "no_model")


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
        server.check_refusal(server.segment(*good, model="rayfill"), 503, "no_model")


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
