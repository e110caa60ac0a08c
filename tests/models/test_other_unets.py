"""Gated, ConvMixer and dilated networks: their layers against their formulas, and what they see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rayfill.models import build_model
from rayfill.models.cost import model_cost
from rayfill.models.unets.convmixer_unet import MixerLayer
from rayfill.models.unets.dilated_unet import RangesBlock
from rayfill.models.unets.gated_conv_unet import GatedConv2d


def randomise(module):
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return module.double().eval()


def normalised(norm, x):
    mean, variance, weight, bias = (
        value[:, None, None]
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (variance + norm.eps).sqrt() * weight + bias


def test_gated_convolution_formula():
    torch.manual_seed(0)
    layer = randomise(GatedConv2d(3, 4))
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    features = F.conv2d(x, layer.conv.weight[:4], padding=1)
    gate = F.conv2d(x, layer.conv.weight[4:], padding=1) + layer.gate_bias
    y = normalised(layer.norm, features)
    expected = torch.where(y > 0, y, y.exp() - 1) / (1 + torch.exp(-gate))
    torch.testing.assert_close(layer(x), expected)


def test_a_closed_gate_lets_nothing_through():
    layer = randomise(GatedConv2d(3, 2))
    nn.init.constant_(layer.gate_bias, -1e4)
    assert not layer(torch.rand(1, 3, 4, 4, dtype=torch.float64)).any()


def test_mixer_layer_formula():
    torch.manual_seed(0)
    layer = randomise(MixerLayer(3))
    depthwise, _, first = layer.depthwise
    pointwise, _, second = layer.pointwise

    def gelu(x):
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    padded = F.pad(x, (2, 2, 2, 2)).unfold(2, 5, 1).unfold(3, 5, 1)
    spread = torch.einsum("bchwij,cij->bchw", padded, depthwise.weight[:, 0])
    z = x + normalised(first, gelu(spread + depthwise.bias[:, None, None]))
    mixed = torch.einsum("oc,bchw->bohw", pointwise.weight[:, :, 0, 0], z)
    expected = normalised(second, gelu(mixed + pointwise.bias[:, None, None]))
    torch.testing.assert_close(layer(x), expected)


def test_convmixer_unet_is_its_plain_twin_where_the_mixer_is_not_read():
    torch.manual_seed(0)
    plain, fused = (
        build_model(name, width=3).eval() for name in ("shallow_unet", "convmixer_unet")
    )
    weights = plain.state_dict()
    first = fused.state_dict()["up.0.weight"].clone()
    first[:12], first[12:] = weights["up.0.weight"], 0
    fused.load_state_dict(
        {k: v for k, v in fused.state_dict().items() if k.startswith("mixer.")}
        | weights
        | {"up.0.weight": first}
    )
    image, hole_mask = torch.rand(2, 3, 21, 32), (torch.rand(2, 1, 21, 32) > 0.5).float()
    with torch.inference_mode():
        assert torch.equal(plain(image, hole_mask), fused(image, hole_mask))
        fused.up[0].weight[12:] = 1.0
        assert not torch.equal(plain(image, hole_mask), fused(image, hole_mask))


def test_convmixer_adds_its_own_parameters_and_a_wider_first_step_up():
    w, c = 8, 32
    embedding = 4 * 16 * c + c + 2 * c
    layer = 25 * c + c + 2 * c + c * c + c + 2 * c
    step_up = 4 * c * (c // 2)
    difference = (
        model_cost("convmixer_unet", width=w).parameters
        - model_cost("shallow_unet", width=w).parameters
    )
    assert difference == embedding + 2 * layer + step_up


def test_ranges_block_passes_on_its_input_until_trained():
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(RangesBlock(8)(x), x)


def test_ranges_block_formula():
    torch.manual_seed(0)
    block = randomise(RangesBlock(4))
    x = torch.randn(1, 4, 20, 19, dtype=torch.float64)
    parts = []
    for convolution, step in zip(block.ranges, (1, 2, 4, 8), strict=True):
        padded = F.pad(x, (step,) * 4)
        rows, columns = x.shape[-2:]
        parts.append(
            sum(
                torch.einsum(
                    "oc,bchw->bohw",
                    convolution.weight[:, :, i, j],
                    padded[..., i * step : i * step + rows, j * step : j * step + columns],
                )
                for i in range(3)
                for j in range(3)
            )
        )
    seen = normalised(block.norm, torch.cat(parts, 1)).clamp_min(0)
    expected = x + normalised(block.last_norm, F.conv2d(seen, block.merge.weight, padding=1))
    torch.testing.assert_close(block(x), expected)


def reach(name, size=528):
    """Pixels to the left that one output in the middle of a large image depends on."""
    model = randomise(build_model(name, width=1))
    image = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    # One row and column in the middle of a cell of 16; unclamped, or there is no gradient.
    out = model._run(image, torch.zeros(1, 1, size, size, dtype=torch.float64))
    centre = size // 2 + 8
    out[0, 0, centre, centre].backward()
    columns = image.grad.abs().sum((0, 1, 2)).nonzero()[:, 0]
    return centre - columns.min().item()


def test_dilated_unet_sees_further_than_the_unet_at_its_cost():
    assert reach("dilated_unet") >= 2.4 * reach("unet") >= 2.4 * 90
    for width in (12, 64):
        own, unet = (model_cost(name, width=width) for name in ("dilated_unet", "unet"))
        assert 0.95 < own.multiply_adds / unet.multiply_adds <= 1.0
        assert own.parameters < 0.3 * unet.parameters


def test_multiply_adds_of_the_reports_unet():
    cost = model_cost("unet", size=(178, 178), mask_channel=False, odd_sizes="pad_inside")
    assert cost.parameters == 31_037_763
    assert round(cost.multiply_adds / 1e9, 1) == 23.0
    # Why the report's counter said 26.12 G: it took transposed convolutions at their output's size,
    # four times as much (the rest, 0.06 G, is biases, norms and activations).
    transposed = sum(
        4 * side**2 * 2 * width * width
        for side, width in ((11, 512), (22, 256), (44, 128), (89, 64))
    )
    assert 26.05 < (cost.multiply_adds + 3 * transposed) / 1e9 < 26.12


def test_multiply_adds_of_the_unet_counted_by_hand():
    total = 256**2 * 64 * 3  # the head
    for level in range(5):
        pixels, width = (256 >> level) ** 2, 64 << level
        given = width // 2 if level else 4
        total += pixels * 9 * (given * width + width * width)
        if level < 4:
            total += pixels * 9 * (2 * width * width + width * width)
            total += (pixels // 4) * 4 * 2 * width * width
    assert model_cost("unet").multiply_adds == total
    assert round(total / 1e9, 2) == 48.21


def test_multiply_adds_of_lius_network_counted_by_hand():
    # Input and output channels, kernel, side of the output.
    down = [(3, 64, 7, 128), (64, 128, 5, 64), (128, 256, 5, 32), (256, 512, 3, 16)]
    down += [(512, 512, 3, side) for side in (8, 4, 2)]
    up = [(1024, 512, 3, side) for side in (4, 8, 16)]
    up += [(768, 256, 3, 32), (384, 128, 3, 64), (192, 64, 3, 128), (67, 3, 3, 256)]
    total = sum(a * b * kernel**2 * side**2 for a, b, kernel, side in down + up)
    masks = sum(2 * side**2 for *_, side in up)  # the sums of two sources, weighed
    assert model_cost("partial_conv_liu").multiply_adds == total + masks
    assert round(total / 1e9, 2) == 9.47


@pytest.mark.parametrize("kernel", [2, 3])
def test_multiply_adds_of_single_layers(kernel, monkeypatch):
    from rayfill.models import cost as module

    class Layer(nn.Module):
        stride = 1

        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 5, kernel, stride=2)
            self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)

        def forward(self, image, hole_mask):
            return self.up(image), self.conv(image)

    monkeypatch.setattr(module, "build_model", lambda name: Layer())
    counted = module.model_cost("anything", size=(10, 6)).multiply_adds
    assert counted == 60 * 3 * 5 * kernel**2 + 60 * 3 * 8 * 9


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (16, 32), (22, 45)], ids=str)
def test_padding_inside_the_decoder(size):
    torch.manual_seed(0)
    inside = build_model("unet", width=2, depth=3, odd_sizes="pad_inside").eval()
    at_input = build_model("unet", width=2, depth=3).eval()
    at_input.load_state_dict(inside.state_dict())
    image, hole_mask = torch.rand(1, 3, *size), torch.zeros(1, 1, *size)
    hole_mask[..., :1, :1] = 1
    with torch.inference_mode():
        prediction = inside(image, hole_mask)
        hidden = inside(image.masked_fill(hole_mask > 0, torch.nan), hole_mask)
        assert prediction.shape == image.shape
        assert torch.equal(prediction, hidden)
        if not any(side % 8 for side in size):
            assert torch.equal(prediction, at_input(image, hole_mask))
