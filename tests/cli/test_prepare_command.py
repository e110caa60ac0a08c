"""`rayfill prepare`: flags of every source, one real run, and what is refused before Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import SOURCES

Cli = Callable[..., Any]


@pytest.fixture
def pictures(cli: Cli, make_picture: Callable[..., np.ndarray]) -> Path:
    folder = Path.cwd() / "pictures"
    folder.mkdir()
    for seed in range(4):
        Image.fromarray(make_picture(40, 48, seed=seed)).save(folder / f"{seed}.png")
    return folder


def prepare_folder(cli: Cli, root: Path, *more: Any, out: str = "out") -> Any:
    return cli("prepare", "folder", "--root", root, "--out", out, "--size", 32, *more)


def test_without_a_source_it_lists_them(cli: Cli) -> None:
    for args in ((), ("--help",)):
        done = cli("prepare", *args)
        assert done.status == 0
        for name, spec in SOURCES.items():
            assert name in done.out
            assert spec.summary in done.out


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_documents_its_flags(cli: Cli, source: str) -> None:
    done = cli("prepare", source, "--help")
    assert done.status == 0
    for flag in ("--out", "--seed", "--overwrite"):
        assert flag in done.out
    assert ("--size" in done.out) == (source != "test_set")  # whose samples stay as they are
    assert "--options" not in done.out


def test_a_folder_becomes_a_dataset_once(cli: Cli, pictures: Path, ray_local: None) -> None:
    done = prepare_folder(cli, pictures, "--seed", 3)
    assert done.status == 0, done.err
    dataset = PreparedDataset.open("out")
    assert (dataset.height, dataset.width) == (32, 32)
    assert dataset.manifest.seed == 3
    assert done.out == (
        "out: train 2 samples of 2 photos, val 1 samples of 1 photos, test 1 samples of 1 photos, "
        f"32x32. Content {dataset.content_hash[:12]}.\n"
    )
    made = {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    again = prepare_folder(cli, pictures, "--seed", 3)
    assert again.out == done.out
    assert {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()} == made
    other = prepare_folder(cli, pictures, "--seed", 4)
    assert other.status == 2
    assert "--overwrite" in other.err
    assert PreparedDataset.open("out").content_hash == dataset.content_hash


def test_a_file_that_cannot_be_used_is_counted_and_listed(
    cli: Cli, pictures: Path, ray_local: None
) -> None:
    (pictures / "text.png").write_text("no picture")
    strict = prepare_folder(cli, pictures)
    assert strict.status == 2
    assert "1 of 5 samples cannot be made, 0 may be lost: text.png: not_an_image" in strict.err
    assert not Path("out").exists()
    done = prepare_folder(cli, pictures, "--max-rejected", 0.5)
    assert done.status == 0
    assert "1 files rejected, see rejected.jsonl" in done.out
    (line,) = Path("out/rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "text.png"
    assert sum(PreparedDataset.open("out").counts.values()) == 4


def test_an_empty_folder(cli: Cli, no_ray: None) -> None:
    Path("empty").mkdir()
    done = prepare_folder(cli, Path("empty"))
    assert done.status == 2
    assert "empty holds no pictures; file names must end in one of" in done.err
    assert not Path("out").exists()


def test_a_folder_with_one_picture(cli: Cli, no_ray: None, pictures: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        (pictures / name).unlink()
    done = prepare_folder(cli, pictures)
    assert done.status == 2
    assert "holds 1 different picture(s); at least 3 are needed" in done.err
    assert not Path("out").exists()


@pytest.mark.parametrize("root", ["nowhere", "photo.png"])
def test_a_root_that_is_no_folder(cli: Cli, no_ray: None, root: str) -> None:
    Path("photo.png").write_bytes(b"")
    done = prepare_folder(cli, Path(root))
    assert done.status == 2
    assert f"{root} is not a folder; give the folder that holds your pictures." in done.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--val-share", "1.5"], "val_share is 1.5: it must be in (0, 1)."),
        (["--masks", "round"], "round"),
        (["--mask-ratio", "0.5", "0.1"], "0.5"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_ray(
    cli: Cli, no_ray: None, pictures: Path, flags: list[str], expected: str
) -> None:
    done = prepare_folder(cli, pictures, *flags)
    assert done.status == 2
    assert expected in done.err
    assert "Traceback" not in done.err
    assert not Path("out").exists()


def test_an_output_that_cannot_be_written(cli: Cli, pictures: Path, ray_local: None) -> None:
    Path("file").write_text("in the way")
    done = prepare_folder(cli, pictures, out="file/out")
    assert done.status == 2
    assert "file/out" in done.err
    assert "Traceback" not in done.err
    assert Path("file").read_text() == "in the way"


def test_a_preview_is_written_and_notes_are_said(cli: Cli, pictures: Path, ray_local: None) -> None:
    masks = Path("masks")
    masks.mkdir()
    for seed in range(4):
        mask = np.full((40, 48), 255, np.uint8)
        mask[10:20, 5 * seed : 5 * seed + 9] = 0
        Image.fromarray(mask).save(masks / f"{seed}.png")
    flags = ("--masks", "paired", "--mask-folder", masks, "--preview", "sheet.png")
    done = prepare_folder(cli, pictures, *flags)
    assert done.status == 0, done.err
    assert "Note: masks: 4 of 4 masks looked at may be inverted" in done.err
    assert "sheet.png: contact sheet." in done.out
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 192


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--preview", "sheet.jpg"], "sheet.jpg; it must be a .png file"),
        (["--preview", "nowhere/sheet.png"], "its folder does not exist"),
        (["--preview", "sheet.png", "--preview-samples", "0"], "at least 1"),
    ],
)
def test_a_preview_that_cannot_be_written_is_refused_before_ray(
    cli: Cli, no_ray: None, pictures: Path, flags: list[str], expected: str
) -> None:
    done = prepare_folder(cli, pictures, *flags)
    assert done.status == 2
    assert expected in done.err
    assert not Path("out").exists()


@pytest.mark.parametrize("source", SOURCES)
def test_help_says_where_data_come_from(cli: Cli, source: str) -> None:
    done = cli("prepare", source, "--help")
    words = set(SOURCES[source].needs.split())
    assert words <= set(done.out.replace("│", " ").split()) or source == "photos"
