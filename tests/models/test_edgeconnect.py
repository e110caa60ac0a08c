"""EdgeConnect: its published size, its stages, its gradients, and label maps."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from rayfill.models import build_model
from rayfill.models.cost import model_cost
from rayfill.models.edgeconnect.edges import canny_edges
from rayfill.models.edgeconnect.generator import EdgeConnectGenerator
from rayfill.models.edgeconnect.network import EdgeConnect, one_hot_labels
from rayfill.models.options import Output
from rayfill.runs.bundle import load_bundle, save_bundle
from rayfill_data.errors import RayfillError


def small(**config):
    torch.manual_seed(0)
    model = build_model("edgeconnect", **{"width": 4, "blocks": 2, **config})
    assert isinstance(model, EdgeConnect)
    return model


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def sample(height=32, width=32, *, classes=0, batch=2):
    """Pictures with a bright disc that a hole cuts in half, and label maps of any kind."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = ((y - height / 2).square() + (x - width / 2).square()).sqrt() < min(height, width) / 3
    image = torch.where(disc, 0.9, 0.1).expand(batch, 3, -1, -1).clone()
    hole_mask = torch.zeros(batch, 1, height, width)
    hole_mask[..., height // 4 : 3 * height // 4, : width // 2] = 1
    if not classes:
        return image, hole_mask
    labels = torch.randint(0, classes, (batch, height, width))
    return image, hole_mask, one_hot_labels(labels, classes=classes)


def published_parameters(*, channels_in, channels_out, width=64, blocks=8):
    """Weights of every layer as the paper lists them, and the biases its norms do not cancel."""
    w = width
    layers = [
        (7, channels_in, w),
        (4, w, 2 * w),
        (4, 2 * w, 4 * w),
        *[(3, 4 * w, 4 * w)] * (2 * blocks),
        (4, 4 * w, 2 * w),
        (4, 2 * w, w),
        (7, w, channels_out),
    ]
    biases = sum(out for _, _, out in layers)
    return sum(k * k * i * o for k, i, o in layers), biases, channels_out


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("channels_in", "channels_out"), [(4, 3), (3, 1), (9, 8)])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_generator_has_the_published_parameters_but_cancelled_biases(
    channels_in, channels_out, spectral_norm
):
    with torch.device("meta"):
        generator = EdgeConnectGenerator(channels_in, channels_out, spectral_norm=spectral_norm)
    weights, biases, kept = published_parameters(channels_in=channels_in, channels_out=channels_out)
    assert count(generator) == weights + kept
    if (channels_in, channels_out) == (4, 3):
        assert count(generator) == 10_769_859
        assert weights + biases == 10_774_595


def test_multiply_adds_are_those_of_its_layers():
    cost = model_cost("edgeconnect", size=(64, 64))
    pixels = 64 * 64

    def adds(channels_in, channels_out):
        ends = 49 * 64 * (channels_in + channels_out) * pixels
        # A 4x4 window down to half the size, and back up, where counted at the smaller one.
        halves = 2 * 16 * (64 * 128 * pixels // 4 + 128 * 256 * pixels // 16)
        return ends + halves + 16 * 9 * 256 * 256 * pixels // 16

    # Reflection makes the 7x7 convolutions see no padding: every output has all 49 products.
    assert cost.multiply_adds == adds(3, 1) + adds(5, 3)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (11, 13), (17, 31), (32, 64)], ids=str)
def test_generator_takes_any_size(size):
    torch.manual_seed(0)
    x = torch.rand(2, 2, *size)
    out = EdgeConnectGenerator(2, 5, width=2, blocks=1)(x)
    assert out.shape == (2, 5, *size)
    assert out.isfinite().all()


