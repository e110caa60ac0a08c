"""Every conversion between encoded bytes, 8-bit arrays and the float tensors of a batch.

Bytes from outside are opened by Pillow only, restricted to the allowed formats, and their size is
read and refused before anything is decoded. Messages are written here and never quote Pillow, whose
texts carry memory addresses.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from rayfill_data.contract import MASK_THRESHOLD
from rayfill_data.errors import ImageError

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

#: Pixels a decoder may be asked for: 16 Mpx, 48 MiB as RGB.
MAX_PIXELS = 2**24

#: Formats accepted from the network.
WEB_FORMATS = ("JPEG", "PNG", "WEBP")

#: Formats accepted from files on the user's own disk.
FILE_FORMATS = (*WEB_FORMATS, "BMP", "TIFF")

_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
    ("BMP", 0, b"BM"),
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
)
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright as its EXIF orientation says."""

    rgb: UInt8Array
    """(H, W, 3) uint8 RGB."""
    icc_profile: bytes | None
    """The photo's RGB colour profile, to be passed on with the result; never applied here."""
    format: str


@dataclass(frozen=True)
class MaskReading:
    """A decoded hole mask and what was odd about it."""

    mask: UInt8Array
    """(H, W) uint8, exactly 0 or 255, 255 = hole."""
    notes: tuple[str, ...]
    """One sentence each, empty for a clean mask."""


def decode_photo(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = WEB_FORMATS,
    min_side: int | None = None,
) -> Photo:
    """Decode a photograph to upright 8-bit RGB.

    Gray, palette and CMYK are converted; transparency is laid over white; 16-bit samples keep
    their high byte, which is exact for 8-bit pictures widened by 256 or by 257; of an animation the
    first frame is taken.

    Args:
        data: encoded picture.
        max_pixels: refused above this, before decoding.
        formats: Pillow format names to allow.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8, which is much faster, as long as both
            sides keep at least twice this; None decodes every pixel.

    Raises:
        ImageError: ``not_an_image``, ``malformed`` or ``too_large``.
    """
    image = _open(data, max_pixels=max_pixels, formats=formats, min_side=min_side)
    profile = image.info.get("icc_profile")
    image_format = image.format or ""
    rgb = np.array(_convert(image, "RGB"))
    # A gray or CMYK profile does not describe the RGB picture made of it.
    keep = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    return Photo(rgb=rgb, icc_profile=profile if keep else None, format=image_format)


def decode_mask(
    data: bytes,
    *,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = WEB_FORMATS,
) -> MaskReading:
    """Decode a hole mask, thresholded at 128 and turned by its EXIF orientation like a photo.

    Where some pixel is transparent (alpha below 128) the alpha channel is the mask, opaque = hole:
    that is what a stroke of any colour on an empty layer, or a cut-out object, looks like.
    Otherwise the luminance is the mask, white = hole.

    Args:
        data: encoded picture.
        size: the (height, width) it must have, once upright; None allows any.
        max_pixels: refused above this, before decoding.
        formats: Pillow format names to allow.

    Raises:
        ImageError: as :func:`decode_photo`, and ``size_mismatch`` naming both sizes.
    """
    image = _open(data, max_pixels=max_pixels, formats=formats)
    notes: list[str] = []
    levels = np.array(_convert(image, "L"))
    if _has_alpha(image):
        alpha = np.array(image.convert("RGBA").getchannel("A"))
        if alpha.min() < MASK_THRESHOLD:
            notes.append("The mask was read from its alpha channel: opaque = hole.")
            levels = alpha
    if size is not None and levels.shape != tuple(size):
        raise ImageError(
            f"The mask is {levels.shape[1]}x{levels.shape[0]} pixels (width x height), the image "
            f"{size[1]}x{size[0]}; send a mask of the image's size.",
            code="size_mismatch",
        )
    mask = np.where(levels >= MASK_THRESHOLD, np.uint8(255), np.uint8(0))
    notes += _mask_notes(levels, mask)
    return MaskReading(mask=mask, notes=tuple(notes))


def decode_png(data: bytes) -> UInt8Array:
    """Decode a PNG that :func:`encode_png` wrote: (H, W, 3) RGB or (H, W), fast.

    For rows of a prepared dataset, not for bytes from outside.

    Raises:
        ImageError: ``malformed``.
    """
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("An empty or damaged PNG.", code="malformed") from error
    if array is None or array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ImageError("A damaged PNG, or not an 8-bit one.", code="malformed")
    if array.ndim == 3:
        if array.shape[2] != 3:
            raise ImageError("A PNG with an alpha channel in a dataset.", code="malformed")
        array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB)
    return np.asarray(array, np.uint8)


