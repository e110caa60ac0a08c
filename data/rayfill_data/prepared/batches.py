"""Training and evaluation batches out of a split held in memory. Needs neither Ray nor torch.

What a sample looks like in an epoch depends on (seed, epoch, sample id) alone, so batches do not
change with the number of workers and a run resumed in the middle of an epoch sees what it would
have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt

from rayfill_data.checks import Bounds, Checked, Count, Share, Whole, value_problems
from rayfill_data.codec import Float32Array, UInt8Array, to_nchw
from rayfill_data.errors import ConfigError, DatasetError, unknown_name
from rayfill_data.masks.distance import signed_distance
from rayfill_data.masks.hole import RatioRange, dilate, sample_rng
from rayfill_data.masks.shapes import MASKS, draw_mask
from rayfill_data.prepared.reader import SplitArrays
from rayfill_data.prepared.rotation import rotated

Labels = npt.NDArray[np.int64]
_Array = TypeVar("_Array", UInt8Array, Float32Array)

_VALID = np.uint8(0)

#: BT.601 luma, what "gray" means when saturation is changed.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Batch:
    """Samples ready for a model; arrays are numpy, (B, C, H, W) float32."""

    image: Float32Array
    """(B, 3, H, W) in [0, 1]; what lies inside the hole is kept, models blank it themselves."""
    target: Float32Array
    """(B, 3, H, W) in [0, 1]."""
    hole_mask: Float32Array
    """(B, 1, H, W), exactly 0 or 1, 1 = to fill."""
    sample_id: tuple[str, ...]
    labels: Labels | None = None
    """(B, H, W) int64, what the image shows: indices into the manifest's labels, 255 to be ignored;
    None for a dataset without labels."""
    target_labels: Labels | None = None
    """(B, H, W) int64, what the target shows; None for a dataset without labels."""
    signed_distance: Float32Array | None = None
    """(B, 1, H, W) in [-1, 1], of `hole_mask` as it is here; None unless asked for."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What decoded samples may have beside pictures and masks."""

    labels: UInt8Array | None = None
    """(B, H, W) uint8, what the image shows."""
    target_labels: UInt8Array | None = None
    """(B, H, W) uint8, what the target shows."""
    signed_distance: Float32Array | None = None
    """(B, H, W) float32, of the stored hole masks; None makes them where they are asked for."""


_NO_EXTRAS = Extras()


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(Checked):
    """What happens to a training sample each time it is seen."""

    flip: bool = True
    """Mirror left-right with probability one half."""

    color_jitter: Share = 0.0
    """Brightness, contrast and saturation are scaled by factors within 1 +- this."""

    rotate_degrees: Annotated[float, Bounds(ge=0, le=180)] = 0.0
    """Turn by an angle drawn evenly within +- this; stored holes and labels turn along."""

    expand_px: Whole = 0
    """Grow every training hole by a disc of this radius in pixels."""

    masks: str = "irregular"
    """The generator of freshly drawn holes, a name of MASKS."""

    ratio_range: RatioRange | None = None
    """Smallest and largest share of the picture a freshly drawn hole may cover; None: as the
    generator likes."""

    redraw: bool = False
    """Draw a fresh hole for every sample, over its target: where the dataset has an object and its
    mask, the object is left out and the hole is any. Otherwise stored holes are kept."""

    signed_distance: bool = False
    """Give every sample the signed distance of its hole, as boundary losses need it."""

    def relations(self) -> Iterator[str]:
        """Yield the sentence for an unknown generator."""
        if self.masks not in MASKS:
            yield unknown_name("mask generator", self.masks, MASKS)


def prepared_masks(options: Mapping[str, Any]) -> tuple[str, RatioRange | None]:
    """Return the generator and ratio range that a manifest's options name.

    Training then draws holes as those of validation and test were drawn. Options without a
    generator (pasted objects, masks of a folder) leave training rows nothing to draw.
    """
    name, ratio = options.get("masks"), options.get("mask_ratio")
    ratio_range = (float(ratio[0]), float(ratio[1])) if ratio else None
    return (name if name in MASKS else "irregular"), ratio_range


def batches_per_epoch(num_samples: int, batch_size: int, world_size: int) -> int:
    """Return how many batches every rank gets: ceil(N / (batch_size * world_size))."""
    return math.ceil(num_samples / (batch_size * world_size))


