"""The patch discriminator: its patch, its size, its norm, and small pictures."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rayfill.models.edgeconnect.discriminators import PatchDiscriminator


def test_each_logit_sees_70_by_70_pixels_8_apart():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(1, width=4, spectral_norm=False).double()
    x = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    logits, _ = discriminator(x)
    corners = []
    for row, column in ((14, 14), (15, 16)):
        (gradient,) = torch.autograd.grad(logits[0, 0, row, column], x, retain_graph=True)
        seen = np.argwhere(gradient[0, 0].numpy() != 0)
        assert (np.ptp(seen, axis=0) + 1 == 70).all()
        corners.append(seen.min(axis=0))
    assert (corners[1] - corners[0] == (8, 16)).all()


def test_parameter_counts():
    weights = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1)
    with torch.device("meta"):
        normed = PatchDiscriminator(3)
        plain = PatchDiscriminator(3, spectral_norm=False)
    assert sum(p.numel() for p in normed.parameters()) == weights
    assert sum(p.numel() for p in plain.parameters()) == weights + 64 + 128 + 256 + 512 + 1
    assert weights == 2_763_776


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (24, 24), (64, 40), (70, 70)], ids=str)
def test_any_size_gives_logits_and_a_map_per_layer(size):
    torch.manual_seed(0)
    logits, features = PatchDiscriminator(2, width=4)(torch.rand(3, 2, *size))
    assert [f.shape[1] for f in features] == [4, 8, 16, 32, 1]
    assert features[-1] is logits
    assert logits.shape[0] == 3
    assert min(logits.shape[2:]) >= 1
    assert logits.isfinite().all()
    if size == (64, 40):
        assert [tuple(f.shape[2:]) for f in features] == [
            (32, 20),
            (16, 10),
            (8, 5),
            (7, 4),
            (6, 3),
        ]


def test_features_are_the_layers_one_after_the_other():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(1, width=2, spectral_norm=False)
    x = torch.rand(2, 1, 32, 32)
    _, features = discriminator(x)
    for feature, layer in zip(features, discriminator.layers, strict=True):
        x = torch.conv2d(x, layer.weight, layer.bias, stride=layer.stride, padding=1)
        if layer is not discriminator.layers[-1]:
            x = torch.where(x > 0, x, 0.2 * x)
        torch.testing.assert_close(feature, x)


def test_spectral_norm_brings_every_weight_to_a_largest_singular_value_of_one():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, width=4)
    for _ in range(100):
        discriminator(torch.rand(1, 3, 24, 24))
    discriminator.eval()
    for layer in discriminator.layers:
        singular = np.linalg.svd(layer.weight.detach().numpy().reshape(len(layer.weight), -1))[1]
        assert singular[0] == pytest.approx(1, abs=0.02)
        assert layer.bias is None


def test_two_judgements_before_one_backward_pass_and_no_state_in_eval_mode():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, width=4)
    real, fake = torch.rand(2, 2, 3, 32, 32)
    (discriminator(real)[0].mean() - discriminator(fake)[0].mean()).backward()
    assert all(p.grad.abs().sum() > 0 for p in discriminator.parameters())
    before = copy.deepcopy(discriminator.eval().state_dict())
    first = discriminator(real)[0]
    assert torch.equal(discriminator(real)[0], first)
    assert all(torch.equal(v, before[k]) for k, v in discriminator.state_dict().items())
