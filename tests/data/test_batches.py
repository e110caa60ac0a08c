from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rayfill_data.codec import to_nchw, to_uint8
from rayfill_data.errors import ConfigError, DatasetError
from rayfill_data.masks.hole import dilate, hole_ratio
from rayfill_data.prepared.batches import (
    AugmentOptions,
    Batch,
    batches_per_epoch,
    evaluation_batches,
    training_batches,
)
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays

PLAIN = AugmentOptions(flip=False)
EVERYTHING = AugmentOptions(flip=True, color_jitter=0.4, expand_px=2, ratio_range=(0.1, 0.3))


@pytest.fixture
def arrays(make_dataset: Any) -> SplitArrays:
    return PreparedDataset.open(str(make_dataset())).load("train")


def epoch_of(arrays: SplitArrays, **options: Any) -> list[Batch]:
    settings = {"batch_size": 4, "seed": 1, "epoch": 0, "augment": EVERYTHING} | options
    return list(training_batches(arrays, **settings))


def by_sample(batches: list[Batch]) -> dict[str, tuple[bytes, ...]]:
    """Every sample's exact bytes; a sample seen twice must be the same both times."""
    seen: dict[str, tuple[bytes, ...]] = {}
    for batch in batches:
        for index, name in enumerate(batch.sample_id):
            parts = (batch.image[index], batch.target[index], batch.hole_mask[index])
            value = tuple(part.tobytes() for part in parts)
            assert seen.setdefault(name, value) == value
    return seen


def test_shapes_ranges_and_dtypes(arrays: SplitArrays) -> None:
    for batch in epoch_of(arrays):
        assert batch.image.shape == batch.target.shape == (4, 3, 16, 16)
        assert batch.hole_mask.shape == (4, 1, 16, 16)
        for plane in (batch.image, batch.target, batch.hole_mask):
            assert plane.dtype == np.float32
            assert plane.min() >= 0
            assert plane.max() <= 1
        assert set(np.unique(batch.hole_mask)) == {0, 1}


def test_plain_batches_are_the_samples(arrays: SplitArrays) -> None:
    for batch in epoch_of(arrays, augment=PLAIN):
        for index, name in enumerate(batch.sample_id):
            row = arrays.sample_id.index(name)
            np.testing.assert_array_equal(
                batch.image[index], to_nchw(arrays.image[row : row + 1])[0]
            )
            np.testing.assert_array_equal(to_uint8(batch.target)[index], arrays.target[row])
            if arrays.has_mask[row]:
                hole = arrays.hole_mask[row] > 0
                np.testing.assert_array_equal(batch.hole_mask[index, 0] > 0, hole)


def test_the_image_keeps_what_lies_inside_its_hole(arrays: SplitArrays) -> None:
    batch = epoch_of(arrays, augment=PLAIN)[0]
    hole = np.broadcast_to(batch.hole_mask, batch.image.shape) > 0
    assert (batch.image[hole] > 0).mean() > 0.9


