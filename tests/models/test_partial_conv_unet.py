"""The partial-convolution networks against a plain second reading of their papers, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from rayfill.models import build_model
from rayfill.models.unets.partial_conv import PartialConv2d
from rayfill_data.errors import ConfigError


def partial(conv, x, mask):
    """Liu's equations with as many mask channels as features."""
    w, stride, padding = conv.conv.weight, conv.conv.stride, conv.conv.padding
    known = F.conv2d(mask, torch.ones_like(w), None, stride, padding)
    raw = F.conv2d(x * mask, w, None, stride, padding)
    update = (known > 0).double()
    bias = 0 if conv.bias is None else conv.bias.view(1, -1, 1, 1)
    return (raw * w[0].numel() / known.clamp_min(1) + bias) * update, update


def block(module, x, mask):
    x, mask = partial(module.conv, x, mask)
    if module.norm is not None:
        x = module.norm(x)
    return F.leaky_relu(x, module.slope), mask


def liu(model, x, mask):
    x, skips = x * mask, []
    for down in model.down:
        skips.append((x, mask))
        x, mask = block(down, x, mask)
    for up in [*model.up, None]:
        skip, skip_mask = skips.pop()
        x, mask = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (x, mask))
        x, mask = torch.cat([x, skip], 1), torch.cat([mask, skip_mask], 1)
        x, mask = block(up, x, mask) if up else partial(model.head, x, mask)
    return x


def report(model, x, mask):
    def double(module, x, mask):
        return block(module.blocks[1], *block(module.blocks[0], x, mask))

    skips = []
    x, mask = double(model.stem, x * mask, mask)
    for down in model.down:
        skips.append((x, mask))
        # The best known value of four, as a masked maximum; 0 where none is known.
        x = F.max_pool2d(x.masked_fill(mask == 0, -torch.inf), 2)
        mask = F.max_pool2d(mask, 2)
        x, mask = double(down, x.masked_fill(mask == 0, 0), mask)
    for up, fuse in zip(model.up, model.fuse, strict=True):
        mask = mask[:, : mask.shape[1] // 2].repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = up(x) * mask
        skip, skip_mask = skips.pop()
        x, mask = double(fuse, torch.cat([skip, x], 1), torch.cat([skip_mask, mask], 1))
    return model.head(x)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("name", "oracle"), [("partial_conv_unet", report), ("partial_conv_liu", liu)]
)
def test_network_is_the_papers(name, oracle, training):
    torch.manual_seed(0)
    model = build_model(name, width=3, depth=3).double().train(training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    image = torch.rand(2, 3, 24, 32, dtype=torch.float64)
    hole_mask = torch.ones(2, 1, 24, 32, dtype=torch.float64)
    hole_mask[0, :, :9, :5] = hole_mask[1, :, 20:, 30:] = 0  # so little that holes reach the depth
    twin = copy.deepcopy(model)
    expected = oracle(twin, image, (1 - hole_mask).expand(-1, 3, -1, -1))
    actual = model(image, hole_mask)
    if not training:
        expected = expected.clamp(0, 1)
    assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()
    actual.square().sum().backward()
    expected.square().sum().backward()
    for (key, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        scale = theirs.grad.abs().max()
        assert (mine.grad - theirs.grad).abs().max() <= 1e-10 * scale + 1e-12, key


@pytest.mark.parametrize("name", ["partial_conv_unet", "partial_conv_liu"])
def test_masks_of_all_layers_are_summed_once_before_any_features(name, monkeypatch):
    model = build_model(name, width=2, depth=3)
    layers = [module for module in model.modules() if isinstance(module, PartialConv2d)]
    calls = []
    for method in ("window", "convolve"):
        original = getattr(PartialConv2d, method)

        def noted(self, *args, method=method, original=original):
            calls.append((method, layers.index(self)))
            return original(self, *args)

        monkeypatch.setattr(PartialConv2d, method, noted)
    model(torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 16, 16))
    order = range(len(layers))
    assert calls == [("window", i) for i in order] + [("convolve", i) for i in order]


def test_padding_is_unknown_not_a_picture():
    """A picture padded by the network is one whose padding was said to be a hole."""
    torch.manual_seed(0)
    model = build_model("partial_conv_unet", width=3, depth=3).eval()
    image, hole_mask = torch.rand(1, 3, 13, 22), torch.zeros(1, 1, 13, 22)
    larger = F.pad(image, (0, 2, 0, 3), value=0.7), F.pad(hole_mask, (0, 2, 0, 3), value=1.0)
    with torch.inference_mode():
        assert torch.equal(model(image, hole_mask), model(*larger)[..., :13, :22])


def test_frozen_encoder_norm_keeps_statistics_and_weights_decoder_norm_does_not():
    torch.manual_seed(0)
    model = build_model("partial_conv_liu", width=3, depth=4, freeze_encoder_norm=True)
    before = copy.deepcopy(model.state_dict())
    model.eval().train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)).square().mean().backward()
    optimiser.step()
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert not {key for key in changed if key.startswith("down") and ".norm." in key}
    assert {key for key in changed if key.startswith("down") and ".conv." in key}
    assert {key for key in changed if key.startswith("up") and "running_mean" in key}
    assert {key for key in changed if key.startswith("up") and "norm.weight" in key}


def test_both_phases_have_the_same_weights():
    first = build_model("partial_conv_liu", width=2, depth=3)
    second = build_model("partial_conv_liu", width=2, depth=3, freeze_encoder_norm=True)
    second.load_state_dict(first.state_dict())


def test_normalisations_differ_by_the_window_only():
    torch.manual_seed(0)
    liu_form = build_model("partial_conv_liu", width=2, depth=1).eval()
    report_form = build_model("partial_conv_liu", width=2, depth=1, normalisation="report").eval()
    report_form.load_state_dict(liu_form.state_dict())
    with torch.no_grad():
        report_form.down[0].conv.conv.weight.mul_(7 * 7 * 3)
        report_form.head.conv.weight.mul_(3 * 3 * 5)
    image, hole_mask = torch.rand(1, 3, 16, 16), (torch.rand(1, 1, 16, 16) > 0.5).float()
    with torch.inference_mode():
        torch.testing.assert_close(liu_form(image, hole_mask), report_form(image, hole_mask))
    with pytest.raises(ConfigError, match="Did you mean 'report'"):
        build_model("partial_conv_unet", normalisation="reports")


@pytest.mark.parametrize("name", ["partial_conv_unet", "partial_conv_liu"])
def test_bf16_autocast_stays_near_float32_and_reads_no_hole_pixel(name):
    torch.manual_seed(0)
    model = build_model(name, width=4, depth=3)
    buffers = copy.deepcopy(model.state_dict())
    image, hole_mask = torch.rand(4, 3, 64, 64), (torch.rand(4, 1, 16, 16) > 0.5).float()
    hole_mask = hole_mask.repeat_interleave(4, 2).repeat_interleave(4, 3)
    exact = model(image, hole_mask)
    outputs = []
    for hidden in (image, image.masked_fill(hole_mask > 0, torch.nan)):
        model.load_state_dict(buffers)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs.append(model(hidden, hole_mask))
    assert torch.equal(*outputs)
    # bfloat16 has 8 bits; a wrong mask sum would show as several per cent of everything.
    error = (outputs[0] - exact).square().mean().sqrt() / exact.std()
    assert error < 0.05
    outputs[1].square().mean().backward()  # the last one: loading weights ended the first's graph
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