def training_batches(
    arrays: SplitArrays,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    augment: AugmentOptions,
    start_batch: int = 0,
) -> Iterator[Batch]:
    """Yield one epoch of shuffled, augmented batches for one rank.

    A global batch is ``batch_size * world_size`` samples of a permutation drawn from (seed, epoch);
    a rank takes every ``world_size``-th of them. The last global batch is filled up from the
    beginning, so all ranks have equally many batches and every sample is seen at least once.

    Args:
        arrays: the split.
        batch_size: samples per rank and batch.
        seed: of the run.
        epoch: counted from 0.
        rank: of this worker.
        world_size: number of workers.
        augment: what happens to a sample.
        start_batch: batches to skip, to resume within an epoch.
    """
    _check_ranks(batch_size, rank, world_size)
    if len(arrays) == 0:
        raise DatasetError("The training split is empty; prepare a dataset with training samples.")
    global_size = batch_size * world_size
    count = batches_per_epoch(len(arrays), batch_size, world_size)
    shuffled = sample_rng(seed, epoch, "order of the epoch").permutation(len(arrays))
    order = np.resize(shuffled, count * global_size).reshape(count, global_size)
    for indices in order[start_batch:, rank::world_size]:
        yield augmented_batch(
            arrays.image[indices],
            arrays.target[indices],
            [arrays.hole_mask[index] if arrays.has_mask[index] else None for index in indices],
            sample_id=tuple(arrays.sample_id[index] for index in indices),
            seed=seed,
            epoch=epoch,
            augment=augment,
            extras=_extras(arrays, indices, distances=_keeps_holes(augment)),
        )


def evaluation_batches(
    arrays: SplitArrays,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    signed_distance: bool = False,
) -> Iterator[Batch]:
    """Yield every sample once over all ranks, in order, unchanged; the last batch may be smaller.

    Raises:
        DatasetError: a sample without a frozen hole mask, which would make results incomparable.
    """
    _check_ranks(batch_size, rank, world_size)
    if not arrays.has_mask.all():
        missing = arrays.sample_id[int(np.argmin(arrays.has_mask))]
        raise DatasetError(
            f"Sample {missing} has no hole mask, and evaluation needs the same holes for every "
            "model. Evaluate on the val or test split."
        )
    mine = np.arange(rank, len(arrays), world_size)
    for start in range(0, len(mine), batch_size):
        indices = mine[start : start + batch_size]
        yield Batch(
            image=to_nchw(arrays.image[indices]),
            target=to_nchw(arrays.target[indices]),
            hole_mask=_binary(arrays.hole_mask[indices]),
            sample_id=tuple(arrays.sample_id[index] for index in indices),
            labels=None if arrays.labels is None else arrays.labels[indices].astype(np.int64),
            target_labels=(
                None
                if arrays.target_labels is None
                else arrays.target_labels[indices].astype(np.int64)
            ),
            signed_distance=arrays.signed_distance[indices][:, None] if signed_distance else None,
        )


def augmented_batch(
    image: UInt8Array,
    target: UInt8Array,
    hole_masks: Sequence[UInt8Array | None],
    *,
    sample_id: tuple[str, ...],
    seed: int,
    epoch: int,
    augment: AugmentOptions,
    extras: Extras = _NO_EXTRAS,
) -> Batch:
    """Augment decoded samples; each one's chance comes from (seed, epoch, sample id) alone.

    Args:
        image: (B, H, W, 3) uint8.
        target: (B, H, W, 3) uint8.
        hole_masks: B masks (H, W) uint8 in {0, 255}, None where one is to be drawn.
        sample_id: B names.
        seed: of the run.
        epoch: counted from 0.
        augment: what happens to a sample.
        extras: labels and distances; labels are flipped and turned with the pictures.
    """
    flipped, factors, degrees, masks = _drawn(
        hole_masks, image.shape[1:3], sample_id=sample_id, seed=seed, epoch=epoch, augment=augment
    )
    if augment.redraw:
        image, extras = target, replace(extras, labels=extras.target_labels)
    if augment.rotate_degrees:
        stored = np.array([mask is not None and not augment.redraw for mask in hole_masks])
        image, target = (rotated(maps, degrees, smooth=True) for maps in (image, target))
        # Every pixel that has something of a hole's in it is hole; fresh holes are as drawn.
        masks = np.where(rotated(masks, degrees * stored, smooth=True) > 0, np.uint8(255), _VALID)
        extras = _turned(extras, degrees)
    distance = None
    if augment.signed_distance:
        distance = _distances(masks, hole_masks, extras.signed_distance, augment)
    image, target, masks = _flip(image, flipped), _flip(target, flipped), _flip(masks, flipped)
    pictures, truth = to_nchw(image), to_nchw(target)
    if augment.color_jitter:
        pictures, truth = _jitter(pictures, truth, factors)
    return Batch(
        image=pictures,
        target=truth,
        hole_mask=_binary(masks),
        sample_id=sample_id,
        labels=_flipped_labels(extras.labels, flipped),
        target_labels=_flipped_labels(extras.target_labels, flipped),
        signed_distance=None if distance is None else _flip(distance, flipped)[:, None],
    )


