"""Where samples come from: one file per source, and the table of them."""

from __future__ import annotations

from rayfill_data.sources.aerial import AERIAL, AerialOptions
from rayfill_data.sources.celeba import CELEBA, CelebaOptions
from rayfill_data.sources.cifar10 import CIFAR10, Cifar10Options
from rayfill_data.sources.coco import COCO, CocoPhotosOptions
from rayfill_data.sources.coco_pairs import COCO_PAIRS, CocoPairsOptions
from rayfill_data.sources.defacto import DEFACTO, DefactoOptions
from rayfill_data.sources.folder import FOLDER, FolderOptions
from rayfill_data.sources.held_out import TEST_SET, TestSetOptions
from rayfill_data.sources.parquet import PARQUET, ParquetOptions
from rayfill_data.sources.photos import PHOTOS, PhotosOptions
from rayfill_data.sources.spec import SourceSpec
from rayfill_data.sources.triplets import TRIPLETS, TripletsOptions

SOURCES: dict[str, SourceSpec] = {
    "photos": PHOTOS,
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
    "ParquetOptions",
    "PhotosOptions",
    "SourceSpec",
    "TestSetOptions",
    "TripletsOptions",
]
