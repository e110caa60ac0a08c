"""The typefaces that matplotlib's wheel brings along (DejaVu), for drawing text with Pillow."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from PIL import ImageFont

from rayfill_data.errors import DatasetError


@functools.lru_cache(maxsize=64)
def typeface(name: str, *, size_px: int) -> ImageFont.FreeTypeFont:
    """Return one of DejaVu's faces, which have more than Latin letters, such as "DejaVuSans-Bold".

    Raises:
        DatasetError: matplotlib is not installed whole.
    """
    return ImageFont.truetype(typeface_file(name), size_px)


def typeface_file(name: str) -> Path:
    """Find a face's file; finding a package does not import it, which would take its time.

    Raises:
        DatasetError: it is not there.
    """
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder, "mpl-data", "fonts", "ttf", f"{name}.ttf")
        if file.is_file():
            return file
    raise DatasetError(
        f"The typeface {name} is not in the installed matplotlib. Install matplotlib again."
    )
