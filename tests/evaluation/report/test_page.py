"""The page: its numbers, what it escapes, and a real browser looking at it without a network."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from skimage.metrics import peak_signal_noise_ratio

from rayfill.evaluation.report import html
from rayfill.evaluation.report.contents import Comparison, Run
from rayfill.evaluation.report.found import Asked, FoundRun, Unranked
from rayfill.evaluation.report.gather import gather
from rayfill.evaluation.report.sweep import report_sweep, sweep_comparison
from rayfill.evaluation.report.write import report_files
from rayfill.runs.folder import RunFolder
from rayfill.runs.job import make_job
from rayfill.runs.sweep_folder import SweepFolder
from rayfill_data.codec import decode_png

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


class Cells(HTMLParser):
    """The rows of every table, and every picture with its caption."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[tuple[str, str]] = []
        self.captions: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.pictures.append((dict(attrs)["alt"], dict(attrs)["src"]))
        if tag == "figcaption":
            self.captions.append("")
        self._open = tag if tag != "b" else self._open

    def handle_data(self, data: str) -> None:
        if self._open in ("td", "th") and self.rows:
            self.rows[-1][-1] += data
        if self._open == "figcaption":
            self.captions[-1] += f" {data}"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "figcaption"):
            self._open = ""


@pytest.fixture
def whole(recorded: Any) -> Comparison:
    folders = [
        FoundRun(
            folder=RunFolder(str(recorded.sweep / n)),
            name=n,
            label=n,
            sweep=SweepFolder(str(recorded.sweep)),
        )
        for n in recorded.run_ids
    ]
    (found,) = gather(Asked(runs=folders, whole=[SweepFolder(str(recorded.sweep))]))
    return found


@pytest.fixture
def evil(whole: Comparison) -> Comparison:
    """The same with markup in everything that a user may choose."""
    old = next(iter(whole.runs))
    board = dataclasses.replace(
        whole.board,
        title=EVIL,
        entries=[
            dataclasses.replace(e, name=EVIL if e.name == old else e.name)
            for e in whole.board.entries
        ],
        notes=[EVIL],
        protocol={**whole.board.protocol, "dataset": EVIL},
    )
    runs = {EVIL if name == old else name: run for name, run in whole.runs.items()}
    changed = dataclasses.replace(runs[EVIL], name=EVIL, run_id=EVIL, params={"loss.terms": EVIL})
    return dataclasses.replace(
        whole,
        board=board,
        runs={**runs, EVIL: changed},
        measured={EVIL if n == old else n: m for n, m in whole.measured.items()},
        sample_id=whole.sample_id,
        unranked=[Unranked(name=EVIL, reason=EVIL)],
    )


def read(page: str) -> Cells:
    parser = Cells()
    parser.feed(page)
    return parser


