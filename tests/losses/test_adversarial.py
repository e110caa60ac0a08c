"""Adversarial losses and those beside them, against plain numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from rayfill.losses.adversarial import (
    feature_matching_loss,
    gram_style_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    hole_normalised_l1_loss,
)
from rayfill.losses.perceptual import FeatureExtractor
from rayfill.losses.table import P2Weights
from rayfill.models.segmentation.losses import label_cross_entropy


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def maps(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 4, 6, 5), (2, 7, 3, 2), (2, 1, 2, 2)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def arrays(features):
    return [feature.detach().numpy().astype(np.float64) for feature in features]


def test_hinge_equals_numpy():
    real, fake = 2 * torch.randn(2, 3, 1, 6, 5)
    r, f = real.numpy(), fake.numpy()
    expected = np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean()
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-5)
    assert hinge_generator_loss(fake).item() == pytest.approx(-f.mean(), abs=1e-6)


def test_hinge_rewards_the_discriminator_up_to_the_margin_only():
    real = torch.tensor([0.5, 1.5], requires_grad=True)
    fake = torch.tensor([-0.5, -1.5], requires_grad=True)
    hinge_discriminator_loss(real, fake).backward()
    assert real.grad.tolist() == [-0.5, 0]
    assert fake.grad.tolist() == [0.5, 0]


def test_feature_matching_equals_numpy_and_leaves_the_real_ones_alone():
    real, fake = maps(0), maps(1)
    pairs = list(zip(arrays(real), arrays(fake), strict=True))
    expected = sum(np.abs(f - r).sum() / r.size for r, f in pairs)
    loss = feature_matching_loss(real, fake)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(r.grad is None for r in real)
    assert all(f.grad.abs().sum() > 0 for f in fake)


def test_style_equals_numpy_and_leaves_the_real_ones_alone():
    real, fake = maps(0), maps(1)
    expected = 0.0
    for r, f in zip(arrays(real), arrays(fake), strict=True):
        batch, channels, height, width = r.shape
        for sample in range(batch):
            for c in range(channels):
                for d in range(channels):
                    gram = [(x[sample, c] * x[sample, d]).sum() for x in (f, r)]
                    scale = channels * height * width * channels**2 * batch
                    expected += abs(gram[0] - gram[1]) / scale
    loss = gram_style_loss(real, fake)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(r.grad is None for r in real)
    assert all(f.grad.abs().sum() > 0 for f in fake)


def test_style_takes_what_an_extractor_sees():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
    extractor = FeatureExtractor(network, taps=(1, 3))
    target = torch.rand(2, 3, 12, 12)
    prediction = torch.rand(2, 3, 12, 12, requires_grad=True)
    assert gram_style_loss(extractor(target), extractor(target)).item() == 0
    gram_style_loss(extractor(target), extractor(prediction)).backward()
    assert prediction.grad.abs().sum() > 0


def test_hole_normalised_l1_is_the_mean_over_the_hole():
    prediction, target = torch.rand(2, 4, 3, 8, 8)
    hole_mask = (torch.rand(4, 1, 8, 8) < 0.3).float()
    hole_mask[2] = 0
    hole = np.broadcast_to(hole_mask.numpy() > 0, prediction.shape)
    expected = np.abs(prediction.numpy() - target.numpy())[hole].mean()
    loss = hole_normalised_l1_loss(prediction, target, hole_mask)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    known = torch.where(hole_mask > 0, prediction, float("nan"))
    assert torch.equal(hole_normalised_l1_loss(known, target, hole_mask), loss)


def test_without_a_hole_hole_normalised_l1_is_0_and_pulls_nowhere():
    prediction = torch.rand(2, 3, 8, 8, requires_grad=True)
    loss = hole_normalised_l1_loss(prediction, torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad.abs().sum() == 0


def test_label_cross_entropy_equals_numpy_over_labelled_pixels():
    logits = torch.randn(2, 5, 6, 4, requires_grad=True)
    labels = torch.randint(0, 5, (2, 6, 4))
    labels[torch.rand(2, 6, 4) < 0.4] = 255
    logs = log_softmax(logits.detach().numpy().astype(np.float64), axis=1)
    counted = [
        -logs[b, label, i, j] for (b, i, j), label in np.ndenumerate(labels.numpy()) if label != 255
    ]
    assert 0 < len(counted) < labels.numel()
    loss = label_cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(np.mean(counted), rel=1e-5)
    loss.backward()
    assert (logits.grad.abs().sum(dim=1) > 0).equal(labels != 255)
    elsewhere = label_cross_entropy(logits, labels.masked_fill(labels == 255, 7), ignore=7)
    assert torch.equal(elsewhere, loss)


def test_label_cross_entropy_without_labels_is_0_and_pulls_nowhere():
    logits = torch.randn(2, 5, 6, 4, requires_grad=True)
    loss = label_cross_entropy(logits, torch.full((2, 6, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_weights_are_those_of_the_report():
    assert dataclasses.astuple(P2Weights()) == (1, 10, 0.1, 1, 0.1, 0.1, 250, 1, 1000)
