"""The partial convolution against the textbook layer: two full-channel convolutions, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rayfill.models.unets.partial_conv import NORMALISATIONS, PartialConv2d

#: sources, output channels, kernel, and the geometry.
CASES = {
    "plain": (4, 6, 3, {"padding": 1}),
    "no bias": (4, 6, 3, {"padding": 1, "bias": False}),
    "first layer of Liu": (3, 5, 7, {"stride": 2, "padding": 3}),
    "skip": ((4, 2), 6, 3, {"padding": 1}),
    "three sources": ((1, 4, 3), 2, 3, {"padding": 1}),
    "dilated": (4, 6, 3, {"padding": 2, "dilation": 2}),
    "dilated skip": ((3, 5), 6, 3, {"padding": (2, 3), "dilation": (2, 3), "stride": (1, 2)}),
    "uneven kernel": (4, 6, (1, 5), {"stride": (2, 3), "padding": (0, 2)}),
    "wide padding": (4, 6, 3, {"padding": 4}),
    "no padding": ((2, 2), 3, 4, {"stride": 3}),
    "groups": (4, 6, 3, {"padding": 1, "groups": 2}),
    "depthwise skip": ((2, 2), 8, 3, {"padding": 1, "groups": 4}),
    "groups through sources": ((3, 5), 4, 3, {"padding": 1, "groups": 2}),
    "a mask per channel": ((1,) * 4, 6, 3, {"padding": 1}),
    "1x1": ((2, 3), 4, 1, {}),
}


def textbook(layer, x, mask):
    """The widely copied layer: as many mask channels as features, a convolution for each."""
    conv = layer.conv
    mask = torch.cat(
        [mask[:, i : i + 1].expand(-1, n, -1, -1) for i, n in enumerate(layer.sources)], dim=1
    )
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    known = F.conv2d(mask, torch.ones_like(conv.weight), None, *geometry)
    raw = F.conv2d(x * mask, conv.weight, None, *geometry)
    window = conv.weight[0].numel() if layer.normalisation == "liu" else 1
    bias = 0 if layer.bias is None else layer.bias.view(1, -1, 1, 1)
    update = (known > 0).double()
    safe = torch.where(known > 0, known, 1)
    return (raw * window / safe + bias) * update, update


def setup(name, *, normalisation="liu"):
    sources, channels_out, kernel, geometry = CASES[name]
    torch.manual_seed(0)
    layer = PartialConv2d(sources, channels_out, kernel, normalisation=normalisation, **geometry)
    layer = layer.double()
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, sum(layer.sources), 13, 16, dtype=torch.float64)
    # Coarse blocks, so that some windows are all known, some all unknown, some mixed.
    mask = (torch.rand(2, len(layer.sources), 4, 4, dtype=torch.float64) > 0.5).double()
    return layer, x, F.interpolate(mask, (13, 16), mode="nearest")


def relative(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("name", CASES)
def test_output_mask_and_gradients_are_the_textbooks(name, normalisation):
    layer, x, mask = setup(name, normalisation=normalisation)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    out, update = layer(inputs[0], mask)
    expected, expected_update = textbook(layer, inputs[1], mask)
    assert expected_update.mean() > 0
    repeats = 1 if update.shape[1] == 1 else layer.conv.out_channels // update.shape[1]
    shown = update.repeat_interleave(repeats, dim=1).expand_as(expected_update)
    assert torch.equal(shown, expected_update)
    assert update.shape[1] == layer.mask_channels
    assert relative(out, expected) <= 1e-12
    direction = torch.randn_like(out)
    actual = torch.autograd.grad((out * direction).sum(), [inputs[0], *layer.parameters()])
    wanted = torch.autograd.grad((expected * direction).sum(), [inputs[1], *layer.parameters()])
    for a, w in zip(actual, wanted, strict=True):
        assert relative(a, w) <= 1e-12


@pytest.mark.parametrize("name", CASES)
def test_no_hole_pixel_is_read_bit_for_bit(name):
    layer, x, mask = setup(name)
    layer, x, mask = layer.float(), x.float(), mask.float()
    counts = torch.tensor(layer.sources)
    hole = mask.repeat_interleave(counts, dim=1) == 0
    first, _ = layer(x, mask)
    second, _ = layer(x.masked_fill(hole, float("nan")), mask)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if isinstance(case[0], tuple)]
)
def test_sources_need_not_be_joined(name):
    layer, x, mask = setup(name)
    counts = torch.tensor(layer.sources)
    inputs = [x.masked_fill(mask.repeat_interleave(counts, dim=1) == 0, 0.0) for _ in range(2)]
    for given in inputs:
        given.requires_grad_()
    window = layer.window(mask)
    joined = layer(inputs[0], mask)[0]
    apart = layer.convolve(inputs[1].split(layer.sources, dim=1), window)
    assert relative(apart, joined) <= 1e-12
    direction = torch.randn_like(joined)
    wanted = torch.autograd.grad((joined * direction).sum(), [inputs[0], *layer.parameters()])
    actual = torch.autograd.grad((apart * direction).sum(), [inputs[1], *layer.parameters()])
    # Outside a hole: inside, a caller that joins and hides gets no gradient anyway.
    shown = mask.repeat_interleave(counts, dim=1)
    for a, w in zip((actual[0] * shown, *actual[1:]), wanted, strict=True):
        assert relative(a, w) <= 1e-12


def test_liu_scales_a_constant_image_back_to_itself():
    layer = PartialConv2d(1, 1, 3, padding=1, bias=False)
    torch.nn.init.constant_(layer.conv.weight, 1 / 9)
    mask = torch.zeros(1, 1, 5, 5)
    mask[..., 1, 1] = 1
    out, update = layer(torch.full((1, 1, 5, 5), 7.0), mask)
    assert torch.equal(update[0, 0, :3, :3], torch.ones(3, 3))
    assert update.sum() == 9
    torch.testing.assert_close(out, 7 * update)


def test_nothing_known_gives_zero_and_everything_known_a_convolution():
    layer = PartialConv2d((2, 3), 4, 3)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(1, 5, 6, 6)
    out, update = layer(x, torch.zeros(1, 2, 6, 6))
    assert not out.any()
    assert not update.any()
    out, update = layer(x, torch.ones(1, 2, 6, 6))
    assert update.all()
    torch.testing.assert_close(out, F.conv2d(x, layer.conv.weight, layer.bias))


@pytest.mark.parametrize("dilation", [1, 2])
def test_mask_sums_stay_exact_under_bf16_autocast(dilation):
    # 3 * 3 * 67 = 603 needs 10 bits; bfloat16 has 8.
    layer = PartialConv2d((64, 3), 2, 3, padding=dilation, dilation=dilation)
    x = torch.randn(1, 67, 9, 9)
    mask = (torch.rand(1, 2, 9, 9) > 0.3).float()
    _, scale, update = layer.window(mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, update_bf16 = layer(x, mask)
        scale_bf16 = layer.window(mask).scale
    assert scale_bf16.dtype == torch.float32
    assert torch.equal(scale, scale_bf16)
    assert torch.equal(update, update_bf16)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x, mask)[0], atol=0.1, rtol=0.05)