def encode_png(array: UInt8Array, *, icc_profile: bytes | None = None) -> bytes:
    """Encode (H, W, 3) RGB or (H, W) gray uint8 as PNG, with a colour profile if given.

    Raises:
        ValueError: another shape or dtype.
    """
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise ValueError(f"got {array.dtype} {array.shape}; need uint8 (H, W) or (H, W, 3)")
    ordered = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    done, encoded = cv2.imencode(".png", ordered)
    if not done:
        raise ValueError(f"a picture of shape {array.shape} cannot be stored as PNG")
    png: bytes = encoded.tobytes()
    return png if icc_profile is None else _with_profile(png, icc_profile)


def to_nchw(images: UInt8Array) -> Float32Array:
    """Turn (N, H, W, 3) uint8 into (N, 3, H, W) float32 in [0, 1]; (N, H, W) gives (N, 1, H, W)."""
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(planes).astype(np.float32) / np.float32(255)


def to_uint8(planes: Float32Array) -> UInt8Array:
    """Turn (N, C, H, W) float in [0, 1] into (N, H, W, C) uint8, rounded; inverts `to_nchw`."""
    levels = np.rint(np.clip(planes, 0.0, 1.0) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def _open(
    data: bytes, *, max_pixels: int, formats: tuple[str, ...], min_side: int | None = None
) -> Image.Image:
    """Open, check the size, decode and turn upright; every failure is an ImageError."""
    kind = _sniff(data)
    if kind not in formats:
        got = f"a {kind} file" if kind else "something that is no known picture format"
        raise ImageError(f"Got {got}; allowed: {', '.join(formats)}.", code="not_an_image")
    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
        width, height = image.size
        if 0 < width * height <= max_pixels:
            if kind == "PNG":
                # Pillow decodes pixels without looking at the checksum of the chunk they end in.
                Image.open(io.BytesIO(data), formats=(kind,)).verify()
            if min_side is not None:
                image.draft(None, (2 * min_side, 2 * min_side))
            image.load()
            return _upright(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_too_large("many more", max_pixels), code="too_large") from error
    except Exception as error:  # noqa: BLE001 - on hostile bytes a decoder may raise anything
        raise ImageError(
            f"The {kind} file is damaged or incomplete; export it again.", code="malformed"
        ) from error
    if width * height <= 0:
        raise ImageError(f"The {kind} file has no pixels.", code="malformed")
    raise ImageError(_too_large(f"{width}x{height}", max_pixels), code="too_large")


def _sniff(data: bytes) -> str:
    """Name the format by its first bytes, or return an empty string."""
    for name, start, signature in _SIGNATURES:
        if data[start : start + len(signature)] == signature:
            return name
    return ""


def _too_large(got: str, max_pixels: int) -> str:
    return f"The picture has {got} pixels; at most {max_pixels:,} are allowed. Scale it down."


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a picture whose EXIF cannot be read stays as it is stored."""
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything, and the pixels are fine
        return image
    turned.format = image.format
    return turned


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in _ALPHA_MODES or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    )


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert any decoded mode to "RGB" or "L", with transparency laid over white."""
    if image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG"):
        high_byte = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(high_byte).convert(mode)
    if image.mode in ("I", "F"):
        raise ImageError(
            "The picture has 32-bit samples; save it with 8 or 16 bits.", code="malformed"
        )
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert(mode)
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ImageError(
            f"The colour space {image.mode} is not supported; save it as RGB.", code="malformed"
        ) from error


def _mask_notes(levels: UInt8Array, mask: UInt8Array) -> list[str]:
    """Return one sentence per thing that suggests a mistake in how the mask was made."""
    notes = []
    between = int(np.count_nonzero((levels > 0) & (levels < 255)))
    if levels.max() == 1:
        notes.append("The mask holds 0 and 1; holes are marked by 255. Multiply it by 255.")
    elif between:
        notes.append(
            f"{between} of {levels.size} mask pixels are neither 0 nor 255 (soft edges or JPEG); "
            f"they were thresholded at {MASK_THRESHOLD}. Masks are best kept as PNG."
        )
    holes = int(np.count_nonzero(mask))
    if holes == 0:
        notes.append("The mask marks no hole at all (nowhere 255).")
    elif holes == mask.size:
        notes.append("The mask marks everything as hole (255 everywhere).")
    elif _looks_inverted(mask, holes):
        notes.append(
            "The mask marks most of the picture and its border as hole; it may be inverted "
            "(255 must mean hole)."
        )
    return notes


def _looks_inverted(mask: UInt8Array, holes: int) -> bool:
    """Tell whether more than half the mask and three quarters of its border are hole."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return 2 * holes > mask.size and 4 * int(np.count_nonzero(border)) > 3 * border.size


def _with_profile(png: bytes, profile: bytes) -> bytes:
    """Insert an iCCP chunk right after IHDR, where the PNG standard wants it (OpenCV has none)."""
    body = b"iCCP" + b"ICC Profile\x00\x00" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    header_end = 8 + 4 + 4 + 13 + 4  # signature; IHDR: length, type, data, checksum
    return png[:header_end] + chunk + png[header_end:]
