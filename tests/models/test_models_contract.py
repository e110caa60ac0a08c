"""One contract that every entry of MODELS keeps, with every fill and output."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch

from rayfill.models import (
    FILLS,
    MODELS,
    build_model,
    composite,
    model_config,
    option_names,
)
from rayfill.models.contract import CHECKS, learns, sample
from rayfill.models.options import Output
from rayfill_data.errors import ConfigError, RayfillError

VARIANTS = [
    {"hole_fill": fill, "output": output}
    for fill, output in itertools.product(FILLS, get_args(Output))
]
every_model = pytest.mark.parametrize("name", sorted(MODELS))


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


#: These look at the network, not at what is filled in before it.
BY_DEFAULT = (
    "no state between calls",
    "any memory format",
    "alone as in a batch",
    "learns a constant",
    "saved and read back whole",
)


def cases():
    for check, name in itertools.product(CHECKS, sorted(MODELS)):
        for variant in [{}] if check in BY_DEFAULT else VARIANTS:
            about = "-".join((name, *variant.values()))
            yield pytest.param(check, name, variant, id=f"{check}-{about}")


@pytest.mark.parametrize(("check", "name", "variant"), list(cases()))
def test_contract(check, name, variant):
    CHECKS[check](lambda: built(name, width=4, **variant))


@every_model
def test_thirty_steps_learn_a_constant_to_a_twentieth(name):
    learns(lambda: built(name, width=4, depth=2), share=0.05)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"joint"}))
def test_stride_is_a_fact_of_the_configuration(name):
    options = known(name, depth=3)
    stride = build_model(name, width=2, **options).stride
    assert model_config(name, **options).stride == stride
    assert stride == (8 if options else 4)
    inside = {"inpainter": name, "inpainter_options": {"width": 2, **options}}
    assert build_model("joint", **inside).stride == stride


@every_model
@pytest.mark.parametrize("fill", FILLS)
def test_untrained_residual_model_answers_with_its_fill(name, fill):
    image, hole_mask = sample(32, 32)
    model = built(name, width=2, depth=2, hole_fill=fill, output="residual").eval()
    assert torch.equal(model(image, hole_mask), FILLS[fill](image, hole_mask))


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
    from rayfill.models.unets.attention_unet import AttentionGate

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
