"""Turned training samples: against scipy, and hole, labels and picture turn as one."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from rayfill_data.prepared.batches import AugmentOptions, Extras, augmented_batch
from rayfill_data.prepared.rotation import rotated


def smooth_pictures(count: int, size: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (count, size, size, 3))
    return ndimage.gaussian_filter(noise, (0, 3, 3, 0)).clip(0, 255).astype(np.uint8)


def test_it_is_scipy_s_rotation() -> None:
    pictures = smooth_pictures(3)
    degrees = np.array([0.0, 10.0, -25.0], np.float32)
    got = rotated(pictures, degrees, smooth=True)
    assert np.array_equal(got[0], pictures[0])
    for index in (1, 2):
        oracle = ndimage.rotate(
            pictures[index].astype(float), degrees[index], reshape=False, order=1, mode="mirror"
        )
        assert np.abs(got[index] - oracle).max() < 3


def test_masks_and_labels_keep_their_values() -> None:
    labels = np.random.default_rng(1).choice([0, 7, 255], (2, 20, 30)).astype(np.uint8)
    turned = rotated(labels, np.array([5.0, 170.0], np.float32), smooth=False)
    assert turned.shape == labels.shape
    assert set(np.unique(turned)) <= {0, 7, 255}


def turned_batch(**changes: object) -> tuple[object, AugmentOptions]:
    pictures = smooth_pictures(4)
    mask = np.zeros((4, 40, 40), np.uint8)
    mask[:, 4:14, 20:34] = 255
    augment = AugmentOptions(rotate_degrees=30.0, flip=False, **changes)
    red = np.where(mask[..., None] > 0, np.array([255, 0, 0], np.uint8), pictures)
    batch = augmented_batch(
        red,
        pictures,
        [*mask[:3], None],
        sample_id=("a", "b", "c", "d"),
        seed=1,
        epoch=2,
        augment=augment,
        extras=Extras(labels=(mask > 0).astype(np.uint8), target_labels=np.zeros_like(mask)),
    )
    return batch, augment


def test_hole_and_labels_follow_the_object_and_fresh_holes_stay_as_drawn() -> None:
    batch, augment = turned_batch()
    assert batch.labels is not None
    for index in range(3):
        hole, labels = batch.hole_mask[index, 0] > 0, batch.labels[index] > 0
        assert not (labels & ~hole).any()
        assert hole.sum() < 1.4 * labels.sum()  # a pixel all around
        red = (batch.image[index, 0] > 0.9) & (batch.image[index, 1] < 0.2)
        assert not (red & ~hole).any()
        # Nothing of the object shows outside: known pixels are those of the truth, bit for bit.
        assert np.array_equal(batch.image[index][:, ~hole], batch.target[index][:, ~hole])
    still = dataclasses.replace(augment, rotate_degrees=0.0)
    fresh = augmented_batch(
        smooth_pictures(1),
        smooth_pictures(1),
        [None],
        sample_id=("d",),
        seed=1,
        epoch=2,
        augment=still,
    )
    assert np.array_equal(fresh.hole_mask[0], batch.hole_mask[3])
    assert not np.array_equal(batch.hole_mask[0], batch.hole_mask[1])  # angles of their own


def test_the_distance_is_that_of_the_turned_hole() -> None:
    from rayfill_data.masks.distance import signed_distance

    batch, _ = turned_batch(signed_distance=True)
    assert batch.signed_distance is not None
    for mask, distance in zip(batch.hole_mask, batch.signed_distance, strict=True):
        expected = signed_distance((mask[0] * 255).astype(np.uint8))
        assert np.array_equal(distance[0], expected)
