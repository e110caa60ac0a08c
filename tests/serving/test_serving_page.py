"""The page in a real browser: pick, paint, remove, compare, start over."""

from __future__ import annotations

import functools
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayfill.inference.baselines import BASELINES
from rayfill.inference.inpainter import Inpainter

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]


@pytest.fixture
def page(tab: Any, server: Any) -> Any:
    tab.goto(f"http://127.0.0.1:{server.port}/")
    return tab


@pytest.fixture
def finding(tab: Any, joint_server: Any, scene_file: Path) -> Any:
    """The page of a server with a segmenter, a scene open and the select tool in hand."""
    tab.goto(f"http://127.0.0.1:{joint_server.port}/")
    open_photo(tab, scene_file)
    tab.click("#select")
    return tab


@pytest.fixture
def scene_file(pictures: Any, tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    path.write_bytes(pictures.encode(pictures.scene()[0]))
    return path


@pytest.fixture
def photo_file(pictures: Any, tmp_path: Path) -> Path:
    path = tmp_path / "my photo.png"
    path.write_bytes(pictures.encode(pictures.photo(96, 128)))
    return path


def open_photo(page: Any, path: Path) -> None:
    page.set_input_files("#file", str(path))
    page.wait_for_selector("body[data-step=paint]")


def drag(page: Any, *points: tuple[float, float]) -> None:
    """Draw over the stage; points are fractions of it."""
    box = page.locator("#stage").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def place(page: Any, x: float, y: float) -> tuple[float, float]:
    """Return where on the screen a place of the photo, in its own pixels, is."""
    left, top, scale = page.evaluate(
        "(() => { const box = photo.getBoundingClientRect();"
        " return [box.left, box.top, box.width / photo.width]; })()"
    )
    return left + scale * x, top + scale * y


def click_on(page: Any, truth: np.ndarray, **options: Any) -> None:
    """Click in the middle of an object and wait for the answer."""
    lines, columns = truth.nonzero()
    page.mouse.click(*place(page, columns.mean(), lines.mean()), **options)
    page.wait_for_selector(".spot", state="detached")


def save_mask(page: Any) -> np.ndarray:
    with page.expect_download() as download:
        page.click("#mask-save")
    return np.array(Image.open(download.value.path()).convert("L"))


def test_the_whole_way(page: Any, photo_file: Path, complaints: list[str], pictures: Any) -> None:
    assert page.title().startswith("Rayfill")
    open_photo(page, photo_file)
    assert "rayfill" in page.inner_text("#model")
    assert "24.5 dB" in page.inner_text("#scores")
    drag(page, (0.45, 0.5), (0.55, 0.5))
    page.evaluate("document.getElementById('expand').value = 0")
    mask = save_mask(page)
    assert mask.shape == (96, 128)
    assert set(np.unique(mask)) == {0, 255}
    page.click("#run")
    page.wait_for_selector("body[data-step=result]")
    assert page.is_hidden("#notice"), page.inner_text("#notice")
    assert "rayfill/1" in page.inner_text("#facts")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "my photo-rayfill.png"
    filled = np.array(Image.open(download.value.path()))
    original = pictures.photo(96, 128)
    np.testing.assert_array_equal(filled[mask == 0], original[mask == 0])
    assert (filled[mask > 0] != original[mask > 0]).any()

    drag(page, (0.5, 0.5), (0.4, 0.5))  # the compare slider
    clip = page.evaluate("document.getElementById('result').style.clipPath")
    assert clip.startswith("inset(")
    page.click("#back")
    page.wait_for_selector("body[data-step=paint]")
    np.testing.assert_array_equal(save_mask(page), mask)
    page.click(".when-paint .again")
    page.wait_for_selector("body[data-step=pick]")
    assert complaints == []


def test_a_model_is_named_in_plain_words_and_tries_again(
    tab: Any, serving: Any, photo_file: Path
) -> None:
    exemplar = Inpainter(BASELINES["exemplar"], name="exemplar")
    with serving(exemplar, models="exemplar") as server:
        tab.goto(f"http://127.0.0.1:{server.port}/")
        open_photo(tab, photo_file)
        assert "Patches (exemplar" in tab.inner_text("#model")
        assert "sharp" in tab.inner_text("#about")
        drag(tab, (0.3, 0.5), (0.7, 0.5))
        shown = []
        for button in ("#run", "#another", "#another", "#another", "#another"):
            before = tab.get_attribute("#download", "href")
            tab.click(button)
            tab.wait_for_function(
                "before => document.getElementById('download').href !== before", arg=before
            )
            tab.wait_for_selector("#working", state="hidden")
            with tab.expect_download() as download:
                tab.click("#download")
            shown.append(Path(download.value.path()).read_bytes())
    assert len(set(shown[:4])) > 1
    assert shown[4] == shown[0]  # after four tries the first comes back


def _answer(route: Any, _request: Any, **planned: Any) -> None:
    route.fulfill(**planned)


def test_a_word_says_how_well_the_result_blends_in(
    page: Any, scene_file: Path, complaints: list[str]
) -> None:
    open_photo(page, scene_file)
    drag(page, (0.45, 0.5), (0.55, 0.5))
    with page.expect_response("**/api/v1/inpaint") as answered:
        page.click("#run")
    page.wait_for_selector("body[data-step=result]")
    measured = f"{float(answered.value.headers['x-coherence']):.2f}"
    assert f"Coherence {measured}" in page.get_attribute("#blend", "title")
    for coherence, word in {
        "0.549": "Blends in well",
        "0.550": "Blends in fairly well",
        "0.600": "Look closely: it may show",
        "": "",
    }.items():
        headers = {"Content-Type": "image/png"}
        headers |= {"X-Coherence": coherence} if coherence else {}
        answer = functools.partial(_answer, path=scene_file, headers=headers)
        page.route("**/api/v1/inpaint", answer)
        page.click("#back")
        page.click("#run")
        page.wait_for_selector("body[data-step=result]")
        assert page.is_visible("#blend") == bool(word)
        assert not word or page.inner_text("#blend") == word
    assert complaints == []


def test_undo_redo_erase_clear_and_invert(page: Any, photo_file: Path) -> None:
    open_photo(page, photo_file)
    drag(page, (0.4, 0.4), (0.6, 0.4))
    first = save_mask(page)
    drag(page, (0.4, 0.6), (0.6, 0.6))
    second = save_mask(page)
    assert second.sum() > first.sum() > 0
    page.click("#undo")
    np.testing.assert_array_equal(save_mask(page), first)
    page.keyboard.press("Control+Shift+Z")
    np.testing.assert_array_equal(save_mask(page), second)
    page.keyboard.press("e")
    drag(page, (0.3, 0.6), (0.7, 0.6))
    erased = save_mask(page)
    assert first.sum() <= erased.sum() < second.sum()
    page.keyboard.press("Control+z")
    page.click("#invert")
    np.testing.assert_array_equal(save_mask(page), 255 - second)
    page.click("#clear")
    assert save_mask(page).sum() == 0
    page.click("#run")
    assert "Paint" in page.inner_text("#notice")
    page.click("#undo")
    page.click("#undo")
    np.testing.assert_array_equal(save_mask(page), second)


def test_the_bracket_keys_change_the_brush(page: Any, photo_file: Path) -> None:
    open_photo(page, photo_file)
    page.keyboard.press("]")
    larger = float(page.input_value("#size"))
    page.keyboard.press("[")
    page.keyboard.press("[")
    assert float(page.input_value("#size")) < larger


def test_a_mask_file_is_loaded_and_a_wrong_one_explained(
    page: Any, photo_file: Path, pictures: Any, tmp_path: Path
) -> None:
    open_photo(page, photo_file)
    right, wrong = tmp_path / "right.png", tmp_path / "wrong.png"
    right.write_bytes(pictures.encode(pictures.hole(96, 128)))
    wrong.write_bytes(pictures.encode(pictures.hole(20, 30)))
    page.set_input_files("#mask-file", str(right))
    page.wait_for_selector("#undo:enabled")
    np.testing.assert_array_equal(save_mask(page), pictures.hole(96, 128))
    page.set_input_files("#mask-file", str(wrong))
    page.wait_for_selector("#notice.bad")
    assert "30×20" in page.inner_text("#notice")
    assert "128×96" in page.inner_text("#notice")
    np.testing.assert_array_equal(save_mask(page), pictures.hole(96, 128))


def test_what_is_no_photo_is_explained(page: Any, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    page.set_input_files("#file", str(text))
    page.wait_for_selector("#notice.bad")
    assert "JPEG, PNG or WebP" in page.inner_text("#notice")
    assert page.get_attribute("body", "data-step") == "pick"


def test_server_troubles_are_explained(page: Any, photo_file: Path) -> None:
    open_photo(page, photo_file)
    drag(page, (0.45, 0.5), (0.55, 0.5))
    page.route("**/api/v1/inpaint", lambda route: route.abort())
    page.click("#run")
    page.wait_for_selector("#notice.bad")
    assert "cannot be reached" in page.inner_text("#notice")
    page.unroute("**/api/v1/inpaint")
    busy = {"status": 503, "json": {"error": "x", "code": "busy"}, "headers": {"Retry-After": "1"}}
    answers = iter([busy])

    def answer(route: Any) -> None:
        planned = next(answers, None)
        route.continue_() if planned is None else route.fulfill(**planned)

    page.route("**/api/v1/inpaint", answer)
    page.click("#run")  # refused once, then tried again by itself
    page.wait_for_selector("body[data-step=result]")


def test_a_turned_photo_is_painted_as_it_is_seen(page: Any, pictures: Any, tmp_path: Path) -> None:
    stored = Image.fromarray(pictures.photo(64, 96))
    exif = stored.getexif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(pictures.encode(stored, "JPEG", exif=exif))
    open_photo(page, path)
    assert page.evaluate("[photo.width, photo.height]") == [64, 96]
    drag(page, (0.45, 0.5), (0.55, 0.5))
    page.click("#run")
    page.wait_for_selector("body[data-step=result]")
    assert page.evaluate("[result.width, result.height]") == [64, 96]


def test_touch_on_a_phone(browser: Any, server: Any, photo_file: Path) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    open_photo(page, photo_file)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert save_mask(page).sum() > 0
    assert page.is_visible("#run")
    context.close()


def test_the_documentation_page(page: Any, server: Any, complaints: list[str]) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/docs")
    page.wait_for_selector("details")
    assert "/api/v1/inpaint" in page.inner_text("#operations")
    assert "expand_px" in page.inner_text("details")
    assert complaints == []


def test_pasting_a_picture(page: Any, photo_file: Path) -> None:
    data = list(io.BytesIO(photo_file.read_bytes()).getvalue())
    page.evaluate(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "p.png", { type: "image/png" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        data,
    )
    page.wait_for_selector("body[data-step=paint]")


def test_a_rectangle_covers_the_pixels_it_touches(page: Any, photo_file: Path) -> None:
    open_photo(page, photo_file)
    expected = np.zeros((96, 128), np.uint8)
    page.keyboard.press("r")
    assert page.get_attribute("#box", "aria-pressed") == "true"

    def box(*corners: tuple[float, float]) -> None:
        page.mouse.move(*place(page, *corners[0]))
        page.mouse.down()
        page.mouse.move(*place(page, *corners[1]), steps=4)
        assert page.is_visible("#marquee")
        page.mouse.up()
        assert page.is_hidden("#marquee")

    box((10.5, 20.5), (30.5, 40.5))
    expected[20:41, 10:31] = 255
    np.testing.assert_array_equal(save_mask(page), expected)
    box((131.5, 99.5), (100.5, 80.5))  # from outside the photo, towards its start
    expected[80:, 100:] = 255
    np.testing.assert_array_equal(save_mask(page), expected)
    page.mouse.click(*place(page, 60, 60))  # no drag, no rectangle
    np.testing.assert_array_equal(save_mask(page), expected)
    page.click("#take-out")
    box((15.5, 25.5), (19.5, 29.5))
    page.click("#add")
    page.keyboard.down("Shift")
    box((25.5, 25.5), (29.5, 29.5))
    page.keyboard.up("Shift")
    holed = expected.copy()
    holed[25:30, 15:20] = holed[25:30, 25:30] = 0
    np.testing.assert_array_equal(save_mask(page), holed)
    page.click("#undo")
    page.click("#undo")
    np.testing.assert_array_equal(save_mask(page), expected)
    page.click("#redo")
    page.click("#redo")
    np.testing.assert_array_equal(save_mask(page), holed)


def test_every_tool_has_its_key(page: Any, photo_file: Path) -> None:
    open_photo(page, photo_file)
    assert page.get_attribute("#brush", "aria-pressed") == "true"
    page.keyboard.press("s")
    assert page.get_attribute("#select", "aria-pressed") == "true"
    for id_, key in (("brush", "(B)"), ("eraser", "(E)"), ("box", "(R)"), ("select", "(S)")):
        assert key in page.get_attribute(f"#{id_}", "title")


def test_clicks_add_objects_and_take_them_out(
    finding: Any, pictures: Any, joint_server: Any, complaints: list[str]
) -> None:
    photo, truth = pictures.scene()
    assert "red car, blue boat" in finding.inner_text("#tool-hint")
    masks = {}
    for label in (1, 2):
        lines, columns = (truth == label).nonzero()
        click = [columns.mean(), lines.mean(), 1]
        answer = joint_server.segment(pictures.encode(photo), [click])
        masks[label] = pictures.decode(answer.content)
    click_on(finding, truth == 1)
    assert finding.inner_text("#notice") == "Added: red car."
    np.testing.assert_array_equal(save_mask(finding), masks[1])
    click_on(finding, truth == 2)
    np.testing.assert_array_equal(save_mask(finding), masks[1] | masks[2])
    finding.keyboard.press("Control+z")
    np.testing.assert_array_equal(save_mask(finding), masks[1])
    finding.keyboard.press("Control+y")
    for key, button in (("Shift", "left"), ("Alt", "left"), (None, "right")):
        if key:
            finding.keyboard.down(key)
        click_on(finding, truth == 1, button=button)
        if key:
            finding.keyboard.up(key)
        assert finding.inner_text("#notice") == "Taken out: red car."
        np.testing.assert_array_equal(save_mask(finding), masks[2])
        finding.click("#undo")
    finding.click("#run")
    finding.wait_for_selector("body[data-step=result]")
    assert complaints == []


def test_a_click_on_nothing_says_what_can_be_found(finding: Any) -> None:
    finding.mouse.click(*place(finding, 64.5, 1.5))
    finding.wait_for_selector("#notice:not([hidden])")
    assert "Nothing was found there" in finding.inner_text("#notice")
    assert "red car, blue boat" in finding.inner_text("#notice")
    assert finding.is_disabled("#undo")
    finding.mouse.click(*place(finding, 64, -3))  # beside the photo: no click at all
    assert finding.locator(".spot").count() == 0


@pytest.fixture
def selecting(page: Any, scene_file: Path) -> Any:
    """The page of a server without a segmenter, a scene open and the select tool in hand."""
    open_photo(page, scene_file)
    page.click("#select")
    return page


def drag_around(page: Any, truth: np.ndarray, *, slack: float = 3.25) -> list[float]:
    """Drag a rectangle around an object, wait for the answer and return the box."""
    lines, columns = truth.nonzero()
    box = [columns.min() - slack, lines.min() - slack, columns.max() + slack, lines.max() + slack]
    page.mouse.move(*place(page, *box[:2]))
    page.mouse.down()
    page.mouse.move(*place(page, *box[2:]), steps=4)
    assert page.is_visible("#marquee")
    page.mouse.up()
    assert page.is_hidden("#marquee")
    page.wait_for_selector(".spot", state="detached")
    return box


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return intersection over union."""
    return float(((mask > 0) & truth).sum() / ((mask > 0) | truth).sum())


def test_a_rectangle_around_a_thing_selects_it_without_a_segmenter(
    selecting: Any, pictures: Any, complaints: list[str]
) -> None:
    _, truth = pictures.scene()
    assert "Drag a rectangle around what should go" in selecting.inner_text("#tool-hint")
    assert "Clicks find" not in selecting.inner_text("#tool-hint")
    with selecting.expect_response("**/api/v1/segment") as answered:
        drag_around(selecting, truth == 1)
    assert answered.value.headers["x-selector"] == "grabcut"
    assert selecting.inner_text("#notice").startswith("Added. If it is not quite right")
    mask = save_mask(selecting)
    assert overlap(mask, truth == 1) > 0.9
    drag_around(selecting, truth == 2)
    both = save_mask(selecting)
    assert overlap(both, truth > 0) > 0.9
    selecting.keyboard.down("Shift")
    drag_around(selecting, truth == 2)
    selecting.keyboard.up("Shift")
    assert selecting.inner_text("#notice").startswith("Taken out.")
    np.testing.assert_array_equal(save_mask(selecting), mask)
    selecting.click("#undo")
    np.testing.assert_array_equal(save_mask(selecting), both)
    selecting.click("#run")
    selecting.wait_for_selector("body[data-step=result]")
    assert complaints == []


def test_a_click_selects_a_thing_without_a_segmenter(
    selecting: Any, pictures: Any, complaints: list[str]
) -> None:
    _, truth = pictures.scene()
    click_on(selecting, truth == 2)
    assert overlap(save_mask(selecting), truth == 2) > 0.9
    click_on(selecting, truth == 2, button="right")
    assert save_mask(selecting).sum() == 0
    assert complaints == []


def test_a_rectangle_is_cut_to_the_photo_and_one_beside_it_asks_nothing(
    selecting: Any, complaints: list[str]
) -> None:
    asked: list[str] = []
    selecting.on("request", lambda request: asked.append(request.url))

    def drag_box(*corners: tuple[float, float]) -> None:
        selecting.mouse.move(*place(selecting, *corners[0]))
        selecting.mouse.down()
        selecting.mouse.move(*place(selecting, *corners[1]), steps=4)
        selecting.mouse.up()

    drag_box((10, -3), (100, -1))
    assert not [url for url in asked if url.endswith("segment")]
    with selecting.expect_response("**/api/v1/segment") as answered:
        drag_box((131, 99), (40, 30))
    assert answered.value.status == 200
    assert complaints == []


def test_a_box_is_never_left_to_a_trained_segmenter(finding: Any, pictures: Any) -> None:
    _, truth = pictures.scene()
    with finding.expect_response("**/api/v1/segment") as answered:
        drag_around(finding, truth == 1)
    assert answered.value.headers["x-selector"] == "grabcut"
    with finding.expect_response("**/api/v1/segment") as answered:
        click_on(finding, truth == 1)
    assert answered.value.headers["x-selector"] == "rayfill/1"


def test_a_search_belongs_to_its_photo_and_remove_waits_for_it(
    finding: Any, pictures: Any, scene_file: Path
) -> None:
    _, truth = pictures.scene()
    lines, columns = (truth == 1).nonzero()
    held: list[Any] = []
    finding.route("**/api/v1/segment", lambda route: held.append(route))
    finding.mouse.click(*place(finding, columns.mean(), lines.mean()))
    finding.wait_for_selector(".spot")
    finding.click(".when-paint .again")
    finding.wait_for_selector(".spot", state="detached")
    open_photo(finding, scene_file)
    assert save_mask(finding).sum() == 0

    with finding.expect_request("**/api/v1/segment"):
        finding.mouse.click(*place(finding, columns.mean(), lines.mean()))
    finding.click("#run")
    assert finding.get_attribute("body", "data-step") == "paint"
    held[-1].continue_()
    finding.wait_for_selector("body[data-step=result]")


def test_a_search_that_fails_is_explained(finding: Any, pictures: Any) -> None:
    finding.route("**/api/v1/segment", lambda route: route.abort())
    click_on(finding, pictures.scene()[1] == 1)
    assert "cannot be reached" in finding.inner_text("#notice.bad")
    assert finding.is_disabled("#undo")


def test_selecting_by_touch(
    browser: Any, joint_server: Any, scene_file: Path, pictures: Any
) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    )
    phone = context.new_page()
    phone.goto(f"http://127.0.0.1:{joint_server.port}/")
    open_photo(phone, scene_file)
    phone.tap("#select")
    lines, columns = (pictures.scene()[1] == 2).nonzero()
    phone.touchscreen.tap(*place(phone, columns.mean(), lines.mean()))
    phone.wait_for_selector("#undo:enabled")
    assert save_mask(phone).sum() > 0
    phone.tap("#take-out")
    phone.touchscreen.tap(*place(phone, columns.mean(), lines.mean()))
    phone.wait_for_selector("#notice:has-text('Taken out: blue boat.')")
    assert save_mask(phone).sum() == 0
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
