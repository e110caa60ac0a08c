"""A folder of pictures that some other system has finished, matched by name with a split's samples.

A file belongs to the sample whose id, or the picture file that it was prepared from, has the file's
relative path, endings aside; where there is none, to the sample that the part of its name before
the last ``_mask`` is. So these fit as they are written:

- LaMa: ``bin/predict.py`` reads ``NAME_mask001.png`` beside ``NAME.png`` and names its output after
  the mask, ``NAME_mask001.png``; its evaluation expects ``NAME_mask001_inpainted.png``.
- IOPaint: ``iopaint run`` on folders writes ``NAME.png`` for the picture ``NAME.jpg``.
- Most research code, MI-GAN's among it, keeps the input's name.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rayfill_data.codec import FILE_FORMATS, UInt8Array, decode_photo, to_nchw
from rayfill_data.errors import DatasetError, ImageError
from rayfill_data.sources.files import SUFFIXES, list_pictures, read_file, some
from rayfill_data.sources.holes import MAX_FILE_PIXELS, stem

if TYPE_CHECKING:
    from rayfill.models.batch import TensorBatch

_MASK = "_mask"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedPictures:
    """The pictures of a split's samples, and what is wrong with the folder they are from."""

    pictures: Mapping[str, UInt8Array]
    """(H, W, 3) uint8 RGB by sample id."""
    missing: tuple[str, ...]
    """Samples without a picture that can be used."""
    problems: tuple[str, ...]
    """Why a sample lacks its picture, a sentence for each kind."""
    extra: tuple[str, ...]
    """Files that are no sample's."""

    def fill(self, batch: TensorBatch, hole_mask: Tensor) -> Tensor:
        """Return the pictures of a batch's samples, (B, 3, H, W) in [0, 1], whatever the hole."""
        levels = np.stack([self.pictures[sample] for sample in batch.sample_id])
        return torch.from_numpy(to_nchw(levels)).to(hole_mask.device)

    def only(self, samples: Iterable[str]) -> FinishedPictures:
        """Return the same with the pictures of some samples only."""
        return dataclasses.replace(self, pictures={name: self.pictures[name] for name in samples})


def read_finished(folder: str, *, sizes: Mapping[str, tuple[int, int]]) -> FinishedPictures:
    """Match the pictures below a folder with samples and decode every one.

    Args:
        folder: Folder or URI; subfolders are searched too.
        sizes: (height, width) of the split's samples by sample id.

    Raises:
        DatasetError: no folder, or one that cannot be listed.
    """
    found, doubled, extra = match(list_pictures(folder), samples=sizes)
    problems = []
    if lacking := [sample for sample in sizes if sample not in found and sample not in doubled]:
        problems.append(f"{len(lacking)} samples have no picture: {some(lacking)}.")
    if doubled:
        listed = [f"{sample} ({' and '.join(names)})" for sample, names in doubled.items()]
        problems.append(f"{len(doubled)} samples have several pictures: {some(listed)}.")

    def decode(item: tuple[str, str]) -> UInt8Array | str:
        sample, name = item
        return _decode(folder, name, size=sizes[sample])

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        decoded = dict(zip(found, pool.map(decode, found.items()), strict=True))
    if wrong := [f"{found[s]} ({why})" for s, why in decoded.items() if isinstance(why, str)]:
        problems.append(f"{len(wrong)} pictures cannot be used: {some(wrong)}.")
    pictures = {s: picture for s, picture in decoded.items() if not isinstance(picture, str)}
    return FinishedPictures(
        pictures=pictures,
        missing=tuple(sample for sample in sizes if sample not in pictures),
        problems=tuple(problems),
        extra=tuple(extra),
    )


def match(
    files: Iterable[str], *, samples: Iterable[str]
) -> tuple[dict[str, str], dict[str, list[str]], list[str]]:
    """Return the file of each sample, the files of samples with several, and files of none.

    Args:
        files: Relative paths with forward slashes.
        samples: Sample ids; one may be the relative path of a picture file.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    known = set(samples)
    for sample in sorted(known):
        # A folder's samples are named by their files, others have no ending.
        is_file = PurePosixPath(sample).suffix.lower() in SUFFIXES
        for key in {sample, stem(sample)} if is_file else {sample}:
            by_stem[key].append(sample)
    claims: dict[str, list[str]] = defaultdict(list)
    extra = []
    for name in files:
        keys = (name, stem(name), stem(name).rpartition(_MASK)[0])
        # Two samples may differ in their files' endings alone: only the whole name tells.
        owners = next((by_stem[key] for key in keys if key in by_stem), [])
        if name in known or len(owners) == 1:
            claims[name if name in known else owners[0]].append(name)
        else:
            extra.append(name)
    found = {sample: names[0] for sample, names in claims.items() if len(names) == 1}
    doubled = {sample: names for sample, names in claims.items() if len(names) > 1}
    return found, doubled, extra


def check_finished(
    finished: Mapping[str, FinishedPictures], *, allow_missing: bool
) -> tuple[set[str], list[str]]:
    """Return the samples that some system lacks, and a note for everything that is amiss.

    Args:
        finished: By the systems' names.
        allow_missing: Leave samples out that a system lacks.

    Raises:
        DatasetError: with every problem of every folder, where samples may not be missing.
    """
    problems = [f"{name}: {text}" for name, one in finished.items() for text in one.problems]
    extra = [
        f"{name}: {len(one.extra)} files belong to no sample and are not looked at: "
        f"{some(one.extra)}."
        for name, one in finished.items()
        if one.extra
    ]
    if problems and not allow_missing:
        lines = "\n".join(f"- {text}" for text in [*problems, *extra])
        raise DatasetError(
            f"Finished pictures and samples do not fit together:\n{lines}\n"
            "Give every sample one picture of its own size, named as the sample or the file it "
            "came from, or add --allow-missing to measure all systems on the samples that all have."
        )
    missing = {sample for one in finished.values() for sample in one.missing}
    return missing, [*problems, *extra]


def _decode(folder: str, name: str, *, size: tuple[int, int]) -> UInt8Array | str:
    """Return a picture, or why it cannot be used."""
    try:
        data = read_file(folder, name)
        rgb = decode_photo(data, max_pixels=MAX_FILE_PIXELS, formats=FILE_FORMATS).rgb
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"unreadable: {error.strerror or type(error).__name__}"
    if rgb.shape[:2] != size:
        return f"{rgb.shape[1]}x{rgb.shape[0]} pixels, its sample has {size[1]}x{size[0]}"
    return rgb
