"""Where samples come from: one file per source, and the table of them."""

from __future__ import annotations

from rayfill_data.sources.folder import FOLDER, FolderOptions
from rayfill_data.sources.photos import PHOTOS, PhotosOptions
from rayfill_data.sources.spec import SourceSpec

SOURCES: dict[str, SourceSpec] = {
    "photos": PHOTOS,
    "folder": FOLDER,
}

__all__ = ["SOURCES", "FolderOptions", "PhotosOptions", "SourceSpec"]
