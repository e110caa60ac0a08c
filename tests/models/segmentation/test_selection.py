"""Which object is chosen, which pixels its soft mask may take, and what a hole passes back."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, label

from rayfill.models import build_model
from rayfill.models.segmentation import (
    SegmenterOutput,
    Segments,
    select_by_clicks,
    select_by_overlap,
    select_label,
    soft_mask,
    straight_through,
)
from rayfill_data.errors import ConfigError, RayfillError

SIZE = (24, 40)


def box(top, bottom, left, right):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


#: Two persons on the left and right, and a dog below the right one.
LEFT, RIGHT, DOG = box(4, 12, 3, 10), box(6, 16, 24, 34), box(18, 22, 26, 38)


def logits_of(*masks, batch=1, sure=3.0):
    """Logits whose argmax is label i + 1 on ``masks[i]``, everywhere of some probability."""
    generator = torch.Generator().manual_seed(0)
    logits = 0.3 * torch.randn(batch, len(masks) + 1, *SIZE, generator=generator)
    for index, mask in enumerate(masks):
        logits[:, index + 1] += torch.where(mask, sure, -sure)
    return logits


def as_batch(*masks):
    return torch.stack([mask.float() for mask in masks])[:, None]


PERSONS_AND_DOG = (LEFT | RIGHT, DOG)


def test_the_object_with_most_overlap_is_chosen():
    logits = logits_of(*PERSONS_AND_DOG, batch=2)
    truth = as_batch(box(3, 9, 0, 30), box(0, 24, 5, 40))  # touch both, left and right more
    selected = select_by_overlap(logits, label=1, truth=truth)
    assert selected.found.tolist() == [True, True]
    assert torch.equal(selected.hard, as_batch(LEFT, RIGHT))
    assert torch.equal(straight_through(selected.soft), selected.hard)
    dog = select_by_overlap(logits, label=2, truth=as_batch(DOG, DOG))
    assert torch.equal(dog.hard, as_batch(DOG, DOG))


def test_everything_of_a_label_can_be_chosen_and_nothing_of_another():
    logits = logits_of(*PERSONS_AND_DOG)
    persons = select_label(logits, label=1)
    assert persons.found.tolist() == [True]
    assert torch.equal(persons.hard, as_batch(LEFT | RIGHT))
    assert torch.equal(persons.soft, logits.softmax(dim=1)[:, 1:2])
    nobody = select_label(logits_of(box(0, 0, 0, 0), DOG), label=1)
    assert nobody.found.tolist() == [False]
    assert not nobody.hard.any()


@pytest.mark.parametrize(("selects", "wanted"), [("object", LEFT), ("label", LEFT | RIGHT)])
def test_a_joint_model_removes_an_object_or_all_of_its_label(selects, wanted):
    config = {"inpainter_options": {"width": 2, "depth": 1}, "selects": selects}
    model = build_model("joint", **config).eval()
    model.segmenter.forward = lambda image, labels=None: SegmenterOutput(
        logits=logits_of(*PERSONS_AND_DOG)[:, :2]
    )
    removed = model.remove(torch.rand(1, 3, *SIZE), object_mask=as_batch(LEFT))
    assert torch.equal(removed.hole_mask, as_batch(wanted))


def test_the_soft_mask_is_the_probability_nearer_to_the_object_than_to_others():
    logits = logits_of(*PERSONS_AND_DOG)
    selected = select_by_overlap(logits, label=1, truth=as_batch(LEFT))
    probability = logits.softmax(dim=1)[:, 1:2]
    near = distance_transform_edt(~LEFT.numpy()) <= distance_transform_edt(~RIGHT.numpy())
    expected = probability * torch.from_numpy(near)
    assert torch.equal(selected.soft, expected)
    assert 0 < near.mean() < 1
    # It may grow: pixels around the object have some probability left.
    assert selected.soft[0, 0, 13, 5] > 0
    assert selected.soft[0, 0, RIGHT].eq(0).all()


@pytest.mark.parametrize("seed", range(4))
def test_components_equal_scipys(seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 2, 8, 12, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=SIZE, mode="nearest")
    seen = (logits[0, 1] > logits[0, 0]).numpy()
    regions, count = label(seen, structure=np.ones((3, 3)))
    truth = torch.rand(1, 1, *SIZE, generator=generator).gt(0.5).float()
    shared = [(truth[0, 0].numpy() * (regions == k)).sum() for k in range(1, count + 1)]
    selected = select_by_overlap(logits, label=1, truth=truth)
    assert torch.equal(
        selected.hard[0, 0], torch.from_numpy(regions == 1 + int(np.argmax(shared))).float()
    )


def test_corners_join_and_a_threshold_decides_what_is_seen():
    touching = box(2, 6, 2, 6) | box(6, 9, 6, 9)
    logits = logits_of(touching)
    selected = select_by_overlap(logits, label=1, truth=as_batch(box(2, 3, 2, 3)))
    assert torch.equal(selected.hard, as_batch(touching))
    strict = select_by_overlap(
        logits_of(touching, sure=0.7), label=1, truth=as_batch(touching), threshold=0.95
    )
    assert not strict.found.any()
    assert strict.hard.sum() == 0


@pytest.mark.parametrize("truth", [box(20, 22, 2, 8), box(0, 0, 0, 0)])
def test_nothing_found_is_said_and_leaves_the_whole_probability(truth):
    logits = logits_of(*PERSONS_AND_DOG, batch=2)
    selected = select_by_overlap(logits, label=1, truth=as_batch(truth, LEFT))
    assert selected.found.tolist() == [False, True]
    assert selected.hard[0].sum() == 0
    assert torch.equal(selected.soft[0], soft_mask(logits, label=1)[0])
    assert torch.equal(selected.hard[1:], as_batch(LEFT))


def test_no_object_at_all_is_no_crash():
    logits = torch.zeros(1, 2, *SIZE)
    logits[:, 0] = 9.0
    selected = select_by_overlap(logits, label=1, truth=as_batch(LEFT))
    assert not selected.found.any()
    assert selected.soft.sum() > 0


def test_instances_tell_touching_objects_apart():
    left, right = box(4, 12, 3, 10), box(4, 12, 10, 18)
    logits = logits_of(left | right)
    seen = Segments(
        masks=torch.stack([left.float(), 0.9 * right.float(), box(0, 24, 0, 40).float()]),
        labels=torch.tensor([1, 1, 2]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
    )
    truth = as_batch(box(0, 24, 12, 40))
    one = select_by_overlap(logits, label=1, truth=truth, segments=(seen,))
    assert torch.equal(one.hard, as_batch(right))
    assert one.soft[0, 0, left].eq(0).all()
    both = select_by_overlap(logits, label=1, truth=truth)
    assert torch.equal(both.hard, as_batch(left | right))
    none = Segments(
        masks=torch.zeros(0, *SIZE), labels=torch.zeros(0).long(), scores=torch.zeros(0)
    )
    assert not select_by_overlap(logits, label=1, truth=truth, segments=(none,)).found.any()


def test_gradients_flow_inside_the_region_only():
    logits = logits_of(*PERSONS_AND_DOG).requires_grad_()
    selected = select_by_overlap(logits, label=1, truth=as_batch(LEFT))
    selected.soft.sum().backward()
    reached = logits.grad.abs().sum(dim=1)[0] > 0
    assert reached[LEFT].all()
    assert not reached[RIGHT].any()
    assert not selected.hard.requires_grad


def test_straight_through_is_a_hole_with_the_soft_masks_gradient():
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(2, 1, 50, 60, generator=generator).requires_grad_()
    hole = straight_through(soft)
    assert torch.equal(hole, (soft > 0.5).float())
    assert hole.unique().tolist() == [0.0, 1.0]
    weights = torch.randn(soft.shape, generator=generator)
    (hole * weights).sum().backward()
    assert torch.equal(soft.grad, weights)
    assert torch.equal(straight_through(soft, threshold=0.9).detach(), (soft > 0.9).float())


def test_an_inpainting_loss_moves_the_segmenter_through_the_hole():
    """Filling costs 1 a pixel: every logit of the label is pushed down, and only there."""
    logits = logits_of(LEFT).requires_grad_()
    selected = select_by_overlap(logits, label=1, truth=as_batch(LEFT))
    straight_through(selected.soft).mean().backward()
    assert (logits.grad[:, 1] > 0).all()
    assert (logits.grad[:, 0] < 0).all()


def test_clicks_choose_and_unchoose():
    logits = logits_of(*PERSONS_AND_DOG)

    def hard(*clicks):
        selected = select_by_clicks(logits, clicks=clicks)
        assert torch.equal(straight_through(selected.soft), selected.hard)
        assert selected.found.item()
        return selected.hard[0, 0].bool()

    assert torch.equal(hard([5, 6, 1]), LEFT)
    assert torch.equal(hard([5, 6, 1], [30, 20, 1]), LEFT | DOG)
    assert torch.equal(hard([5, 6, 1], [30, 20, 1], [9.9, 4.0, 0]), DOG)
    assert torch.equal(hard([5, 6, 1], [20, 2, 0]), LEFT)  # not this nothing
    assert torch.equal(hard([11.5, 6, 1]), LEFT)  # missed by two pixels


def test_clicks_that_leave_nothing():
    logits = logits_of(*PERSONS_AND_DOG)
    for clicks in ([[5, 6, 1], [6, 6, 0]], [[39, 0, 1]]):
        selected = select_by_clicks(logits, clicks=clicks, tolerance_px=4)
        assert not selected.found.item()
        assert selected.hard.sum() == 0
        assert torch.equal(selected.soft, 1 - logits.softmax(dim=1)[:, :1])
    empty = torch.zeros(1, 2, *SIZE)
    empty[:, 0] = 9.0
    assert not select_by_clicks(empty, clicks=[[1, 1, 1]]).found.item()


def test_clicked_instances():
    left, right = box(4, 12, 3, 10), box(4, 12, 10, 18)
    seen = Segments(
        masks=torch.stack([left.float(), right.float()]),
        labels=torch.tensor([1, 1]),
        scores=torch.tensor([0.9, 0.8]),
    )
    selected = select_by_clicks(logits_of(left | right), clicks=[[12, 5, 1]], segments=seen)
    assert torch.equal(selected.hard, as_batch(right))


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ([[40, 3, 1]], r"click \[40, 3, 1\] lies outside the photo of 40x24 pixels"),
        ([[3, 24.0, 1]], "outside the photo of 40x24"),
        ([[-0.5, 3, 1]], "outside the photo"),
        ([[float("nan"), 3, 1]], "outside the photo"),
        ([[3, 3, 2]], r"click \[3, 3, 2\] is not one"),
        ([[3, 3]], r"click \[3, 3\] is not one"),
        ([[3, 3, 0]], "none of 1 clicks is a positive one"),
        ([], "none of 0 clicks"),
    ],
)
def test_clicks_that_cannot_be_used(clicks, message):
    with pytest.raises(RayfillError, match=message):
        select_by_clicks(logits_of(LEFT), clicks=clicks)


def test_other_shapes_and_thresholds_are_refused():
    logits = logits_of(LEFT, batch=2)
    with pytest.raises(RayfillError, match=r"logits have shape \(2, 2, 24, 40\)"):
        select_by_clicks(logits, clicks=[[1, 1, 1]])
    with pytest.raises(RayfillError, match=r"these logits need \(2, 1, 24, 40\)"):
        select_by_overlap(logits, label=1, truth=as_batch(LEFT))
    for threshold in (0.0, 1.0):
        with pytest.raises(ConfigError, match="threshold is"):
            straight_through(logits, threshold=threshold)
        with pytest.raises(ConfigError, match="threshold is"):
            select_by_overlap(logits, label=1, truth=as_batch(LEFT, LEFT), threshold=threshold)


def test_thousands_of_specks_cost_little_memory():
    """What a poor segmenter says of noise: 16,384 objects in one photo."""
    side = 256
    logits = torch.full((1, 2, side, side), -4.0)
    logits[:, 0] = 0.0
    logits[:, 1, ::2, ::2] = 4.0
    tracemalloc.start()
    selected = select_by_clicks(logits, clicks=[[100, 50, 1], [3, 3, 0]])
    by_truth = select_by_overlap(logits, label=1, truth=selected.hard)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert selected.hard.nonzero().tolist() == [[0, 0, 50, 100]]
    assert torch.equal(by_truth.hard, selected.hard)
    assert peak < 16 * 2**20, "a mask for each of them would be 1 GiB"


def test_pixels_as_near_to_two_objects_are_always_taken():
    """Distances that differ in their last bit from call to call must not decide."""
    generator = torch.Generator().manual_seed(0)
    size = (96, 128)
    for _ in range(20):
        coarse = 4 * torch.randn(1, 2, 12, 16, generator=generator)
        logits = torch.nn.functional.interpolate(coarse, size=size, mode="nearest")
        regions, count = label((logits[0, 1] > logits[0, 0]).numpy(), structure=np.ones((3, 3)))
        mine = regions == count
        y, x = (int(axis[0]) for axis in mine.nonzero())
        selected = select_by_clicks(logits, clicks=[[x, y, 1]])
        squares = [
            np.rint(distance_transform_edt(~mask) ** 2) if mask.any() else np.full(size, np.inf)
            for mask in (mine, (regions > 0) & ~mine)
        ]
        nearer = torch.from_numpy(squares[0] <= squares[1])
        assert torch.equal(selected.soft, logits.softmax(dim=1)[:, 1:] * nearer)
