"""What /api/v1/segment makes of boxes, clicks and scribbles without anything trained."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return intersection over union."""
    return float(((mask > 0) & truth).sum() / ((mask > 0) | truth).sum())


def box_of(truth: np.ndarray, slack: int = 3) -> list[int]:
    """Return a loose box around what is true."""
    lines, columns = truth.nonzero()
    height, width = truth.shape
    return [
        max(0, int(columns.min()) - slack),
        max(0, int(lines.min()) - slack),
        min(width, int(columns.max()) + 1 + slack),
        min(height, int(lines.max()) + 1 + slack),
    ]


@pytest.fixture
def scene(pictures: Any) -> tuple[bytes, np.ndarray]:
    photo, truth = pictures.scene()
    return pictures.encode(photo), truth


@pytest.mark.parametrize("label", [1, 2])
def test_a_box_finds_what_is_in_it(server: Any, pictures: Any, scene: Any, label: int) -> None:
    data, truth = scene
    answer = server.segment(data, box=box_of(truth == label))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-selector"] == answer.headers["x-model"] == "grabcut"
    assert answer.headers["x-found"] == "1"
    assert "x-label" not in answer.headers
    mask = pictures.decode(answer.content)
    assert mask.shape == truth.shape
    assert set(np.unique(mask)) == {0, 255}
    assert overlap(mask, truth == label) > 0.9


def test_a_click_and_scribbles_find_it_too(server: Any, pictures: Any, scene: Any) -> None:
    data, truth = scene
    click = pictures.click(truth, 1)
    answer = server.segment(data, [click])
    assert answer.headers["x-selector"] == "grabcut"
    assert overlap(pictures.decode(answer.content), truth == 1) > 0.9
    drawn = np.full(truth.shape, 128, np.uint8)
    drawn[click[1] - 2 : click[1] + 3, click[0] - 2 : click[0] + 3] = 255
    answer = server.segment(data, scribbles=pictures.encode(drawn))
    assert answer.headers["x-selector"] == "grabcut"
    assert overlap(pictures.decode(answer.content), truth == 1) > 0.9


def test_a_negative_click_leaves_its_object_out(server: Any, pictures: Any, scene: Any) -> None:
    data, truth = scene
    everything = box_of(truth > 0)
    car, boat = pictures.click(truth, 1), pictures.click(truth, 2)
    answer = server.segment(data, [car, [*boat[:2], 0]], box=everything)
    mask = pictures.decode(answer.content)
    assert mask[car[1], car[0]] == 255
    assert mask[boat[1], boat[0]] == 0
    assert overlap(mask, truth == 1) > 0.8


def test_json_gives_the_same_bytes_as_a_form(server: Any, pictures: Any, scene: Any) -> None:
    data, truth = scene
    drawn = pictures.encode(np.full(truth.shape, 128, np.uint8))
    fields = {"box": box_of(truth == 1), "clicks": [pictures.click(truth, 1)], "model": "grabcut"}
    files = {"image": data, "scribbles": drawn}
    document = {name: base64.b64encode(file).decode() for name, file in files.items()} | fields
    by_json = server.client.post("/api/v1/segment", json=document)
    by_form = server.segment(
        data, fields["clicks"], box=fields["box"], scribbles=drawn, model="grabcut"
    )
    assert by_json.status_code == by_form.status_code == 200
    assert by_json.content == by_form.content


