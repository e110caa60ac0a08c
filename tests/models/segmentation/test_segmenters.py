"""Every segmenter keeps the contract; the small one and its loss against what they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rayfill.models.segmentation import (
    SEGMENTERS,
    Segmenter,
    build_segmenter,
    segmenter_config,
    soft_mask,
)
from rayfill.models.segmentation.losses import balanced_cross_entropy, label_cross_entropy
from rayfill_data.errors import ConfigError, RayfillError

LABELS = ("nothing", "person", "sky")
#: As small as each comes.
SMALL = {
    "segmentation_unet": {"width": 4, "depth": 3},
    "panoptic_fpn": {"weights": "none", "min_side": 0, "width": 16},
}


@pytest.fixture(scope="module", params=SEGMENTERS)
def segmenter(request) -> Segmenter:
    torch.manual_seed(0)
    network = build_segmenter(request.param, labels=LABELS, **SMALL[request.param])
    if request.param == "panoptic_fpn":
        # Random ones see nothing; these see a few persons somewhere, and label pixels somehow.
        torch.nn.init.normal_(network.semantic.predictor.weight)
        torch.nn.init.constant_(network.detector.roi_heads.box_predictor.cls_score.bias[1:2], 6.0)
        network.detector.rpn._post_nms_top_n = {"training": 8, "testing": 8}
    return network


def pictures(height=64, width=64, *, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 3, height, width, generator=generator)
    labels = torch.zeros(count, height, width, dtype=torch.int64)
    labels[:, : height // 4] = 2
    labels[:, height // 3 : -3, width // 3 : -5] = 1
    labels[:, -2:] = 255
    return image, labels


def test_every_segmenter_is_tested_small():
    assert SMALL.keys() == SEGMENTERS.keys()


@pytest.mark.parametrize("size", [(17, 31), (64, 64), (70, 41)])
def test_logits_come_at_any_size(segmenter, size):
    image, _ = pictures(*size)
    with torch.no_grad():
        logits = segmenter.eval().segment(image)
    assert logits.shape == (2, len(LABELS), *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    mask = soft_mask(logits, label=segmenter.index("person"))
    assert mask.shape == (2, 1, *size)
    torch.testing.assert_close(mask, logits.softmax(dim=1)[:, 1:2])


def test_two_calls_agree_and_change_nothing(segmenter):
    image, _ = pictures()
    segmenter.eval()
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    with torch.no_grad():
        first, second = segmenter.segment(image), segmenter.segment(image)
        alone = segmenter.segment(image[1:])
    assert torch.equal(first, second)
    torch.testing.assert_close(first[1:], alone, rtol=1e-2, atol=1e-2)
    after = segmenter.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(module.training for module in segmenter.modules())


def test_one_pass_gives_both_halves(segmenter):
    image, labels = pictures()
    with torch.no_grad():
        segmenter.eval()
        torch.manual_seed(0)
        both = segmenter(image, labels)
        torch.manual_seed(0)
        losses = segmenter.loss(image, labels)
        assert torch.equal(both.logits, segmenter.segment(image))
    assert both.losses.keys() == losses.keys()
    for name, value in both.losses.items():
        assert value.shape == ()
        assert value.isfinite()
        assert torch.equal(value, losses[name])
    assert not segmenter(image[:1]).losses


def test_gradients_of_mask_and_loss_reach_the_weights(segmenter):
    image, labels = pictures()
    segmenter.train()
    image.requires_grad_()
    for wanted in (
        lambda: soft_mask(segmenter.segment(image), label=1).mean(),
        lambda: sum(segmenter.loss(image, labels).values()),
    ):
        segmenter.zero_grad()
        image.grad = None
        wanted().backward()
        assert image.grad.abs().sum() > 0
        assert image.grad.isfinite().all()
        trained = [p for p in segmenter.parameters() if p.requires_grad]
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
        reached = sum(p.grad is not None and bool(p.grad.any()) for p in trained)
        assert reached > 0.5 * len(trained)
    # What Mask R-CNN's losses and the semantic head's together train is everything.
    assert all(p.grad is not None for p in trained)


def test_a_batch_without_labels_or_objects_has_a_finite_loss(segmenter):
    image, labels = pictures()
    segmenter.eval()
    for value in (0, 255):
        with torch.no_grad():
            losses = segmenter.loss(image, torch.full_like(labels, value))
        assert all(loss.isfinite() for loss in losses.values())


def test_wrong_shapes_are_refused(segmenter):
    image, labels = pictures()
    with pytest.raises(RayfillError, match=r"segmenter takes \(B, 3, H, W\)"):
        segmenter(image[:, :1])
    with pytest.raises(RayfillError, match=r"this image needs \(2, 64, 64\) int64"):
        segmenter(image, labels[:1])
    with pytest.raises(RayfillError, match="torch.float32; this image"):
        segmenter(image, labels.float())


def test_unknown_labels_are_named(segmenter):
    assert segmenter.index("sky") == 2
    with pytest.raises(ConfigError, match="Unknown label 'persn'. Did you mean 'person'"):
        segmenter.index("persn")
    with pytest.raises(ConfigError, match="Unknown label 'nothing'"):
        segmenter.index("nothing")


@pytest.mark.parametrize(
    "labels",
    [(), ("nothing",), ("person", "nothing"), ("nothing", "a", "a"), ("nothing", 1), "nothing", 2],
)
def test_labels_that_cannot_be_used(labels):
    with pytest.raises(ConfigError, match="labels are .*allowed: a list of 'nothing', then"):
        build_segmenter("segmentation_unet", labels=labels)


def test_names_and_options_that_do_not_exist():
    with pytest.raises(ConfigError, match="Did you mean 'segmentation_unet'"):
        build_segmenter("segmentation-unet", labels=LABELS)
    with pytest.raises(ConfigError) as caught:
        build_segmenter("segmentation_unet", labels=LABELS, widht=3, weights="coco")
    assert len(caught.value.problems) == 2
    assert "Did you mean 'width'" in caught.value.problems[0]
    with pytest.raises(ConfigError) as caught:
        segmenter_config("panoptic_fpn", min_side=-1, weights="")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("depth", [1, 2])
def test_the_small_one_sees_as_far_as_documented(depth):
    network = build_segmenter("segmentation_unet", labels=LABELS, width=2, depth=depth).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()  # nothing is cut off on the way
    size = 32 * 2**depth
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for shift in range(1 << depth):  # what a pixel sees depends on where it lies in a pooling cell
        # Pooling passes on one of four: many pictures, so that each is the largest once.
        image = torch.rand(32, 3, size, size, generator=generator).requires_grad_()
        middle = size // 2 + shift
        network.segment(image)[:, :, middle, middle].sum().backward()
        columns = image.grad.abs().sum(dim=(0, 1, 2)).nonzero()
        seen = max(seen, int(columns.max() - columns.min()) + 1)
    assert seen == 13 * 2**depth - 8


def test_cross_entropy_equals_numpy_and_ignores_255():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, generator=generator)
    labels = torch.randint(0, 3, (2, 5, 6), generator=generator)
    labels[0, :2] = 255
    z, y = logits.double().numpy(), labels.numpy()
    logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    rows = [(-logs[b, y[b, i, j], i, j], y[b, i, j]) for b, i, j in np.argwhere(y != 255)]
    values, of = np.array([v for v, _ in rows]), np.array([k for _, k in rows])
    got = balanced_cross_entropy(logits, labels, balance=0.0)
    assert torch.allclose(got, label_cross_entropy(logits, labels))
    assert got.item() == pytest.approx(values.mean(), rel=1e-5)
    per_label = [values[of == k].mean() for k in range(3)]
    balanced = balanced_cross_entropy(logits, labels, balance=1.0)
    assert balanced.item() == pytest.approx(np.mean(per_label), rel=1e-5)
    half = balanced_cross_entropy(logits, labels, balance=0.5).item()
    weights = np.array([(of == k).mean() for k in range(3)])[of] ** -0.5
    assert half == pytest.approx((weights * values).sum() / weights.sum(), rel=1e-5)


def test_cross_entropy_gives_every_labelled_pixel_a_gradient():
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 1, 255], [2, 2, 1]]])
    loss = balanced_cross_entropy(logits, labels, balance=0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[..., 0, 2].eq(0).all()
    assert gradient.ne(0).sum() == 15
    nothing = balanced_cross_entropy(logits, torch.full_like(labels, 255), balance=1.0)
    assert nothing.item() == 0
    assert not math.isnan(torch.autograd.grad(nothing, logits)[0].sum())


def test_the_small_one_learns_to_find_bright_squares():
    torch.manual_seed(0)
    network = build_segmenter("segmentation_unet", labels=LABELS[:2], **SMALL["segmentation_unet"])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)

    def batch():
        image = 0.6 * torch.rand(8, 3, 32, 32, generator=generator)
        labels = torch.zeros(8, 32, 32, dtype=torch.int64)
        for row, (x, y) in enumerate(torch.randint(0, 22, (8, 2), generator=generator).tolist()):
            labels[row, y : y + 10, x : x + 10] = 1
            image[row, :, y : y + 10, x : x + 10] += 0.4
        return image, labels

    for _ in range(60):
        optimizer.zero_grad()
        sum(network.loss(*batch()).values()).backward()
        optimizer.step()
    image, labels = batch()
    with torch.no_grad():
        seen = network.eval().segment(image).argmax(dim=1)
    overlap = ((seen == 1) & (labels == 1)).sum() / ((seen == 1) | (labels == 1)).sum()
    assert overlap > 0.8
