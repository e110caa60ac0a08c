"""A folder of the user's own pictures, whatever is in it."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayfill_data.codec import FILE_FORMATS, UInt8Array, decode_photo
from rayfill_data.contract import SPLITS
from rayfill_data.copy_paste import Cutout, paste, random_cutout, resize
from rayfill_data.errors import DatasetError, ImageError
from rayfill_data.masks import irregular_mask, sample_rng
from rayfill_data.sources.spec import (
    HoleKind,
    Plan,
    Sample,
    SourceSpec,
    Task,
    check_options,
    is_object,
)

#: Files with these endings are meant as pictures: what cannot be read of them is reported, not
#: passed over. Other files in the folder are none of our business.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".heic", ".heif", ".avif", ".jp2"),
)

#: Photographs from disk may be larger than uploads.
MAX_FILE_PIXELS = 80 * 10**6

_DONORS = 2


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Every picture below a folder, its shorter side scaled to `size` and its centre cropped."""

    root: str
    """Folder with the pictures; subfolders are searched too."""

    size: int = 256
    """Side of a sample in pixels; smaller pictures are rejected, never blown up."""

    masks: Literal["irregular", "objects", "both"] = "irregular"
    """Brush strokes, objects cut out of other pictures of the same split, or half of each."""

    mask_ratio: tuple[float, float] = (0.05, 0.4)
    """Smallest and largest share of a picture that brush strokes cover."""

    val_share: float = 0.1
    """Share of the pictures for validation."""

    test_share: float = 0.1
    """Share of the pictures for testing."""

    max_rejected: float = 0.01
    """Share of the pictures that may be unusable before preparation fails."""

    def __post_init__(self) -> None:
        problems = []
        if not 16 <= self.size <= 2048:
            problems.append(f"size is {self.size}; it must lie in [16, 2048].")
        if self.masks not in ("irregular", "objects", "both"):
            problems.append(f"masks is {self.masks!r}; allowed: irregular, objects, both.")
        for name in ("val_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}; it must lie in (0, 1).")
        if self.val_share + self.test_share >= 1:
            problems.append("val_share + test_share leaves nothing to train on; lower them.")
        if not 0 <= self.max_rejected <= 1:
            problems.append(f"max_rejected is {self.max_rejected}; it must lie in [0, 1].")
        check_options(problems, mask_ratio=self.mask_ratio)


def plan(options: FolderOptions, seed: int) -> Plan:
    """List the pictures and split them by a stable hash of their relative path.

    Files with the same bytes are one source, so that copies never lie in two splits.

    Raises:
        DatasetError: no folder, no pictures in it, or fewer than three different ones.
    """
    root = Path(options.root).expanduser().absolute()
    files = _pictures(root)
    if not files:
        raise DatasetError(
            f"{options.root} holds no pictures; file names must end in one of "
            f"{', '.join(SUFFIXES)}."
        )
    sources = _sources(root, files)
    distinct = len(set(sources.values()))
    if distinct < len(SPLITS):
        raise DatasetError(
            f"{options.root} holds {distinct} different picture(s); at least {len(SPLITS)} "
            "are needed, one each for train, val and test. Add pictures."
        )
    # A file is taken for unchanged while its size and time are: hashing every byte of a large
    # folder would cost as much as preparing it.
    stamps = (f"{name}\0{files[name].st_size}\0{files[name].st_mtime_ns}\n" for name in files)
    digest = hashlib.sha256("".join(sorted(stamps)).encode("utf-8", "surrogateescape"))
    return Plan(
        tasks=_tasks(sources, options, seed),
        inputs_hash=digest.hexdigest(),
        size=options.size,
        max_rejected=options.max_rejected,
    )


def render(task: Task, options: FolderOptions, seed: int) -> Sample:
    """Decode, scale and crop one picture, and give it its hole.

    Raises:
        ImageError: bytes that are no usable picture, or one smaller than the wanted size.
        OSError: a file that vanished or may not be read.
    """
    root = Path(options.root).expanduser().absolute()
    crop = _centre(_decode(root / task.path, options.size), options.size)
    rng = sample_rng(seed, 0, task.sample_id)
    if task.hole_kind == "object":
        side = round(options.size * float(rng.uniform(0.25, 0.75)))

        def cut(photo: UInt8Array) -> Cutout:
            return random_cutout(photo, rng=rng, size_px=side)

        pair = paste(crop, _first_usable(root, task, options.size, cut), rng=rng)
        return Sample(image=pair.image, target=pair.target, hole_mask=pair.hole_mask)
    mask = None
    if task.split != "train":
        mask = irregular_mask(*crop.shape[:2], rng=rng, ratio_range=options.mask_ratio)
    return Sample(image=crop, target=None, hole_mask=mask)


