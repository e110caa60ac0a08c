"""COCO's run lengths: pixels down the columns, alternately outside and inside the object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rayfill_data.codec import UInt8Array

Runs = npt.NDArray[np.int64]

#: Characters of one number; COCO's own need at most 6.
_MOST_DIGITS = 8


class OutlineError(ValueError):
    """An entry that cannot be used; the message is one sentence for rejected.jsonl."""


def uncompressed(text: bytes) -> Runs:
    """Decode compressed run lengths: six bits a character, differences to the last but one.

    Raises:
        OutlineError: a character outside the alphabet, or a number that never ends.
    """
    # Characters below the alphabet wrap around to numbers above it.
    sixes = (np.frombuffer(text, np.uint8) - np.uint8(48)).astype(np.int64)
    if not len(sixes):
        return np.zeros(0, np.int64)
    if sixes.max() > 63 or sixes[-1] & 32:
        raise OutlineError("its compressed run lengths are garbage.")
    ends = np.flatnonzero(sixes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > _MOST_DIGITS:
        raise OutlineError("its compressed run lengths are garbage.")
    places = np.arange(len(sixes)) - np.repeat(starts, digits)
    runs = np.add.reduceat((sixes & 31) << (5 * places), starts)
    runs -= np.where(sixes[ends] & 16, np.int64(1) << (5 * digits), 0)
    # The first number stands alone; every later one adds to the last of its own kind.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def painted(runs: Runs | Sequence[int], *, height: int, left: int, right: int) -> UInt8Array:
    """Return the columns from `left` to before `right` of what runs mark: exactly 0 or 1.

    Args:
        runs: lengths that fill a picture of this height.
        height: of the picture, in pixels.
        left: first column.
        right: column after the last.
    """
    ends = np.cumsum(np.asarray(runs, np.int64)).clip(left * height, right * height)
    lengths = np.diff(ends, prepend=left * height)
    columns = np.repeat(np.arange(len(lengths), dtype=np.uint8) & 1, lengths)
    return columns.reshape(right - left, height).T