@pytest.mark.parametrize("batch_size", [1, 4, 7, 30, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_rank_has_equally_many_batches_and_every_sample_is_seen(
    arrays: SplitArrays, batch_size: int, world_size: int
) -> None:
    count = batches_per_epoch(len(arrays), batch_size, world_size)
    names: Counter[str] = Counter()
    for rank in range(world_size):
        mine = epoch_of(
            arrays, batch_size=batch_size, rank=rank, world_size=world_size, augment=PLAIN
        )
        assert len(mine) == count
        for batch in mine:
            assert len(batch.sample_id) == batch_size
            names.update(batch.sample_id)
    assert set(names) == set(arrays.sample_id)
    assert max(names.values()) - min(names.values()) <= 1


def test_global_batches_do_not_depend_on_world_size(arrays: SplitArrays) -> None:
    alone = epoch_of(arrays, batch_size=12)
    for world_size in (2, 3, 4):
        ranks = [
            epoch_of(arrays, batch_size=12 // world_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for step, whole in enumerate(alone):
            together = [ranks[rank][step] for rank in range(world_size)]
            assert by_sample(together) == by_sample([whole])


@pytest.mark.parametrize("start", [0, 1, 5, 7, 8, 9])
def test_resuming_gives_what_would_have_come(arrays: SplitArrays, start: int) -> None:
    whole = epoch_of(arrays)
    rest = epoch_of(arrays, start_batch=start)
    assert len(rest) == max(0, len(whole) - start)
    for expected, got in zip(whole[start:], rest, strict=True):
        assert got.sample_id == expected.sample_id
        np.testing.assert_array_equal(got.image, expected.image)
        np.testing.assert_array_equal(got.target, expected.target)
        np.testing.assert_array_equal(got.hole_mask, expected.hole_mask)


def test_epochs_and_seeds_differ_and_repeat(arrays: SplitArrays) -> None:
    first = by_sample(epoch_of(arrays))
    assert by_sample(epoch_of(arrays)) == first
    for other in ({"epoch": 1}, {"seed": 2}):
        changed = epoch_of(arrays, **other)
        assert [batch.sample_id for batch in changed] != [
            batch.sample_id for batch in epoch_of(arrays)
        ]
        assert by_sample(changed) != first


def test_fresh_masks_are_new_every_epoch_and_frozen_ones_are_not(arrays: SplitArrays) -> None:
    augment = AugmentOptions(flip=False, ratio_range=(0.2, 0.25))

    def masks(epoch: int) -> dict[str, np.ndarray]:
        return {
            name: batch.hole_mask[index, 0]
            for batch in epoch_of(arrays, epoch=epoch, augment=augment)
            for index, name in enumerate(batch.sample_id)
        }

    one, two = masks(0), masks(1)
    for row, name in enumerate(arrays.sample_id):
        same = np.array_equal(one[name], two[name])
        assert same == bool(arrays.has_mask[row])
        if not arrays.has_mask[row]:
            assert 0.2 <= hole_ratio(one[name]) <= 0.25 + 1 / 256


def test_expansion_grows_every_hole_by_a_disc(arrays: SplitArrays) -> None:
    grown = epoch_of(arrays, augment=AugmentOptions(flip=False, expand_px=3))
    for batch, plain in zip(grown, epoch_of(arrays, augment=PLAIN), strict=True):
        for index in range(4):
            mask = (plain.hole_mask[index, 0] * 255).astype(np.uint8)
            expected = dilate(mask, radius_px=3) > 0
            np.testing.assert_array_equal(batch.hole_mask[index, 0] > 0, expected)


def test_flip_mirrors_image_target_and_mask_together(arrays: SplitArrays) -> None:
    flipped = 0
    pairs = zip(
        epoch_of(arrays, augment=AugmentOptions(flip=True)),
        epoch_of(arrays, augment=PLAIN),
        strict=True,
    )
    for batch, plain in pairs:
        for index in range(4):
            mirrored = {
                np.array_equal(getattr(batch, part)[index], getattr(plain, part)[index, ..., ::-1])
                for part in ("image", "target", "hole_mask")
            }
            assert len(mirrored) == 1
            flipped += mirrored.pop()
    assert 8 <= flipped <= 24


def test_jitter_keeps_image_and_target_equal_outside_the_hole(arrays: SplitArrays) -> None:
    augment = AugmentOptions(flip=False, color_jitter=0.5)
    changed = 0
    pairs = zip(epoch_of(arrays, augment=augment), epoch_of(arrays, augment=PLAIN), strict=True)
    for batch, plain in pairs:
        same = plain.image == plain.target
        np.testing.assert_array_equal(batch.image[same], batch.target[same])
        changed += int((np.abs(batch.target - plain.target).mean(axis=(1, 2, 3)) > 0.01).sum())
    assert changed > 24


def test_jitter_equals_its_definition() -> None:
    from rayfill_data.prepared.batches import _jitter

    rng = np.random.default_rng(0)
    image, target = rng.random((2, 2, 3, 5, 6)).astype(np.float32)
    factors = np.array([[1.2, 0.7, 0.5], [0.8, 1.3, 1.4]], np.float32)
    got_image, got_target = _jitter(image, target, factors)
    luma = np.array([0.299, 0.587, 0.114])
    for index, (brightness, contrast, saturation) in enumerate(factors.astype(np.float64)):
        mean = np.tensordot(luma, target[index] * brightness, 1).mean()
        for before, after in ((image, got_image), (target, got_target)):
            lit = before[index].astype(np.float64) * brightness
            gray = np.tensordot(luma, lit, 1)
            coloured = saturation * lit + (1 - saturation) * gray
            expected = np.clip(contrast * coloured + (1 - contrast) * mean, 0, 1)
            np.testing.assert_allclose(after[index], expected, atol=1e-6)


def test_evaluation_sees_every_sample_once_and_unchanged(make_dataset: Any) -> None:
    arrays = PreparedDataset.open(str(make_dataset())).load("val")
    for world_size in (1, 2, 3, 9):
        names = []
        for rank in range(world_size):
            for batch in evaluation_batches(arrays, batch_size=3, rank=rank, world_size=world_size):
                rows = [arrays.sample_id.index(name) for name in batch.sample_id]
                np.testing.assert_array_equal(to_uint8(batch.image), arrays.image[rows])
                np.testing.assert_array_equal(to_uint8(batch.target), arrays.target[rows])
                np.testing.assert_array_equal(batch.hole_mask[:, 0] * 255, arrays.hole_mask[rows])
                names += batch.sample_id
        assert sorted(names) == list(arrays.sample_id)


def test_evaluation_needs_frozen_masks(arrays: SplitArrays) -> None:
    with pytest.raises(DatasetError, match=r"train-00001 has no hole mask"):
        list(evaluation_batches(arrays, batch_size=2))


def test_empty_split_cannot_be_trained_on(arrays: SplitArrays) -> None:
    nothing = {
        field.name: values if values is None else values[:0]
        for field in dataclasses.fields(SplitArrays)
        for values in [getattr(arrays, field.name)]
    }
    with pytest.raises(DatasetError, match="empty"):
        epoch_of(SplitArrays(**nothing))


def test_all_problems_come_at_once(arrays: SplitArrays) -> None:
    with pytest.raises(ConfigError) as error:
        AugmentOptions(color_jitter=2, expand_px=-3, ratio_range=(0, 1))
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError) as error:
        epoch_of(arrays, batch_size=0, rank=2, world_size=2)
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("samples", "batch", "world", "expected"),
    [(10, 5, 1, 2), (11, 5, 1, 3), (10, 5, 2, 1), (1, 64, 8, 1), (0, 4, 1, 0)],
)
def test_batches_per_epoch(samples: int, batch: int, world: int, expected: int) -> None:
    assert batches_per_epoch(samples, batch, world) == expected
