"""One contract that every entry of MODELS keeps, with every fill and output."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from rayfill.models import FILLS, MODELS, build_model, composite, model_config, option_names
from rayfill.models.options import OUTPUTS
from rayfill_data.errors import ConfigError, RayfillError

SIZES = [(17, 31), (64, 64), (178, 178)]
VARIANTS = [
    {"hole_fill": fill, "output": output} for fill, output in itertools.product(FILLS, OUTPUTS)
]
every_model = pytest.mark.parametrize("name", sorted(MODELS))
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))


def known(name, **options):
    """Those of the options that the model has: not every network has a depth."""
    return {key: value for key, value in options.items() if key in option_names(name)}


def built(name, *, depth=4, **config):
    """A model with those of the options that it has; the joint one around EdgeConnect."""
    if name == "joint":
        inside = {**known("edgeconnect", **config), "labels": 2, "blocks": 1}
        return build_model(
            name,
            inpainter="edgeconnect",
            inpainter_options=inside,
            segmenter_options={"width": 4, "depth": 2},
        )
    return build_model(name, **known(name, depth=depth), **config)


def small(name, **config):
    """A model small enough to test, with weights that make no output trivially constant."""
    torch.manual_seed(0)
    model = built(name, width=4, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def sample(height, width, *, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, height, width, generator=generator)
    hole_mask = torch.zeros(batch, 1, height, width)
    hole_mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    return image, hole_mask


@every_model
@every_variant
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_shape_and_range_in_eval_mode(name, variant, size):
    image, hole_mask = sample(*size)
    with torch.inference_mode():
        prediction = small(name, **variant).eval()(image, hole_mask)
    assert prediction.shape == image.shape
    assert prediction.dtype == torch.float32
    assert 0 <= prediction.min() <= prediction.max() <= 1


@every_model
@every_variant
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_hole_pixels_change_no_output_bit(name, variant, training):
    image, hole_mask = sample(33, 48)
    model = small(name, **variant).train(training)
    other = torch.where(hole_mask > 0, torch.full_like(image, float("nan")), image)
    buffers = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        first = model(image, hole_mask)
        model.load_state_dict(buffers)
        second = model(other, hole_mask)
    assert torch.equal(first, second)
    assert first.isfinite().all()


@every_model
@every_variant
@pytest.mark.parametrize("fill_value", [0.0, 1.0], ids=["no hole", "all hole"])
def test_finite_for_empty_and_full_mask(name, variant, fill_value):
    image, hole_mask = sample(32, 32)
    hole_mask.fill_(fill_value)
    model = small(name, **variant)
    assert model(image, hole_mask).isfinite().all()
    assert model.eval()(image, hole_mask).isfinite().all()


@every_model
@every_variant
def test_gradient_reaches_every_parameter(name, variant):
    image, hole_mask = sample(32, 32)
    model = small(name, **variant)
    (model(image, hole_mask) - image).square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


@every_model
def test_no_state_between_calls_and_deterministic_in_eval_mode(name):
    image, hole_mask = sample(32, 32)
    model = small(name).eval()
    before = copy.deepcopy(model.state_dict())
    image_before, mask_before = image.clone(), hole_mask.clone()
    with torch.inference_mode():
        first = model(image, hole_mask)
        model(*sample(48, 64, seed=9))
        again = model(image, hole_mask)
    assert torch.equal(first, again)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(image, image_before)
    assert torch.equal(hole_mask, mask_before)


@every_model
def test_channels_last_gives_the_same_prediction(name):
    image, hole_mask = sample(32, 48)
    model = small(name, hole_fill="push_pull", output="residual").eval()
    with torch.inference_mode():
        plain = model(image, hole_mask)
        model.to(memory_format=torch.channels_last)
        last = model(image.contiguous(memory_format=torch.channels_last), hole_mask)
    torch.testing.assert_close(plain, last, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"joint"}))
def test_stride_is_a_fact_of_the_configuration(name):
    options = known(name, depth=3)
    stride = build_model(name, width=2, **options).stride
    assert model_config(name, **options).stride == stride
    assert stride == (8 if options else 4)
    inside = {"inpainter": name, "inpainter_options": {"width": 2, **options}}
    assert build_model("joint", **inside).stride == stride


@every_model
def test_a_sample_is_predicted_alike_alone_and_in_a_batch(name):
    image, hole_mask = sample(32, 32, batch=3)
    model = small(name, hole_fill="push_pull").eval()
    with torch.inference_mode():
        batch = model(image, hole_mask)
        alone = torch.cat([model(image[i : i + 1], hole_mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(batch, alone, atol=1e-4, rtol=0)


@every_model
@pytest.mark.parametrize("fill", FILLS)
def test_untrained_residual_model_answers_with_its_fill(name, fill):
    image, hole_mask = sample(32, 32)
    model = built(name, width=2, depth=2, hole_fill=fill, output="residual").eval()
    assert torch.equal(model(image, hole_mask), FILLS[fill](image, hole_mask))


@every_model
def test_one_model_learns_a_constant(name):
    torch.manual_seed(0)
    model = built(name, width=4, depth=2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    image, hole_mask = sample(16, 16, batch=4)
    target = torch.full_like(image, 0.25)
    losses = []
    for _ in range(30):
        loss = (model(image, hole_mask) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def parameters(name, **config):
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(name, **config).parameters())


def test_parameter_counts_of_the_papers():
    assert parameters("unet", mask_channel=False) == 31_037_763
    assert parameters("unet") == 31_037_763 + 9 * 64
    assert parameters("partial_conv_unet") == 31_037_763
    # As counted layer by layer in the usual implementation, plus the first layer's 64 biases.
    assert parameters("partial_conv_liu") == 25_779_796 + 64
    gates = sum(2 * (w * w // 2 + w) + w // 2 + 2 for w in (64, 128, 256, 512))
    assert parameters("attention_unet") == parameters("unet") + gates
    assert round(parameters("attention_unet") / 1e6, 2) == 31.39


def test_attention_gate_formula():
    from rayfill.models.attention_unet import AttentionGate

    torch.manual_seed(0)
    gate = AttentionGate(4).eval()
    skip, decoder = torch.rand(2, 2, 4, 3, 5).unbind(0)

    def project(projection, x):
        conv, norm = projection
        y = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x)
        return y / (1 + norm.eps) ** 0.5  # a fresh BatchNorm in eval mode: mean 0, variance 1

    inner = (project(gate.skip, skip) + project(gate.decoder, decoder)).clamp_min(0)
    alpha = 1 / (1 + torch.exp(-project(gate.psi, inner)))
    assert alpha.shape == (2, 1, 3, 5)
    torch.testing.assert_close(gate(skip, decoder), skip * alpha)


def test_composite_keeps_known_pixels_bit_for_bit():
    image, hole_mask = sample(8, 8)
    image[0, 0, 0, 0] = -0.0
    prediction = torch.rand_like(image)
    prediction[..., 0, 0] = float("nan")
    out = composite(prediction, image, hole_mask)
    hole = hole_mask.expand_as(image) > 0
    assert torch.equal(out[hole], prediction[hole])
    assert torch.equal(out[~hole].view(torch.int32), image[~hole].view(torch.int32))


@pytest.mark.parametrize(
    ("image_shape", "mask_shape", "said"),
    [
        ((3, 8, 8), (1, 1, 8, 8), "(3, 8, 8)"),
        ((1, 4, 8, 8), (1, 1, 8, 8), "(1, 4, 8, 8)"),
        ((1, 3, 8, 8), (1, 3, 8, 8), "(1, 1, 8, 8)"),
        ((1, 3, 8, 8), (1, 1, 8, 9), "(1, 1, 8, 8)"),
        ((1, 3, 0, 8), (1, 1, 0, 8), "(1, 3, 0, 8)"),
    ],
)
def test_wrong_shapes_are_refused_with_the_shape(image_shape, mask_shape, said):
    model = build_model("unet", width=2, depth=1)
    with pytest.raises(RayfillError) as caught:
        model(torch.zeros(image_shape), torch.zeros(mask_shape))
    assert said in str(caught.value)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'attention_unet'"):
        build_model("atention_unet")
    with pytest.raises(ConfigError) as caught:
        build_model("unet", widht=3, dept=2)
    assert len(caught.value.problems) == 2
    assert "Did you mean 'width'" in str(caught.value)


def test_every_bad_value_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        model_config(
            "unet", width=0, depth=0, hole_fill="pushpull", output="dirct", mask_channel="yes"
        )
    assert len(caught.value.problems) == 5
    assert "Did you mean 'push_pull'" in str(caught.value)
    for bad in ("4", 4.0, True, None):
        with pytest.raises(ConfigError, match="width"):
            model_config("unet", width=bad)
