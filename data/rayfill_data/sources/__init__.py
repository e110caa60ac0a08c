"""Where samples come from: one file per source, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rayfill_data.extension import look_up, register
from rayfill_data.sources.aerial import AERIAL, AerialOptions
from rayfill_data.sources.celeba import CELEBA, CelebaOptions
from rayfill_data.sources.cifar10 import CIFAR10, Cifar10Options
from rayfill_data.sources.coco.pairs import COCO_PAIRS
from rayfill_data.sources.coco.pairs_options import CocoPairsOptions
from rayfill_data.sources.coco.photos import COCO, CocoPhotosOptions
from rayfill_data.sources.defacto import DEFACTO, DefactoOptions
from rayfill_data.sources.evaluation_set import TEST_SET, TestSetOptions
from rayfill_data.sources.folder import FOLDER, FolderOptions
from rayfill_data.sources.marks import MARKS, MarksOptions
from rayfill_data.sources.parquet import PARQUET, ParquetOptions
from rayfill_data.sources.photos import PHOTOS, PhotosOptions
from rayfill_data.sources.spec import SourceSpec, outside_source
from rayfill_data.sources.triplets import TRIPLETS, TripletsOptions

SOURCES: dict[str, SourceSpec] = {
    "photos": PHOTOS,
    "marks": MARKS,
    "folder": FOLDER,
    "triplets": TRIPLETS,
    "test_set": TEST_SET,
    "coco": COCO,
    "coco_pairs": COCO_PAIRS,
    "defacto": DEFACTO,
    "celeba": CELEBA,
    "aerial": AERIAL,
    "cifar10": CIFAR10,
    "parquet": PARQUET,
}

__all__ = [
    "SOURCES",
    "AerialOptions",
    "CelebaOptions",
    "Cifar10Options",
    "CocoPairsOptions",
    "CocoPhotosOptions",
    "DefactoOptions",
    "FolderOptions",
    "MarksOptions",
    "ParquetOptions",
    "PhotosOptions",
    "SourceSpec",
    "TestSetOptions",
    "TripletsOptions",
    "find_source",
    "register_source",
]

SourceT = TypeVar("SourceT", bound=type)


def register_source(name: str, /) -> Callable[[SourceT], SourceT]:
    """Return a decorator that registers a source of one's own under a short name.

    It is a frozen dataclass of options with the methods ``plan(seed)`` and ``render(task, seed)``;
    see docs/extending.md.

    Raises:
        ConfigError: a name or a class that cannot be used.
    """
    return register("source", name, built_in=SOURCES, outside=outside_source)


def find_source(name: str, /) -> SourceSpec:
    """Return a source.

    Args:
        name: a key of :data:`SOURCES`, a registered name, or ``package.module:Name``.

    Raises:
        ConfigError: unknown source, or one that cannot be imported.
    """
    return look_up("source", name, SOURCES, outside=outside_source)