def test_the_numbers_are_those_of_scikit_image_on_the_pictures_of_the_page(
    whole: Comparison, recorded: Any
) -> None:
    arrays = recorded.arrays
    page = report_files(whole, arrays=arrays, samples=2)["report.html"].decode()
    found = read(page)
    samples = re.findall(r'class="soft">(test-\d+)</p>', page)
    per_sample = len(whole.board.entries) + 2
    assert len(found.pictures) == len(samples) * per_sample == 6 * per_sample
    for place, ((title, source), text) in enumerate(
        zip(found.pictures, found.captions, strict=True)
    ):
        if title in ("input", "true picture"):
            continue
        index = arrays.sample_id.index(samples[place // per_sample])
        picture = decode_png(base64.b64decode(source.partition(",")[2]))
        inside = arrays.hole_mask[index] > 0
        own = peak_signal_noise_ratio(arrays.target[index][inside], picture[inside], data_range=255)
        assert " ".join(text.split()) == f"{title} {own:.2f} dB"
    for entry in whole.board.entries:
        row = next(row for row in found.rows if len(row) > 5 and row[1] == entry.name)
        values = whole.measured[entry.name].values
        for column, metric in ((5, "hole_psnr"), (7, "psnr")):
            mean, std = row[column].split(" ±")
            assert float(mean) == pytest.approx(np.mean(values[metric]), abs=0.0051)
            assert float(std) == pytest.approx(np.std(values[metric]), abs=0.051)


def test_a_page_has_every_system_and_refers_to_nothing_outside(
    whole: Comparison, recorded: Any
) -> None:
    page = report_files(whole, arrays=recorded.arrays, samples=1)["report.html"].decode()
    for entry in whole.board.entries:
        assert page.count(entry.name) > 3
    assert "a note" in page
    sources = re.findall(r'(?:src|href|xlink:href)="([^"]*)"', page)
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= set(re.findall(r"url\((#[^)]*)\)", page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'(?:href="|url\()#([^")]*)', page):
        assert used in ids


def test_what_users_write_is_shown_and_never_run(evil: Comparison) -> None:
    page = html.page(evil, sheets=[])
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") > 6


def test_without_pictures_and_runs_the_page_is_still_whole(whole: Comparison) -> None:
    page = html.page(dataclasses.replace(whole, runs={}), sheets=[])
    assert "Leaderboard" in page
    assert page.rstrip().endswith("</html>")
    assert "<img" not in page


def test_large_pictures_are_reduced_and_small_ones_kept() -> None:
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    kind, _, content = html._data_uri(small).partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(decode_png(base64.b64decode(content)), small)
    large = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    kind, _, content = html._data_uri(large).partition(",")
    assert kind == "data:image/jpeg;base64"
    assert len(content) < 64 * 1024


class Parent:
    """Stands for the tracker of a sweep's run."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def text(self, content: str, artifact: str) -> None:
        self.kept[artifact] = content


def end_sweep(recorded: Any, own_sweep: Path) -> tuple[Parent, str]:
    from rayfill.evaluation.report.results import read_config

    jobs = []
    for name in recorded.run_ids:
        folder = FoundRun(folder=RunFolder(str(own_sweep / name)), name=name)
        config = html_config(read_config(folder), own_sweep)
        jobs.append(make_job(config, group=own_sweep.name))
    parent, console = Parent(), Console(record=True, width=200)
    report_sweep(
        recorded.board, jobs=jobs, measured=recorded.measured, arrays=recorded.arrays,
        outcomes={}, parent=parent, console=console,  # type: ignore[arg-type]
    )  # fmt: skip
    return parent, console.export_text()


def html_config(values: Any, sweep: Path) -> Any:
    from rayfill.config.run import RunConfig, from_dict

    return dataclasses.replace(from_dict(RunConfig, values), storage=str(sweep.parent))


def test_a_sweep_ends_with_what_compare_would_make(
    recorded: Any, own_sweep: Path, whole: Comparison
) -> None:
    parent, shown = end_sweep(recorded, own_sweep)
    page = own_sweep / "report" / "report.html"
    assert f"Report: {page}" in shown
    assert parent.kept["report.html"] == page.read_text()
    ours, theirs = read(page.read_text()), read(html_of(whole, recorded))
    assert ours.captions == theirs.captions
    assert ours.pictures == theirs.pictures
    numbers = len(whole.board.entries) + 1
    assert [row[4:] for row in ours.rows[:numbers]] == [row[4:] for row in theirs.rows[:numbers]]


def html_of(whole: Comparison, recorded: Any) -> str:
    return report_files(whole, arrays=recorded.arrays)["report.html"].decode()


def test_a_report_that_fails_costs_nothing_but_itself(
    recorded: Any, own_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> str:
        raise ValueError("no such font")

    monkeypatch.setattr("rayfill.evaluation.report.html.page", broken)
    parent, shown = end_sweep(recorded, own_sweep)
    assert parent.kept == {}
    assert "The report was not made (ValueError: no such font)" in shown
    assert f"rayfill compare {own_sweep}" in shown


def test_a_trial_that_was_not_validated_is_listed(recorded: Any, own_sweep: Path) -> None:
    from rayfill.evaluation.report.results import read_config
    from rayfill.runs.folder import Outcome, RunFolder

    name = next(iter(recorded.run_ids))
    config = read_config(FoundRun(folder=RunFolder(str(own_sweep / name)), name=name))
    found = sweep_comparison(
        recorded.board,
        jobs=[make_job(html_config(config, own_sweep), group="nets")],
        measured=recorded.measured,
        arrays=recorded.arrays,
        outcomes={
            name: Outcome(status="finished", epoch=3),
            "09": Outcome(status="failed", epoch=0, reason="no memory"),
        },
    )
    assert [(run.name, run.reason) for run in found.unranked] == [("09", "failed: no memory")]
    assert isinstance(found.runs[name], Run)


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)")
def test_in_a_browser_on_a_desk_a_phone_and_paper(
    browser: Any, evil: Comparison, recorded: Any, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(report_files(evil, arrays=recorded.arrays, samples=1)["report.html"])
    grounds = {}
    for width, scheme in ((1280, "light"), (390, "dark")):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        page, asked, complaints = context.new_page(), [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, seen=complaints: seen.append(str(error)))
        page.on("console", lambda line, seen=complaints: seen.append(line.text))
        page.goto(file.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        assert complaints == []
        assert page.title().startswith("<script>")
        text = page.inner_text("main")
        for entry in evil.board.entries:
            assert entry.name in text
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        whole = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert page.evaluate(whole)
        assert page.locator("figure.plot svg").count() == 4
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        context.close()
    assert grounds["light"] == "rgb(255, 255, 255)"
    assert grounds["dark"] != grounds["light"]