def test_instance_norm_is_per_sample_and_channel():
    torch.manual_seed(0)
    generator = EdgeConnectGenerator(1, 1, width=2, blocks=1)
    norms = [m for m in generator.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(norms) == 2 + 5
    x = 5 * torch.randn(3, 8, 6, 7) + 2
    norm = next(m for m in norms if m.num_channels == 8)
    torch.testing.assert_close(norm(x), torch.nn.functional.instance_norm(x))


def test_spectral_norm_leaves_the_function_alone():
    """Instance norms undo the scale of a weight; the last convolution keeps its own."""
    torch.manual_seed(0)
    generator = EdgeConnectGenerator(3, 1, width=4, blocks=1, spectral_norm=True).double().eval()
    plain = EdgeConnectGenerator(3, 1, width=4, blocks=1).double().eval()
    weights = generator.state_dict()
    plain.load_state_dict(
        {
            key.replace("parametrizations.weight.original", "weight"): 100 * value
            if "original" in key
            else value
            for key, value in weights.items()
            if "._" not in key
        }
    )
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    normed = generator(x)
    assert normed.std() > 0
    torch.testing.assert_close(plain(x), normed, rtol=0.02, atol=1e-3)


def test_forward_is_its_stages_in_a_row():
    model = small(labels=3).eval()
    image, hole_mask, labels = sample(classes=3)
    edges = model.complete_edges(image, hole_mask)
    completed = model.complete_labels(labels, hole_mask).labels
    in_a_row = model.paint(image, hole_mask, edges=edges.edges, labels=completed)
    assert torch.equal(model(image, hole_mask, labels), in_a_row)
    other = model.paint(image, hole_mask, edges=1 - edges.edges, labels=completed)
    assert not torch.equal(other, in_a_row)
    other = model.paint(image, hole_mask, edges=edges.edges, labels=1 - completed)
    assert not torch.equal(other, in_a_row)


def test_known_edges_and_labels_are_kept_and_holes_take_probabilities():
    model = small(labels=3).eval()
    image, hole_mask, labels = sample(classes=3)
    hole = hole_mask > 0
    stage = model.complete_edges(image, hole_mask)
    assert torch.equal(stage.known, canny_edges(image, hole_mask))
    assert stage.known.sum() > 10
    assert torch.equal(stage.edges[~hole], stage.known[~hole])
    assert torch.equal(stage.edges[hole], stage.probabilities[hole])
    torch.testing.assert_close(stage.probabilities, 1 / (1 + torch.exp(-stage.logits)))
    completed = model.complete_labels(labels, hole_mask)
    known = ~hole.expand_as(labels)
    assert torch.equal(completed.labels[known], labels[known])
    torch.testing.assert_close(completed.labels.sum(dim=1), torch.ones(2, 32, 32))
    expected = torch.softmax(completed.logits, dim=1)[~known]
    assert torch.equal(completed.labels[~known], expected)


@pytest.mark.parametrize("output", get_args(Output))
@pytest.mark.parametrize("labels", [0, 3])
def test_hole_pixels_and_labels_change_no_output_bit_where_there_are_edges(output, labels):
    model = small(output=output, labels=labels).eval()
    torch.nn.init.normal_(model.image_generator.head.weight, std=0.1)
    image, hole_mask, *maps = sample(17, 31, classes=labels)
    hole = hole_mask > 0
    assert not torch.equal(canny_edges(image), canny_edges(image, hole_mask))
    first = model(image, hole_mask, *maps)
    nan = float("nan")
    again = model(
        image.masked_fill(hole, nan), hole_mask, *(m.masked_fill(hole, nan) for m in maps)
    )
    assert torch.equal(first, again)
    assert first.isfinite().all()


def gradients(model, loss):
    loss.backward()
    found = {
        name: all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        for name, network in model.named_children()
    }
    model.zero_grad(set_to_none=True)
    return {name for name, all_reached in found.items() if all_reached}


def test_losses_of_the_picture_reach_all_stages_and_those_of_a_stage_only_itself():
    model = small(labels=3)
    image, hole_mask, labels = sample(classes=3)
    everything = {"edge_generator", "label_generator", "image_generator"}
    assert gradients(model, (model(image, hole_mask, labels) - image).abs().mean()) == everything
    edges = model.complete_edges(image, hole_mask)
    assert gradients(model, edges.logits.square().mean()) == {"edge_generator"}
    completed = model.complete_labels(labels, hole_mask)
    assert gradients(model, completed.logits.square().mean()) == {"label_generator"}
    prediction = model.paint(image, hole_mask, edges=canny_edges(image), labels=labels)
    assert gradients(model, (prediction - image).abs().mean()) == {"image_generator"}


def test_a_soft_mask_carries_a_gradient_through_every_stage():
    model = small(labels=3)
    image, hole_mask, labels = sample(classes=3)
    soft = (0.8 * hole_mask + 0.1).requires_grad_()
    for made in (
        model.complete_edges(image, soft).logits,
        model.complete_labels(labels, soft).logits,
        model.paint(image, soft, edges=canny_edges(image), labels=labels),
    ):
        (gradient,) = torch.autograd.grad(made.square().mean(), soft)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_direct_output_lies_in_range_in_training_too():
    model = small().train()
    torch.nn.init.normal_(model.image_generator.head.weight, std=10)
    image, hole_mask = sample()
    prediction = model(image, hole_mask)
    assert 0 <= prediction.min() < 0.01
    assert 0.99 < prediction.max() <= 1


def test_labels_where_needed_and_only_there():
    image, hole_mask, labels = sample(classes=3)
    with pytest.raises(RayfillError, match=r"needs label maps of shape \(2, 3, 32, 32\); got none"):
        small(labels=3)(image, hole_mask)
    with pytest.raises(RayfillError, match=r"got shape \(2, 2, 32, 32\)"):
        small(labels=3)(image, hole_mask, labels[:, :2])
    for call in (
        lambda model: model(image, hole_mask, labels),
        lambda model: model.complete_labels(labels, hole_mask),
        lambda model: model.paint(image, hole_mask, edges=hole_mask, labels=labels),
    ):
        with pytest.raises(RayfillError, match="network without labels"):
            call(small())


def test_one_hot_labels():
    labels = torch.tensor([[[0, 2], [255, 1]]])
    hot = one_hot_labels(labels, classes=3)
    assert hot.dtype == torch.float32
    assert hot[0, :, 0, 0].tolist() == [1, 0, 0]
    assert hot[0, :, 0, 1].tolist() == [0, 0, 1]
    assert hot[0, :, 1, 0].tolist() == [0, 0, 0]
    assert hot[0, :, 1, 1].tolist() == [0, 1, 0]


@pytest.mark.parametrize("labels", [0, 3])
def test_a_bundle_gives_the_same_prediction(tmp_path, labels):
    config = {"width": 4, "blocks": 1, "labels": labels}
    model = small(**config)
    inputs = sample(17, 31, classes=labels)
    model.train()(*inputs)  # moves the estimates of the singular values
    save_bundle(tmp_path / "bundle", model=model, name="edgeconnect", config=config)
    loaded = load_bundle(tmp_path / "bundle").model
    assert torch.equal(loaded(*inputs), model.eval()(*inputs))
