"""``rayfill erase PHOTO --mask MASK -o OUT``: remove what a mask covers from one photo.

A box or clicks in place of the mask: GrabCut finds what is meant, or from clicks alone the
segmenter of a joint model that was measured to work.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from rayfill.config.flags import parse_flags
from rayfill.config.sections import Finish, Variant
from rayfill.runs import places
from rayfill.runs.references import Reference, locate, parse_reference
from rayfill_data.checks import Checked, Whole
from rayfill_data.errors import ImageError, RayfillError
from rayfill_data.extension import allow_modules

if TYPE_CHECKING:
    from rayfill.inference.clicks import Click, ObjectFinder
    from rayfill.inference.inpainter import Inpainter
    from rayfill.runs.registry import RegisteredModel
    from rayfill_data.codec import Photo, UInt8Array

#: One's own photos may be larger than what a server takes from strangers.
_MAX_PIXELS = 80 * 10**6

#: Pixels by which what was found grows, for each of the photo's longer side: an outline that is a
#: little off, and the soft pixels along it, must not stay behind. A drawn mask says what it means.
_FOUND_GROWTH = 0.005

#: File ending -> Pillow's name of the format.
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

PictureT = TypeVar("PictureT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EraseArgs(Checked):
    """Remove what a mask covers, or a box or clicks mean, from one photo; all else stays."""

    photo: tyro.conf.Positional[Path]
    """The photo: JPEG, PNG or WebP."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where the result goes: .png, .jpg or .webp (only .png keeps every known pixel exact)."""
    mask: Path | None = None
    """Picture of the photo's size: bright (128 and more) is what to remove."""
    click: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[float, float], ...]], tyro.conf.arg(metavar="X Y")
    ] = ()
    """In place of --mask: a pixel of what to remove, from the photo's upper left corner; may be
    given several times, and with --box. Found by a joint model's segmenter where the registry notes
    an IoU of 0.6 or more for it and there is no --box, else by GrabCut."""
    box: Annotated[
        tuple[float, float, float, float] | None, tyro.conf.arg(metavar="X0 Y0 X1 Y1")
    ] = None
    """In place of --mask: left, top, right and bottom of a box, in pixels from the photo's upper
    left corner, around what to remove; found by GrabCut, without any training."""
    segment_side: int = 0
    """Longest side, in pixels, at which the segmenter looks at the photo; 0 is the side it was
    trained on where the registry notes it, else 512."""
    model: str = "exemplar"
    """What fills: a fill without learning such as exemplar or telea, NAME@ALIAS of the model
    registry, or any other that `rayfill evaluate` measures, but for finished pictures."""
    finish: Finish = "auto"
    """What is done to a model's answer: exemplar adds patches of the photo, none leaves it; auto:
    patches where the hole is larger than what the model knows."""
    variant: Variant = 0
    """Another try of what searches for patches: 0 to 3, the best guess first."""
    expand_px: int | None = None
    """Pixels by which the mask grows first; by default 0 for --mask, and for what was found a
    two-hundredth of the photo's longer side, at least 2."""
    feather_px: Whole = 0
    """Pixels inside the mask's edge over which the result fades in."""
    tracking_uri: str | None = None
    """MLflow store that the registry lies in; None as for training."""
    allow_modules: str = ""
    """Modules, separated by commas, that a model's own network may be imported from; also the
    environment variable RAYFILL_ALLOW_MODULES."""
    overwrite: bool = False
    """Replace OUT if it exists."""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = parse_flags(EraseArgs, args, prog="rayfill erase")
    allow_modules(asked.allow_modules)
    if (asked.mask is None) == (not asked.click and asked.box is None):
        raise RayfillError(
            "Give either --mask, or --box or --click or both of these: one says what to remove."
        )
    _check_output(asked.out, overwrite=asked.overwrite)
    model = parse_reference(asked.model)
    from rayfill_data.codec import decode_photo

    photo = _decode(asked.photo, functools.partial(decode_photo, max_pixels=_MAX_PIXELS))
    height, width = photo.rgb.shape[:2]
    mask = _read_mask(asked.mask, size=(height, width)) if asked.mask else None
    inpainter, registered = _load(
        model, tracking_uri=places.tracking_uri(asked.tracking_uri), finish=asked.finish
    )
    expand_px = asked.expand_px or 0
    if mask is None:
        mask = _find(inpainter, photo.rgb, asked=asked, registered=registered)
        if asked.expand_px is None:
            expand_px = max(2, round(_FOUND_GROWTH * max(height, width)))
    result = inpainter.inpaint(
        photo.rgb,
        mask,
        expand_px=expand_px,
        feather_px=asked.feather_px,
        variant=asked.variant,
    )
    _write(asked.out, result, photo=photo)
    share = float((mask > 0).mean())
    sys.stdout.write(f"{asked.out}: filled {share:.1%} of {width}x{height} pixels with ")
    sys.stdout.write(f"{inpainter.name or asked.model}.\n")
    return 0


