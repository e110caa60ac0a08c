"""The photographs inside the scikit-image and scikit-learn wheels, and their split by photograph.

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

from rayfill_data.checks import Bounds, Count
from rayfill_data.codec import UInt8Array, decode_photo
from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError
from rayfill_data.masks.copy_paste import random_window
from rayfill_data.masks.hole import sample_rng
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.spec import SourcePlan, Task, is_object

#: The shortest side among the photographs is 300 pixels.
MAX_SIZE = 256


@dataclass(frozen=True)
class Bundled:
    """A photograph in an installed package."""

    package: str
    path: str
    source_id: str
    weight: int
    """How often it is drawn, relative to the others of its split."""


#: Of every split.
BUNDLED: dict[str, tuple[Bundled, ...]] = {
    "train": (
        Bundled("skimage", "data/motorcycle_left.png", "motorcycle", 2),
        Bundled("skimage", "data/motorcycle_right.png", "motorcycle", 1),
        Bundled("skimage", "data/astronaut.png", "astronaut", 3),
        Bundled("sklearn", "datasets/images/china.jpg", "china", 3),
        Bundled("skimage", "data/hubble_deep_field.jpg", "hubble_deep_field", 1),
        Bundled("skimage", "data/ihc.png", "ihc", 1),
        Bundled("skimage", "data/retina.jpg", "retina", 1),
        Bundled("skimage", "data/coins.png", "coins", 1),
        Bundled("skimage", "data/brick.png", "brick", 1),
        Bundled("skimage", "data/grass.png", "grass", 1),
        Bundled("skimage", "data/gravel.png", "gravel", 1),
    ),
    "val": (
        Bundled("sklearn", "datasets/images/flower.jpg", "flower", 1),
        Bundled("skimage", "data/camera.png", "camera", 1),
    ),
    "test": (
        Bundled("skimage", "data/chelsea.png", "chelsea", 1),
        Bundled("skimage", "data/coffee.png", "coffee", 1),
        Bundled("skimage", "data/rocket.jpg", "rocket", 1),
    ),
}


@dataclass(frozen=True, kw_only=True)
class BundledOptions(MaskOptions):
    """Crops of the bundled photographs, and the holes of those without an object."""

    size: Annotated[int, Bounds(ge=16, le=MAX_SIZE)] = 64
    """Side of a crop in pixels."""

    train: Count = 960
    """Number of training crops."""

    val: Count = 96
    """Number of validation crops."""

    test: Count = 192
    """Number of test crops."""

    named: ClassVar[bool] = False


def bundled_plan(
    options: BundledOptions, seed: int, *, object_share: float, labels: tuple[str, ...]
) -> SourcePlan:
    """Draw a photograph for every crop; crop number i does not depend on how many are asked for.

    Args:
        options: how many crops of each split.
        seed: of the choice.
        object_share: share of the crops with an object, in [0, 1].
        labels: names of the values of their label maps.

    Raises:
        DatasetError: a photograph that is not in the installed packages, or a folder of masks
            that cannot be used.
    """
    tasks = [
        _task(split, index, seed, object_share=object_share)
        for split in SPLITS
        for index in range(getattr(options, split))
    ]
    digest = hashlib.sha256()
    for photos in BUNDLED.values():
        for photo in photos:
            digest.update(hashlib.sha256(read_bundled(photo)).digest())
    found = SourcePlan(
        tasks=tuple(tasks),
        inputs_hash=digest.hexdigest(),
        size=options.size,
        max_rejected=0.0,
        labels=labels,
    )
    return with_mask_files(found, options, seed)


def bundled_crop(task: Task, options: BundledOptions, *, rng: np.random.Generator) -> UInt8Array:
    """Crop a task's photograph at a random place and scale: (size, size, 3) uint8."""
    return random_window(bundled_photo(task.path), rng=rng, size_px=options.size)


@functools.cache
def bundled_photo(path: str) -> UInt8Array:
    """Decode a photograph once per process: (H, W, 3) uint8."""
    (photo,) = [photo for photos in BUNDLED.values() for photo in photos if photo.path == path]
    return decode_photo(read_bundled(photo)).rgb


def read_bundled(photo: Bundled) -> bytes:
    """Read a photograph's file; finding a package does not import it, which would take seconds.

    Raises:
        DatasetError: it is not there.
    """
    spec = importlib.util.find_spec(photo.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, photo.path)
        if path.is_file():
            return path.read_bytes()
    raise DatasetError(
        f"The bundled photograph {photo.path} is not in the installed {photo.package}. Install "
        f"{photo.package} again, or use your own pictures: `rayfill prepare folder --root ...`."
    )


def _task(split: str, index: int, seed: int, *, object_share: float) -> Task:
    """Choose the photograph of one crop, and another one to cut an object from."""
    rng = sample_rng(seed, 0, f"{split}-{index}: photographs")
    photo = _draw(BUNDLED[split], rng)
    others = tuple(other for other in BUNDLED[split] if other.source_id != photo.source_id)
    return Task(
        sample_id=f"{split}-{index:05d}-{photo.source_id}",
        split=split,
        source_id=photo.source_id,
        path=photo.path,
        hole_kind="object" if is_object(index, object_share) else "irregular",
        donors=(_draw(others, rng).path,),
    )


def _draw(photos: tuple[Bundled, ...], rng: np.random.Generator) -> Bundled:
    weights = np.array([photo.weight for photo in photos], np.float64)
    return photos[int(rng.choice(len(photos), p=weights / weights.sum()))]
