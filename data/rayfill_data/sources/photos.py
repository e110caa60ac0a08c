"""The photographs inside the scikit-image and scikit-learn wheels: data without a download.

Crops of one photograph never lie in two splits; the two views of the motorcycle are one photograph.

- **test** - a cat (fur, soft background), a coffee cup (wood, glossy edges) and a rocket at dusk
  (lattices before a smooth sky): three natural colour photographs with little in common.
- **val** - a dahlia before a blurred background and the cameraman (gray: edges and grass): natural,
  and unlike both other splits, so that choosing a model by them does not favour either.
- **train** - the photographs richest in detail (motorcycle, astronaut, pavilion), three times as
  often as the textures and scientific pictures that widen what a network has seen.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from rayfill_data.checks import Bounds, Count, Share
from rayfill_data.codec import UInt8Array, decode_photo
from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError
from rayfill_data.masks.copy_paste import paste, random_cutout, random_window
from rayfill_data.masks.hole import sample_rng
from rayfill_data.sources.holes import MaskOptions, drawn_hole, with_mask_files
from rayfill_data.sources.pictures import PASTED_LABELS, pasted, without_object
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task, is_object

#: The shortest side among the photographs is 300 pixels.
MAX_SIZE = 256


@dataclass(frozen=True)
class _Bundled:
    package: str
    path: str
    source_id: str
    weight: int
    """How often it is drawn, relative to the others of its split."""


_PHOTOS: dict[str, tuple[_Bundled, ...]] = {
    "train": (
        _Bundled("skimage", "data/motorcycle_left.png", "motorcycle", 2),
        _Bundled("skimage", "data/motorcycle_right.png", "motorcycle", 1),
        _Bundled("skimage", "data/astronaut.png", "astronaut", 3),
        _Bundled("sklearn", "datasets/images/china.jpg", "china", 3),
        _Bundled("skimage", "data/hubble_deep_field.jpg", "hubble_deep_field", 1),
        _Bundled("skimage", "data/ihc.png", "ihc", 1),
        _Bundled("skimage", "data/retina.jpg", "retina", 1),
        _Bundled("skimage", "data/coins.png", "coins", 1),
        _Bundled("skimage", "data/brick.png", "brick", 1),
        _Bundled("skimage", "data/grass.png", "grass", 1),
        _Bundled("skimage", "data/gravel.png", "gravel", 1),
    ),
    "val": (
        _Bundled("sklearn", "datasets/images/flower.jpg", "flower", 1),
        _Bundled("skimage", "data/camera.png", "camera", 1),
    ),
    "test": (
        _Bundled("skimage", "data/chelsea.png", "chelsea", 1),
        _Bundled("skimage", "data/coffee.png", "coffee", 1),
        _Bundled("skimage", "data/rocket.jpg", "rocket", 1),
    ),
}


@dataclass(frozen=True, kw_only=True)
class PhotosOptions(MaskOptions):
    """Crops of the photographs that Rayfill's dependencies bring along."""

    size: Annotated[int, Bounds(ge=16, le=MAX_SIZE)] = 64
    """Side of a crop in pixels."""

    train: Count = 960
    """Number of training crops."""

    val: Count = 96
    """Number of validation crops."""

    test: Count = 192
    """Number of test crops."""

    object_share: Share = 0.5
    """Share of samples with an object pasted in; the others get the holes that masks names."""

    named: ClassVar[bool] = False


def plan(options: PhotosOptions, seed: int) -> SourcePlan:
    """Draw a photograph for every crop; crop number i does not depend on how many are asked for."""
    tasks = [
        _task(split, index, options, seed)
        for split in SPLITS
        for index in range(getattr(options, split))
    ]
    digest = hashlib.sha256()
    for photos in _PHOTOS.values():
        for photo in photos:
            digest.update(hashlib.sha256(_read(photo)).digest())
    found = SourcePlan(
        tasks=tuple(tasks),
        inputs_hash=digest.hexdigest(),
        size=options.size,
        max_rejected=0.0,
        labels=PASTED_LABELS,
    )
    return with_mask_files(found, options, seed)


def render(task: Task, options: PhotosOptions, seed: int) -> Sample:
    """Crop the photograph at a random place and scale, and give the crop its hole."""
    rng = sample_rng(seed, 0, task.sample_id)
    crop = random_window(_photo(task.path), rng=rng, size_px=options.size)
    if task.hole_kind == "object":
        side = round(options.size * float(rng.uniform(0.25, 0.75)))
        cutout = random_cutout(_photo(task.donors[0]), rng=rng, size_px=side)
        return pasted(paste(crop, cutout, rng=rng))
    mask = drawn_hole(task, options, *crop.shape[:2], rng=rng)
    return without_object(Sample(image=crop, target=None, hole_mask=mask))


PHOTOS = SourceSpec(
    options_type=PhotosOptions,
    plan=plan,
    render=render,
    locations=("mask_folder",),
    summary="crops of the photographs bundled with scikit-image and scikit-learn",
)


def _task(split: str, index: int, options: PhotosOptions, seed: int) -> Task:
    """Choose the photograph of one crop and, for an object, another one to cut it from."""
    rng = sample_rng(seed, 0, f"{split}-{index}: photographs")
    photo = _draw(_PHOTOS[split], rng)
    others = tuple(other for other in _PHOTOS[split] if other.source_id != photo.source_id)
    return Task(
        sample_id=f"{split}-{index:05d}-{photo.source_id}",
        split=split,
        source_id=photo.source_id,
        path=photo.path,
        hole_kind="object" if is_object(index, options.object_share) else "irregular",
        donors=(_draw(others, rng).path,),
    )


def _draw(photos: tuple[_Bundled, ...], rng: np.random.Generator) -> _Bundled:
    weights = np.array([photo.weight for photo in photos], np.float64)
    return photos[int(rng.choice(len(photos), p=weights / weights.sum()))]


@functools.cache
def _photo(path: str) -> UInt8Array:
    """Decode a photograph once per process."""
    (photo,) = [photo for photos in _PHOTOS.values() for photo in photos if photo.path == path]
    return decode_photo(_read(photo)).rgb


def _read(photo: _Bundled) -> bytes:
    """Read a photograph's file; finding a package does not import it, which would take seconds."""
    spec = importlib.util.find_spec(photo.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, photo.path)
        if path.is_file():
            return path.read_bytes()
    raise DatasetError(
        f"The bundled photograph {photo.path} is not in the installed {photo.package}. Install "
        f"{photo.package} again, or use your own pictures: `rayfill prepare folder --root ...`."
    )