FOLDER = SourceSpec(
    options_type=FolderOptions,
    plan=plan,
    render=render,
    summary="a folder of your own pictures",
)


def _pictures(root: Path) -> dict[str, os.stat_result]:
    """Return every picture file below a folder by its relative path with forward slashes."""
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; give the folder that holds your pictures.")
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found[path.relative_to(root).as_posix()] = _stat(path)
    return found


def _stat(path: Path) -> os.stat_result:
    """Return what a link points at, or the link itself where it points nowhere."""
    try:
        return path.stat()
    except OSError:
        return path.lstat()


def _sources(root: Path, files: dict[str, os.stat_result]) -> dict[str, str]:
    """Map every file to the first file with the same bytes; only equal sizes are ever read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in sorted(files):
        by_size[files[name].st_size].append(name)
    sources = {}
    for names in by_size.values():
        first: dict[str, str] = {}
        for name in names:
            key = _digest(root / name) if len(names) > 1 else name
            sources[name] = first.setdefault(key, name)
    return sources


def _digest(path: Path) -> str:
    """Hash a file's bytes; what cannot be read is its own source and is rejected later."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return str(path)


def _splits(distinct: list[str], options: FolderOptions) -> dict[str, str]:
    """Give every source a split by its hash, and every split at least one source."""
    place = {source: _unit_hash(source) for source in distinct}
    ordered = sorted(distinct, key=lambda source: (place[source], source))
    test = sum(place[source] < options.test_share for source in ordered)
    val = sum(place[source] < options.test_share + options.val_share for source in ordered) - test
    test = min(max(test, 1), len(ordered) - 2)
    val = min(max(val, 1), len(ordered) - test - 1)
    names = ["test"] * test + ["val"] * val + ["train"] * (len(ordered) - test - val)
    return dict(zip(ordered, names, strict=True))


def _tasks(sources: dict[str, str], options: FolderOptions, seed: int) -> tuple[Task, ...]:
    """Make one task per file: its split by its source, its kind of hole by its turn."""
    splits = _splits(sorted(set(sources.values())), options)
    members: dict[str, list[str]] = defaultdict(list)
    for source in sorted(splits):
        members[splits[source]].append(source)
    share = {"irregular": 0.0, "objects": 1.0, "both": 0.5}[options.masks]
    tasks = []
    for index, (name, source) in enumerate(sorted(sources.items())):
        kind: HoleKind = "object" if is_object(index, share) else "irregular"
        split = splits[source]
        donors = _donors(name, members[split], seed) if kind == "object" else ()
        tasks.append(
            Task(
                sample_id=name,
                split=split,
                source_id=source,
                path=name,
                hole_kind=kind,
                donors=donors,
            )
        )
    return tuple(tasks)


def _unit_hash(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def _donors(name: str, members: list[str], seed: int) -> tuple[str, ...]:
    """Draw other pictures of the split, and the picture itself for when none of them is usable."""
    rng = sample_rng(seed, 0, f"{name}: donors")
    drawn = [members[int(rng.integers(len(members)))] for _ in range(_DONORS)]
    return (*(donor for donor in drawn if donor != name), name)


def _first_usable(root: Path, task: Task, size: int, cut: Callable[[UInt8Array], Cutout]) -> Cutout:
    """Cut an object out of the first donor that can be decoded; the last donor is the photo."""
    for donor in task.donors[:-1]:
        try:
            return cut(_decode(root / donor, size))
        except (ImageError, OSError):
            continue  # It is listed as rejected under its own name.
    return cut(_decode(root / task.donors[-1], size))


def _decode(path: Path, size: int) -> UInt8Array:
    """Decode a picture and refuse one whose shorter side is below `size`."""
    photo = decode_photo(
        path.read_bytes(), max_pixels=MAX_FILE_PIXELS, formats=FILE_FORMATS, min_side=size
    )
    height, width = photo.rgb.shape[:2]
    if min(height, width) < size:
        raise ImageError(
            f"It is {width}x{height} pixels, smaller than size {size}; choose a smaller size.",
            code="size_mismatch",
        )
    return photo.rgb


def _centre(photo: UInt8Array, size: int) -> UInt8Array:
    """Scale the shorter side to `size` and crop the centre of the longer one."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(photo[top : top + side, left : left + side], height=size, width=size)
