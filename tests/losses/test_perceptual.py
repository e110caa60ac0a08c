"""Pretrained features: found, verified, frozen, or refused; never random ones."""

from __future__ import annotations

import copy
import socket
from pathlib import Path

import pytest
import torch
import torchvision

from rayfill.losses import (
    FEATURES,
    LOSSES,
    SUMS,
    build_loss,
    feature_weights_available,
    parse_loss,
)
from rayfill.losses.perceptual import (
    FeatureExtractor,
    FeatureViews,
    PerceptualLoss,
    gram_matrices,
    load_extractor,
)
from rayfill.models import pretrained
from rayfill.models.pretrained import PRETRAINED, load_features
from rayfill_data.errors import ConfigError, RayfillError

REAL_WEIGHTS = Path(__file__).parents[3] / "shared/data/weights/squeezenet1_1_features.pth"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No weights in torch's cache and no way to download: as on a machine without a network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "_reachable", lambda _: False)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def squeezenet_file(tmp_path_factory):
    """A locally saved SqueezeNet state dict; its weights are arbitrary, its form is real."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    return path


def pictures(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 2, 3, 32, 40, generator=generator)


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory):
    """A locally saved state dict of VGG16's features, arbitrary weights in the real form."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(torchvision.models.vgg16().features.state_dict(), path)
    return path


def squeezenet_term(path):
    return PerceptualLoss(load_extractor("squeezenet1_1", weights_path=path))


def test_value_equals_a_plain_walk_through_the_layers(squeezenet_file):
    prediction, target = pictures()
    loss = squeezenet_term(squeezenet_file)
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(torch.load(squeezenet_file, weights_only=True))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    a, b = (prediction - mean) / std, (target - mean) / std
    distances = []
    for index, layer in enumerate(network.features):
        a, b = layer(a), layer(b)
        if index in FEATURES["squeezenet1_1"]:
            distances.append((a - b).abs().mean().item())
    got = loss(prediction, None, target, None).item()
    assert got == pytest.approx(sum(distances) / len(distances), rel=1e-5)
    assert loss(target, None, target, None).item() == 0


