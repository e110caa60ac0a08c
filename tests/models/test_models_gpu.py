"""Every network on a GPU, in the arithmetic it is trained in there."""

from __future__ import annotations

import copy

import pytest
import torch

from rayfill.models import MODELS, build_model, option_names
from rayfill.models.unets.partial_conv import PartialConv2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = torch.device("cuda")
NAMES = [name for name in MODELS if "width" in option_names(name)]


def sample(batch=4, *, side=64):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, side, side, generator=generator).to(DEVICE)
    hole_mask = torch.zeros(batch, 1, side, side, device=DEVICE)
    hole_mask[..., 16:40, 8:48] = 1
    return image.contiguous(memory_format=torch.channels_last), hole_mask


def small(name):
    torch.manual_seed(0)
    depth = {"depth": 3} if "depth" in option_names(name) else {}
    model = build_model(name, width=16, **depth)
    return model.to(DEVICE).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NAMES)
def test_training_in_bf16_is_finite_and_learns(name):
    model = small(name)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    image, hole_mask = sample()
    target = torch.full_like(image, 0.25)
    losses = []
    for _ in range(40):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            prediction = model(image, hole_mask)
        loss = (prediction.float() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_prediction_is_that_of_the_cpu(name):
    model = small(name).eval()
    image, hole_mask = sample()
    twin = copy.deepcopy(model).cpu()
    with torch.inference_mode():
        expected = twin(image.cpu(), hole_mask.cpu())
        exact = model(image, hole_mask).cpu()
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            rounded = model(image, hole_mask).float().cpu()
    # TF32 keeps 10 bits of a product's factors, bfloat16 8 of everything.
    assert (exact - expected).square().mean().sqrt() < 5e-3
    assert (rounded - expected).square().mean().sqrt() < 5e-2


@pytest.mark.parametrize("sources", [(64,), (64, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_partial_convolution_in_bf16_is_near_float32_and_its_masks_equal(sources, dilation):
    torch.manual_seed(0)
    layer = PartialConv2d(sources, 32, 3, padding=dilation, dilation=dilation).to(DEVICE)
    x = torch.randn(2, sum(sources), 33, 40, device=DEVICE)
    mask = (torch.rand(2, len(sources), 33, 40, device=DEVICE) > 0.4).float()
    window = layer.window(mask)
    exact, update = layer(x, mask)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        inside = layer.window(mask)
        out, update_bf16 = layer(x, mask)
        hidden, _ = layer(x.masked_fill(_wide(mask, sources) == 0, torch.nan), mask)
    assert inside.scale.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(window, inside, strict=True))
    assert torch.equal(update, update_bf16)
    assert torch.equal(out, hidden)
    # The sums of 603 ones that bfloat16 would round by up to 2 are exact; compare with the CPU.
    on_cpu = copy.deepcopy(layer).cpu().window(mask.cpu())
    assert torch.equal(window.update.cpu(), on_cpu.update)
    torch.testing.assert_close(window.scale.cpu(), on_cpu.scale, rtol=1e-6, atol=0)
    error = (out.float() - exact).square().mean().sqrt() / exact.std()
    assert error < 0.02


def _wide(mask, sources):
    counts = torch.tensor(sources, device=mask.device)
    return mask.repeat_interleave(counts, dim=1)