@pytest.mark.parametrize(
    ("scores", "offered"),
    [
        ({"iou": 0.6}, True),
        ({"val_iou": 0.61}, True),
        ({"iou": 0.59, "val_iou": 0.9}, False),
        ({"val_iou": 0.3}, False),
        ({"iou": float("nan")}, False),
        ({"hole_psnr": 30.0}, False),
    ],
)
def test_a_segmenter_is_offered_where_its_masks_were_measured_to_be_good(
    serving: Any, joint: Any, pictures: Any, scene: Any, scores: dict[str, float], offered: bool
) -> None:
    data, truth = scene
    click = pictures.click(truth, 1)
    with serving(joint, facts={"scores": scores}) as server:
        (model,) = server.client.get("/api/v1/models").json()["models"]
        assert model["labels"] == (["red car", "blue boat"] if offered else [])
        answer = server.segment(data, [click])
        assert answer.headers["x-selector"] == ("rayfill/1" if offered else "grabcut")
        named = server.segment(data, [click], model="rayfill/1")
        if not offered:
            server.check_refusal(named, 422, "no_segmenter")
            assert "0.6" in named.json()["error"]
        by_box = server.segment(data, box=box_of(truth == 1))
        assert by_box.headers["x-selector"] == "grabcut"
        asked = server.segment(data, [click], model="grabcut")
        assert asked.headers["x-selector"] == "grabcut"


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ("", "invalid_field"),
        ("null", None),
        ("7", "invalid_field"),
        ("{}", "invalid_field"),
        ("[]", "invalid_field"),
        ("[1, 2, 30]", "invalid_field"),
        ("[1, 2, 30, 40, 50]", "invalid_field"),
        ("[[1, 2, 30, 40]]", "invalid_field"),
        ('["1", 2, 30, 40]', "invalid_field"),
        ("[true, 2, 30, 40]", "invalid_field"),
        ("[NaN, 2, 30, 40]", "invalid_field"),
        ("[1, 2, Infinity, 40]", "invalid_field"),
        ("[1, 2, 1e999, 40]", "invalid_field"),
        ("[-1, 2, 30, 40]", "box_outside"),
        ("[1, 2, 129, 40]", "box_outside"),
        ("[1, 2, 30, 97]", "box_outside"),
        ("[1e308, 2, 1e308, 40]", "box_outside"),
        ("[30, 2, 1, 40]", "box_outside"),
        ("[30, 2, 30, 40]", "box_outside"),
        ("[30, 2, 30.5, 40]", "box_outside"),
    ],
)
def test_what_is_no_box_is_refused(server: Any, scene: Any, box: str, code: str | None) -> None:
    data, truth = scene
    answer = server.segment(data, box=box)
    server.check_refusal(answer, 422, code or "nothing_marked")
    if code == "invalid_field":
        assert "box must be a list [left, top, right, bottom]" in answer.json()["error"]
    if code == "box_outside":
        assert "left, top, right, bottom" in answer.json()["error"]
    assert server.segment(data, box=box_of(truth == 1)).status_code == 200


def test_other_bad_requests(server: Any, joint_server: Any, pictures: Any, scene: Any) -> None:
    data, truth = scene
    check, box = server.check_refusal, box_of(truth == 1)
    small = pictures.encode(np.zeros((5, 7), np.uint8))
    answer = server.segment(data, box=box, scribbles=small)
    check(answer, 400, "size_mismatch")
    assert "128x96" in answer.json()["error"]
    assert "7x5" in answer.json()["error"]
    check(server.segment(data, box=box, scribbles=b"hello"), 415, "scribbles_not_an_image")
    check(server.segment(data, box=box, scribbles=data[:99]), 400, "scribbles_malformed")
    black = pictures.encode(np.zeros(truth.shape, np.uint8))
    check(server.segment(data, scribbles=black), 422, "nothing_marked")
    nothing = server.segment(data, box=box, scribbles=black)
    assert nothing.headers["x-found"] == "0"
    assert not pictures.decode(nothing.content).any()
    check(server.segment(data, [[500, 1, 0]], box=box), 422, "click_outside")
    check(server.segment(data, box=box, model="other"), 404, "unknown_model")
    check(joint_server.segment(data, box=box, model="rayfill"), 422, "clicks_alone")


def test_any_size_is_answered_in_its_own(server: Any, pictures: Any) -> None:
    for height, width in ((1, 1), (1, 900), (900, 1), (2, 2), (17, 31)):
        data = pictures.encode(pictures.photo(height, width))
        for marked in ({"box": [0, 0, width, height]}, {"clicks": [[width - 0.001, 0, 1]]}):
            answer = server.segment(data, **marked)
            assert answer.status_code == 200
            assert pictures.decode(answer.content).shape == (height, width)