def plain_liu_terms(features, taps, prediction, image, target, hole_mask):
    """Perceptual and style terms of Liu et al. 2018, sum by sum in float64 numpy."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    filled = hole_mask * prediction + (1 - hole_mask) * image
    x = {"out": prediction, "comp": filled, "gt": target}
    x = {key: (value.double() - mean) / std for key, value in x.items()}
    network = copy.deepcopy(features).double()
    perceptual = style = 0.0
    for index, layer in enumerate(network[: max(taps) + 1]):
        x = {key: layer(value) for key, value in x.items()}
        if index not in taps:
            continue
        maps = {key: value.detach().numpy() for key, value in x.items()}
        batch, channels, height, width = maps["gt"].shape
        for key in ("out", "comp"):
            for b in range(batch):
                a, t = (m[b].reshape(channels, -1) for m in (maps[key], maps["gt"]))
                perceptual += abs(a - t).sum() / a.size / batch
                gram = (a @ a.T - t @ t.T) / (channels * height * width)
                style += abs(gram).sum() / channels**2 / batch
    return perceptual, style


@pytest.mark.parametrize("name", ["vgg16", "squeezenet1_1"])
def test_liu_perceptual_and_style_equal_a_plain_walk(name, vgg16_file, squeezenet_file):
    path = vgg16_file if name == "vgg16" else squeezenet_file
    prediction, target = pictures()
    image, hole_mask = target * 0.9, torch.zeros(2, 1, 32, 40)
    hole_mask[..., 8:20, 10:30] = 1
    batch = (prediction, image, target, hole_mask)
    features = load_features(name, weights_path=path)
    perceptual, style = plain_liu_terms(features, FEATURES[name], *batch)
    loss = build_loss({"liu_perceptual": 1.0, "style": 1.0}, features=name, weights_path=path)
    terms = loss(*batch).terms
    assert terms["liu_perceptual"].item() == pytest.approx(perceptual, rel=1e-4)
    assert terms["style"].item() == pytest.approx(style, rel=1e-3)
    for term in loss.terms.values():
        assert term(target, target, target, hole_mask).item() == 0


def test_gram_matrix_of_known_maps():
    maps = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).view(1, 2, 1, 2)
    expected = torch.tensor([[5.0, 6.0], [6.0, 9.0]]) / 4
    torch.testing.assert_close(gram_matrices(maps)[0], expected)


def test_vgg16_is_tapped_after_its_first_three_poolings(vgg16_file):
    extractor = load_extractor("vgg16", weights_path=vgg16_file)
    assert all(isinstance(stage[-1], torch.nn.MaxPool2d) for stage in extractor.stages)
    shapes = [tuple(maps.shape[1:]) for maps in extractor(torch.zeros(1, 3, 16, 24))]
    assert shapes == [(64, 8, 12), (128, 4, 6), (256, 2, 3)]


def test_liu_is_the_published_sum_with_every_term(vgg16_file):
    prediction, target = pictures()
    hole_mask = torch.zeros(2, 1, 32, 40)
    hole_mask[..., 8:20, 10:30] = 1
    loss = build_loss(parse_loss("liu"), features="vgg16", weights_path=vgg16_file)
    result = loss(prediction, target, target, hole_mask)
    assert list(result.terms) == list(SUMS["liu"])
    terms = {name: value.item() for name, value in result.terms.items()}
    total = terms["valid_l1"] + 6 * terms["hole_l1"] + 0.05 * terms["liu_perceptual"]
    total += 120 * terms["style"] + 0.1 * terms["tv"]
    assert result.total.item() == pytest.approx(total, rel=1e-5)


def test_each_picture_is_looked_at_once_whatever_the_terms(squeezenet_file):
    weights = {name: 1.0 for name, spec in LOSSES.items() if spec.needs_features}
    assert set(weights) == {"perceptual", "liu_perceptual", "style"}
    loss = build_loss(weights, features="squeezenet1_1", weights_path=squeezenet_file)
    seen = []
    extractor = loss.terms["style"].extractor
    assert all(term.extractor is extractor for term in loss.terms.values())
    extractor.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    prediction, target = pictures()
    hole_mask = torch.zeros(2, 1, 32, 40)
    hole_mask[..., :9, :] = 1
    together = loss(prediction, target, target, hole_mask)
    assert len(seen) == 3  # prediction, target, composite
    # Nothing is kept for the next batch.
    again = loss(target, target, target, hole_mask)
    assert len(seen) == 6
    assert again.total.item() == 0
    for name, term in loss.terms.items():
        alone = term(prediction, target, target, hole_mask)
        torch.testing.assert_close(together.terms[name], alone)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].needs_features])
def test_gradient_equals_differences(name, squeezenet_file):
    prediction, target = pictures()
    prediction, target = prediction[:1, :, :24, :24].double(), target[:1, :, :24, :24].double()
    hole_mask = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    hole_mask[..., 6:14, 6:14] = 1
    extractor = load_extractor("squeezenet1_1", weights_path=squeezenet_file).double()
    term = LOSSES[name].build(extractor)
    prediction.requires_grad_()
    (gradient,) = torch.autograd.grad(term(prediction, target, target, hole_mask), prediction)
    direction = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(3)).double()
    step = 1e-7 * direction
    with torch.no_grad():
        above = term(prediction + step, target, target, hole_mask)
        below = term(prediction - step, target, target, hole_mask)
    slope = (above - below).item() / 2e-7
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_features_only_file_gives_the_same(squeezenet_file, tmp_path):
    state = torch.load(squeezenet_file, weights_only=True)
    features = {k.removeprefix("features."): v for k, v in state.items() if "features" in k}
    torch.save(features, tmp_path / "features.pth")
    whole = load_features("squeezenet1_1", weights_path=squeezenet_file)
    alone = load_features("squeezenet1_1", weights_path=tmp_path / "features.pth")
    for a, b in zip(whole.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_vgg19_is_cut_after_its_last_tap(tmp_path):
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.vgg19().features.state_dict().items()}
    state = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
    torch.save(state, tmp_path / "vgg19.pth")
    extractor = load_extractor("vgg19", weights_path=tmp_path / "vgg19.pth")
    layers = [layer for stage in extractor.stages for layer in stage]
    assert len(layers) == 21
    assert isinstance(layers[-1], torch.nn.ReLU)
    channels = [maps.shape[1] for maps in extractor(torch.zeros(1, 3, 16, 16))]
    assert channels == [64, 128, 256, 512]


def test_every_map_is_channels_last_whatever_the_picture(vgg16_file):
    extractor = load_extractor("vgg16", weights_path=vgg16_file)
    for maps in extractor(torch.rand(2, 3, 16, 24).contiguous()):
        assert maps.is_contiguous(memory_format=torch.channels_last)


def test_no_gradient_is_made_for_weights_or_target(vgg16_file):
    """Not even computed and thrown away: the graph has no edge to them."""
    extractor = load_extractor("vgg16", weights_path=vgg16_file)
    prediction, target = (p.requires_grad_() for p in pictures())
    hole_mask = torch.ones(2, 1, 32, 40)
    views = FeatureViews(
        extractor, prediction=prediction, image=target, target=target, hole_mask=hole_mask
    )
    assert not any(maps.requires_grad for maps in views.target)
    assert all(maps.requires_grad for maps in views.prediction)
    leaves, waiting, seen = set(), [views.prediction[-1].grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(node.variable.data_ptr())
        waiting += [parent for parent, _ in node.next_functions]
    assert leaves == {prediction.data_ptr()}


def test_taps_are_not_overwritten_by_the_layer_after_them(squeezenet_file):
    for name, taps in FEATURES.items():
        with torch.device("meta"):
            features = getattr(torchvision.models, name)().features
        for tap in taps[:-1]:
            assert not getattr(features[tap + 1], "inplace", False)


def test_frozen_in_eval_mode_and_gradient_only_to_the_prediction(squeezenet_file):
    prediction, target = pictures()
    prediction.requires_grad_()
    target.requires_grad_()
    loss = build_loss({"perceptual": 1.0}, features="squeezenet1_1", weights_path=squeezenet_file)
    loss.train()
    assert not any(module.training for module in loss.terms["perceptual"].extractor.modules())
    assert not any(p.requires_grad for p in loss.parameters())
    loss(prediction, target, target, torch.zeros(2, 1, 32, 40)).total.backward()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None


@pytest.mark.parametrize("features", sorted(FEATURES))
def test_without_weights_nothing_is_built_and_the_way_out_is_named(features, tmp_path):
    found = feature_weights_available(features)
    assert not found.ok
    assert "cannot be reached" in found.reason
    assert "weights_path" in found.how_to_get
    with pytest.raises(RayfillError, match=f"No weights for {features}.*weights_path"):
        build_loss({"perceptual": 1.0}, features=features)
    assert not feature_weights_available(features, weights_path=tmp_path / "none.pth").ok
    with pytest.raises(RayfillError, match="there is no file"):
        load_extractor(features, weights_path=tmp_path / "none.pth")
    assert "not allowed" in feature_weights_available(features, allow_download=False).reason


def test_availability_never_raises_for_unknown_names():
    assert "Did you mean 'vgg19'" in feature_weights_available("vgg9").reason
    assert not pretrained.weights_available("resnet").ok
    with pytest.raises(ConfigError, match="vgg19"):
        load_extractor("vgg9")
    with pytest.raises(ConfigError, match="vgg16"):
        load_features("vgg15")


def test_cache_is_found_before_the_network_is_asked(empty_cache, squeezenet_file, monkeypatch):
    monkeypatch.setattr(pretrained, "_reachable", lambda _: pytest.fail("asked the network"))
    url = pretrained._url("squeezenet1_1")
    cached = empty_cache / "checkpoints" / Path(url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(squeezenet_file.read_bytes())
    found = feature_weights_available("squeezenet1_1")
    assert found.ok
    assert "cache" in found.reason
    # torchvision's own loader takes it from there.
    features = load_features("squeezenet1_1")
    state = torch.load(squeezenet_file, weights_only=True)
    assert torch.equal(features[0].weight, state["features.0.weight"])


def test_reachable_server_counts_as_available(monkeypatch):
    monkeypatch.setattr(pretrained, "_reachable", lambda _: True)
    assert feature_weights_available("vgg19").ok


@pytest.mark.parametrize("network", PRETRAINED)
def test_every_network_has_weights_of_its_name(network):
    assert network.split("_")[0] in pretrained._url(network)


def test_a_server_that_never_answers_does_not_hang_us(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(pretrained, "_REACH_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not pretrained._reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/x")
    assert not pretrained._reachable("http://127.0.0.1:1/x")


@pytest.mark.parametrize("content", [b"", b"not a state dict", b"PK\x03\x04half"])
def test_damaged_files_are_refused(content, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(RayfillError, match="cannot be read as a PyTorch state dict"):
        load_features("vgg19", weights_path=tmp_path / "w.pth")


def test_files_of_something_else_are_refused(squeezenet_file, tmp_path):
    with pytest.raises(RayfillError, match="not the weights of this network"):
        load_features("vgg19", weights_path=squeezenet_file)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(RayfillError, match="does not hold tensors by name"):
        load_features("vgg19", weights_path=tmp_path / "list.pth")


def test_extractor_scales_like_imagenet():
    identity = FeatureExtractor(torch.nn.Sequential(torch.nn.Identity()), taps=(0,))
    (out,) = identity(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    torch.testing.assert_close(out, torch.zeros(1, 3, 1, 1))


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_WEIGHTS.is_file(), reason="no SqueezeNet weights beside the project")
def test_real_features_see_blur_as_worse_than_equally_large_brightness_shift():
    loss = squeezenet_term(REAL_WEIGHTS)
    from skimage import data

    target = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None, :, 100:228, 160:288] / 255
    blurred = torch.nn.functional.avg_pool2d(target, 5, stride=1, padding=2)
    shift = (blurred - target).square().mean().sqrt()
    assert loss(blurred, None, target, None) > loss(target - shift, None, target, None)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_WEIGHTS.is_file(), reason="no SqueezeNet weights beside the project")
def test_real_features_give_liu_terms_equal_to_the_plain_walk():
    from skimage import data

    target = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None, :, 100:228, 160:288] / 255
    hole_mask = torch.zeros(1, 1, 128, 128)
    hole_mask[..., 40:90, 30:100] = 1
    prediction = torch.nn.functional.avg_pool2d(target, 9, stride=1, padding=4)
    features = load_features("squeezenet1_1", weights_path=REAL_WEIGHTS)
    batch = (prediction, target, target, hole_mask)
    perceptual, style = plain_liu_terms(features, FEATURES["squeezenet1_1"], *batch)
    loss = build_loss(parse_loss("liu"), features="squeezenet1_1", weights_path=REAL_WEIGHTS)
    terms = loss(*batch).terms
    assert terms["liu_perceptual"].item() == pytest.approx(perceptual, rel=1e-4)
    assert terms["style"].item() == pytest.approx(style, rel=1e-4)