def _read_mask(path: Path, *, size: tuple[int, int]) -> UInt8Array:
    from rayfill_data.codec import decode_mask

    reading = _decode(path, functools.partial(decode_mask, size=size, max_pixels=_MAX_PIXELS))
    for note in reading.notes:
        sys.stderr.write(f"rayfill: {path}: {note}\n")
    return reading.mask


def _find(
    inpainter: Inpainter, rgb: UInt8Array, *, asked: EraseArgs, registered: RegisteredModel | None
) -> UInt8Array:
    """Return the mask of what a box or clicks mean."""
    from rayfill.inference.clicks import offered_finder
    from rayfill.inference.selection import select

    clicks = [(x, y, 1) for x, y in asked.click]
    if asked.box is None and registered is not None:
        finder = offered_finder(
            inpainter.model,
            scores=registered.scores,
            protocol=registered.protocol,
            side=asked.segment_side,
        )
        if finder is not None:
            return _find_by_model(finder, rgb, asked=asked, clicks=clicks)
    mask = select(rgb, box=asked.box, clicks=clicks)
    if not mask.any():
        raise RayfillError(
            f"{asked.photo}: nothing stands out there: draw another --box, or give a --mask."
        )
    sys.stdout.write(f"{asked.photo}: found {(mask > 0).mean():.1%} of the photo by GrabCut.\n")
    return mask


def _find_by_model(
    finder: ObjectFinder, rgb: UInt8Array, *, asked: EraseArgs, clicks: Sequence[Click]
) -> UInt8Array:
    """Return the mask of what was clicked on, by a trained segmenter."""
    found = finder.find(rgb, clicks=clicks)
    if not found.found:
        places = " or ".join(f"{x:g} {y:g}" for x, y in asked.click)
        raise RayfillError(
            f"{asked.photo}: {asked.model} finds no {' or '.join(finder.labels)} at {places}: "
            "click elsewhere, draw a --box, or give a --mask."
        )
    sys.stdout.write(f"{asked.photo}: found {', '.join(found.labels)}.\n")
    return found.mask


def _load(
    model: Reference, *, tracking_uri: str, finish: Finish
) -> tuple[Inpainter, RegisteredModel | None]:
    """Return a model, and what the registry knows of it."""
    from rayfill.inference.load import make_inpainter

    located = None if model.kind == "baseline" else locate(model, tracking_uri=tracking_uri)
    registered = located.registered if located else None
    return make_inpainter(model, located, finish=finish), registered


def _decode(path: Path, decode: Callable[[bytes], PictureT]) -> PictureT:
    """Return what ``decode`` makes of a file; every refusal names the file."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise RayfillError(f"{path} cannot be read: {error.strerror}. Name a file.") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}", code=error.code) from error


def _check_output(out: Path, *, overwrite: bool) -> None:
    """Find out that the result cannot be written before the work is done."""
    if out.suffix.lower() not in _FORMATS:
        raise RayfillError(f"--out is {out}: its ending must be one of {', '.join(_FORMATS)}.")
    if out.is_dir():
        raise RayfillError(f"{out} is a folder; name a file.")
    if out.exists() and not overwrite:
        raise RayfillError(f"{out} exists; name another file or add --overwrite.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise RayfillError(f"{out.parent} is not a folder that can be written to; name another.")


def _write(out: Path, rgb: UInt8Array, *, photo: Photo) -> None:
    """Write the result; no half file is left."""
    from rayfill_data.storage import write_file

    encoded = _encode(out, rgb, photo=photo)
    try:
        write_file(str(out.absolute()), encoded)
    except OSError as error:
        raise RayfillError(
            f"{out} could not be written ({len(encoded):,} bytes): {error.strerror}. Free space "
            "there or name another file; what was there before is unchanged."
        ) from error


def _encode(out: Path, rgb: UInt8Array, *, photo: Photo) -> bytes:
    from PIL import Image

    kind = _FORMATS[out.suffix.lower()]
    quality = {} if kind == "PNG" else {"quality": 95}
    stream = io.BytesIO()
    try:
        Image.fromarray(rgb).save(stream, kind, icc_profile=photo.icc_profile, **quality)
    except (OSError, ValueError) as error:
        height, width = rgb.shape[:2]
        raise RayfillError(
            f"{out}: {width}x{height} pixels cannot be stored as {kind}; name a .png file."
        ) from error
    return stream.getvalue()