def _drawn(
    hole_masks: Sequence[UInt8Array | None],
    shape: tuple[int, ...],
    *,
    sample_id: tuple[str, ...],
    seed: int,
    epoch: int,
    augment: AugmentOptions,
) -> tuple[npt.NDArray[np.bool_], Float32Array, Float32Array, UInt8Array]:
    """Return what chance gives each sample: flipped or not, colour factors, angle, hole mask."""
    size = len(sample_id)
    flipped = np.zeros(size, np.bool_)
    factors = np.ones((size, 3), np.float32)
    degrees = np.zeros(size, np.float32)
    masks = np.empty((size, *shape), np.uint8)
    for index, name in enumerate(sample_id):
        rng = sample_rng(seed, epoch, name)
        # Every draw is made whatever the options: switching one off leaves the others as they were.
        flipped[index] = augment.flip & (rng.random() < 0.5)
        factors[index] += augment.color_jitter * rng.uniform(-1.0, 1.0, 3).astype(np.float32)
        mask = hole_masks[index]
        if mask is None or augment.redraw:
            mask = draw_mask(augment.masks, *shape, rng=rng, ratio_range=augment.ratio_range)
        masks[index] = dilate(mask, radius_px=augment.expand_px)
        degrees[index] = augment.rotate_degrees * rng.uniform(-1.0, 1.0)
    return flipped, factors, degrees, masks


def _turned(extras: Extras, degrees: Float32Array) -> Extras:
    """Return labels turned along with the pictures."""

    def turn(labels: UInt8Array | None) -> UInt8Array | None:
        return None if labels is None else rotated(labels, degrees, smooth=False)

    return replace(extras, labels=turn(extras.labels), target_labels=turn(extras.target_labels))


def _distances(
    masks: UInt8Array,
    stored: Sequence[UInt8Array | None],
    known: Float32Array | None,
    augment: AugmentOptions,
) -> Float32Array:
    """Return the signed distance of every mask, the known one where its mask is the stored one."""
    found = np.empty(masks.shape, np.float32)
    for index, mask in enumerate(masks):
        if known is not None and stored[index] is not None and _keeps_holes(augment):
            found[index] = known[index]
        else:
            found[index] = signed_distance(mask)
    return found


def _keeps_holes(augment: AugmentOptions) -> bool:
    """Tell whether distances are wanted of holes as they are stored."""
    changes = augment.redraw or augment.expand_px or augment.rotate_degrees
    return augment.signed_distance and not changes


def _extras(arrays: SplitArrays, indices: npt.NDArray[np.intp], *, distances: bool) -> Extras:
    """Return the labels and, where asked for, the distances of some samples of a split."""
    return Extras(
        labels=None if arrays.labels is None else arrays.labels[indices],
        target_labels=None if arrays.target_labels is None else arrays.target_labels[indices],
        signed_distance=arrays.signed_distance[indices] if distances else None,
    )


def _flip(maps: _Array, flipped: npt.NDArray[np.bool_]) -> _Array:
    """Mirror the samples of (B, H, W, ...) that are flipped."""
    choice = flipped.reshape(-1, *(1,) * (maps.ndim - 1))
    return np.where(choice, maps[:, :, ::-1], maps)


def _flipped_labels(labels: UInt8Array | None, flipped: npt.NDArray[np.bool_]) -> Labels | None:
    return None if labels is None else _flip(labels, flipped).astype(np.int64)


def _jitter(
    image: Float32Array, target: Float32Array, factors: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Scale brightness b, contrast c and saturation s of image and target alike, clipped to [0, 1].

    ``x' = c * b * S x + (1 - c) * m`` with ``S = s * 1 + (1 - s) * luma`` and m the mean luma of
    the brightened target: the object in the image does not change the colours around it.
    """
    brightness, contrast, saturation = factors.T
    gray = np.broadcast_to(_LUMA, (3, 3))
    mixing = saturation[:, None, None] * np.eye(3, dtype=np.float32)
    mixing = mixing + (1 - saturation)[:, None, None] * gray
    mixing = (contrast * brightness)[:, None, None] * mixing
    mean = np.einsum("c,bchw->b", _LUMA, target) / np.float32(target.shape[2] * target.shape[3])
    offset = ((1 - contrast) * brightness * mean)[:, None, None, None]
    return _apply(mixing, offset, image), _apply(mixing, offset, target)


def _apply(mixing: Float32Array, offset: Float32Array, planes: Float32Array) -> Float32Array:
    """Mix colour channels pixel by pixel: (B, 3, 3) on (B, 3, H, W)."""
    mixed = (mixing @ planes.reshape(*planes.shape[:2], -1)).reshape(planes.shape)
    clipped: Float32Array = np.clip(mixed + offset, 0.0, 1.0, dtype=np.float32)
    return clipped


def _binary(masks: UInt8Array) -> Float32Array:
    """Turn (B, H, W) uint8 in {0, 255} into (B, 1, H, W) float32 in {0, 1}."""
    return (masks > 0)[:, None].astype(np.float32)


def _check_ranks(batch_size: int, rank: int, world_size: int) -> None:
    ranks = Annotated[int, Bounds(ge=0, lt=world_size)]
    problems = [
        *value_problems("batch_size", batch_size, Count),
        *value_problems("rank", rank, ranks),
    ]
    if problems:
        raise ConfigError(problems)
