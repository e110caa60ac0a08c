from __future__ import annotations

import collections
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayfill_data.contract import SPLITS
from rayfill_data.errors import ConfigError, DatasetError
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import FolderOptions, PhotosOptions

SMALL = PhotosOptions(size=32, train=24, val=6, test=8)


def quiet(done: int, total: int) -> None:
    """Progress nobody sees."""


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {
        row["sample_id"]: row
        for path in sorted(out.glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }


def contents(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    out = tmp_path_factory.mktemp("photos") / "dataset"
    prepare("photos", out=str(out), options=SMALL, progress=quiet)
    return out


def test_photos_end_to_end(prepared: Path) -> None:
    dataset = PreparedDataset.open(str(prepared))
    assert dataset.counts == {"train": 24, "val": 6, "test": 8}
    assert dataset.manifest.rejected == 0
    assert (prepared / "rejected.jsonl").read_text() == ""
    train = dataset.load("train")
    assert train.has_mask.sum() == 12
    for split in SPLITS:
        arrays = dataset.load(split)
        assert split == "train" or arrays.has_mask.all()
        changed = (arrays.image != arrays.target).any(axis=3)
        assert not changed[arrays.hole_mask == 0].any()
        assert changed.any()
    sources = collections.defaultdict(set)
    for row in rows_of(prepared).values():
        sources[row["split"]].add(row["source_id"])
        assert (row["height"], row["width"]) == (32, 32)
        assert (row["hole_mask"] is None) == (row["hole_ratio"] is None)
    assert not sources["train"] & (sources["val"] | sources["test"])
    assert not sources["val"] & sources["test"]
    assert dataset.manifest.photo_counts == {split: len(sources[split]) for split in SPLITS}


def test_same_inputs_give_byte_identical_rows(prepared: Path, tmp_path: Path) -> None:
    again = prepare("photos", out=str(tmp_path / "again"), options=SMALL, progress=quiet)
    assert again.content_hash == PreparedDataset.open(str(prepared)).content_hash
    assert rows_of(tmp_path / "again") == rows_of(prepared)
    other = prepare("photos", out=str(tmp_path / "other"), options=SMALL, seed=1, progress=quiet)
    assert other.content_hash != again.content_hash


def test_a_finished_dataset_is_left_untouched(prepared: Path) -> None:
    before = contents(prepared)
    calls = []
    manifest = prepare(
        "photos", out=str(prepared), options=SMALL, progress=lambda *numbers: calls.append(numbers)
    )
    assert contents(prepared) == before
    assert calls == []
    assert manifest == PreparedDataset.open(str(prepared)).manifest


def test_another_dataset_is_only_replaced_when_told_so(tmp_path: Path, ray_local: None) -> None:
    out = tmp_path / "dataset"
    first = PhotosOptions(size=16, train=4, val=2, test=2)
    second = PhotosOptions(size=16, train=6, val=2, test=2)
    prepare("photos", out=str(out), options=first, progress=quiet)
    before = contents(out)
    for changed in ({"options": second}, {"options": first, "seed": 5}):
        with pytest.raises(DatasetError, match="--overwrite"):
            prepare("photos", out=str(out), progress=quiet, **changed)
    assert contents(out) == before
    prepare("photos", out=str(out), options=second, overwrite=True, progress=quiet)
    assert PreparedDataset.open(str(out)).counts["train"] == 6
    (out / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match="--overwrite"):
        prepare("photos", out=str(out), options=second, progress=quiet)
    prepare("photos", out=str(out), options=second, overwrite=True, progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_progress_counts_up_to_the_total(tmp_path: Path, ray_local: None) -> None:
    calls: list[tuple[int, int]] = []
    options = PhotosOptions(size=16, train=20, val=2, test=2)
    prepare(
        "photos",
        out=str(tmp_path / "dataset"),
        options=options,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (24, 24)
    assert calls == sorted(calls)
    assert len(calls) > 2


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """All of it is refused before Ray is even imported by prepare: no cluster is needed."""
    file = tmp_path / "file"
    file.write_text("in the way")
    for out in (file, file / "below"):
        with pytest.raises(DatasetError, match=r"is a file|cannot be written"):
            prepare("photos", out=str(out), options=SMALL, progress=quiet)
    with pytest.raises(DatasetError, match="cannot be"):
        prepare("photos", out="/proc/nowhere/dataset", options=SMALL, progress=quiet)


def test_folders_with_other_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match=r"thesis\.docx"):
            prepare("photos", out=str(tmp_path), options=SMALL, overwrite=overwrite)
    assert (tmp_path / "thesis.docx").exists()


def test_unknown_source_and_foreign_options() -> None:
    with pytest.raises(ConfigError, match=r"'photo'.*'photos'"):
        prepare("photo", out="x", options=SMALL)
    with pytest.raises(ConfigError, match="it takes FolderOptions"):
        prepare("folder", out="x", options=SMALL)


# --- a folder with everything that goes wrong


@pytest.fixture
def wild(tmp_path: Path, make_picture: Any) -> Path:
    """Twelve good pictures of every kind and six bad ones."""
    root = tmp_path / "wild"
    root.mkdir()

    def photo(seed: int) -> Image.Image:
        return Image.fromarray(make_picture(48, 64, seed=seed))

    exif = Image.Exif()
    exif[0x0112] = 6
    photo(1).save(root / "plain.jpg", quality=90)
    photo(2).save(root / "rotated.jpg", exif=exif, quality=95)
    photo(3).convert("L").save(root / "gray.png")
    Image.fromarray(make_picture(48, 64, seed=4)[..., 0].astype(np.uint16) * 257).save(
        root / "sixteen.png"
    )
    photo(5).convert("RGBA").save(root / "alpha.png")
    photo(6).convert("CMYK").save(root / "cmyk.jpg")
    photo(7).quantize(32).save(root / "palette.png")
    photo(8).save(root / "web.webp")
    photo(9).save(root / "old.bmp")
    photo(10).save(root / "scan.tif")
    photo(11).convert("LA").save(root / "gray-alpha.png")
    photo(12).convert("1").save(root / "bits.png")

    stream = io.BytesIO()
    photo(20).save(stream, "JPEG")
    (root / "truncated.jpg").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    (root / "text.png").write_text("this is text")
    (root / "empty.jpg").write_bytes(b"")
    (root / "broken-link.png").symlink_to(root / "nowhere.png")
    photo(21).resize((8, 8)).save(root / "tiny.png")
    photo(22).save(root / "moving.gif")
    (root / "README.txt").write_text("no picture, and nobody says so")
    return root


def test_bad_files_are_listed_and_the_rest_is_used(
    wild: Path, tmp_path: Path, ray_local: None
) -> None:
    out = tmp_path / "dataset"
    options = FolderOptions(
        root=str(wild), size=32, max_rejected=1.0, val_share=0.3, test_share=0.3
    )
    manifest = prepare("folder", out=str(out), options=options, progress=quiet)
    assert manifest.rejected == 6
    assert sum(manifest.counts.values()) == 12
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    reasons = {line["path"]: line["reason"] for line in lines}
    assert reasons.keys() == {
        *("truncated.jpg", "text.png", "empty.jpg", "broken-link.png", "tiny.png", "moving.gif")
    }
    assert reasons["truncated.jpg"].startswith("malformed")
    assert reasons["text.png"].startswith("not_an_image")
    assert reasons["moving.gif"].startswith("not_an_image")
    assert reasons["empty.jpg"].startswith("not_an_image")
    assert reasons["broken-link.png"].startswith("unreadable: No such file")
    assert "8x8" in reasons["tiny.png"]
    assert str(tmp_path) not in (out / "rejected.jsonl").read_text()
    dataset = PreparedDataset.open(str(out))
    names = [name for split in SPLITS for name in dataset.load(split).sample_id]
    assert set(names) >= {"cmyk.jpg", "sixteen.png", "rotated.jpg", "bits.png"}


def test_too_many_bad_files_fail_and_leave_nothing(
    wild: Path, tmp_path: Path, ray_local: None
) -> None:
    out = tmp_path / "results" / "dataset"
    options = FolderOptions(root=str(wild), size=32)
    with pytest.raises(DatasetError, match=r"6 of 18 samples.*--max-rejected"):
        prepare("folder", out=str(out), options=options, progress=quiet)
    assert list((tmp_path / "results").iterdir()) == []


def test_a_split_without_usable_pictures_fails(
    tmp_path: Path, make_picture: Any, ray_local: None
) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    Image.fromarray(make_picture(40, 40)).save(root / "good.png")
    for name in "abcd":
        (root / f"{name}.png").write_text(f"text {name}")
    options = FolderOptions(root=str(root), size=32, max_rejected=1.0)
    with pytest.raises(DatasetError, match="No usable picture is left for"):
        prepare("folder", out=str(tmp_path / "dataset"), options=options, progress=quiet)
    assert not (tmp_path / "dataset").exists()


def test_the_rotated_photo_is_upright(wild: Path, tmp_path: Path) -> None:
    from rayfill_data.sources import folder

    options = FolderOptions(root=str(wild), size=32)
    task = next(t for t in folder.plan(options, 0).tasks if t.path == "rotated.jpg")
    image = folder.render(task, options, 0).image
    upright = Image.open(wild / "rotated.jpg").rotate(-90, expand=True)
    expected = np.asarray(upright.crop((0, 8, 48, 56)).resize((32, 32), Image.Resampling.BOX))
    assert np.abs(image.astype(int) - expected).mean() < 6


# --- interruption

_KILLED = """
import os, signal, sys
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.sources import PhotosOptions

def killer(done, total):
    if done >= total // 2:
        print(done, total, flush=True)
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))

prepare("photos", out=sys.argv[1], progress=killer,
        options=PhotosOptions(size=16, train=600, val=8, test=8))
"""


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path, ray_local: None) -> None:
    out = tmp_path / "dataset"
    run = subprocess.run(
        [sys.executable, "-c", _KILLED, str(out), "SIGKILL"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert run.stdout, "it was killed before it had done anything"
    assert not out.exists()
    left = tmp_path / ".dataset.partial"
    assert list(left.glob("train-*.parquet"))
    assert not (left / "manifest.json").exists()
    with pytest.raises(DatasetError, match="no finished dataset"):
        PreparedDataset.open(str(left))
    options = PhotosOptions(size=16, train=600, val=8, test=8)
    prepare("photos", out=str(out), options=options, progress=quiet)
    assert len(PreparedDataset.open(str(out)).load("train")) == 600
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_an_interrupted_run_keeps_the_old_dataset(tmp_path: Path, ray_local: None) -> None:
    out = tmp_path / "dataset"
    options = PhotosOptions(size=16, train=20, val=2, test=2)
    prepare("photos", out=str(out), options=options, progress=quiet)
    before = contents(out)

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(
            "photos", out=str(out), options=options, seed=9, overwrite=True, progress=interrupted
        )
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_two_runs_never_write_one_dataset(tmp_path: Path, ray_local: None) -> None:
    out = tmp_path / "dataset"
    options = PhotosOptions(size=16, train=20, val=2, test=2)
    refused = []

    def second(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(DatasetError, match="Another process is preparing"):
                prepare("photos", out=str(out), options=options, progress=quiet)
            refused.append(done)

    prepare("photos", out=str(out), options=options, progress=second)
    assert refused
    assert PreparedDataset.open(str(out)).counts["train"] == 20


@pytest.mark.ray
@pytest.mark.slow
def test_prepare_starts_and_stops_ray_of_its_own(tmp_path: Path) -> None:
    code = (
        "import sys, ray\n"
        "from rayfill_data.prepared.pipeline import prepare\n"
        "from rayfill_data.sources import PhotosOptions\n"
        "options = PhotosOptions(size=16, train=4, val=2, test=2)\n"
        "prepare('photos', out=sys.argv[1], options=options)\n"
        "assert not ray.is_initialized()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "dataset")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert PreparedDataset.open(str(tmp_path / "dataset")).counts["test"] == 2
