"""LPIPS: the authors' package, its weights verified, or a clear refusal."""

from __future__ import annotations

import csv
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from rayfill.metrics import LpipsMetric, lpips_available
from rayfill.metrics.lpips import BACKBONES, _empty_network
from rayfill.models import pretrained
from rayfill_data.errors import ConfigError, RayfillError

DATA = Path(__file__).parents[3] / "shared/data"
FULL_WEIGHTS = DATA / "weights/lpips_squeeze_v0.1_full.pth"
TRIPLES = DATA / "inpaint_triples"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "_reachable", lambda _: False)
    return tmp_path / "hub"


def backbone_state(network, seed=0):
    """Arbitrary weights in the form torchvision publishes them, without the classifier."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = getattr(torchvision.models, BACKBONES[network])()
    return {
        f"features.{key}": 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in model.features.state_dict().items()
    }


@pytest.mark.parametrize("network", sorted(BACKBONES))
def test_cached_backbone_and_packaged_layers_make_the_network(network, empty_cache, monkeypatch):
    """The state assembled from both equals a plain forward through both."""
    state = backbone_state(network)
    cached = empty_cache / "checkpoints" / Path(pretrained._url(BACKBONES[network])).name
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    enumeration = type(pretrained._enumeration(BACKBONES[network]))
    monkeypatch.setattr(
        enumeration, "get_state_dict", lambda *_, **__: torch.load(cached, weights_only=True)
    )
    metric = LpipsMetric(network)
    a, b = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scaling = lpips.ScalingLayer()
    with torch.device("meta"):
        features = getattr(torchvision.models, BACKBONES[network])().features
    features.load_state_dict(
        {k.removeprefix("features."): v for k, v in state.items()}, assign=True
    )
    linear = torch.load(
        Path(lpips.__file__).parent / f"weights/v0.1/{network}.pth",
        weights_only=True,
        map_location="cpu",
    )
    # Read the taps off the package's own slices: the last layer of each.
    taps = [
        int(list(part._modules)[-1])
        for name, part in metric.distance.net.named_children()
        if name.startswith("slice")
    ]
    x, y, expected = scaling(2 * a - 1), scaling(2 * b - 1), torch.zeros(2)
    for index, layer in enumerate(features):
        x, y = layer(x), layer(y)
        if index in taps:
            fx, fy = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
            weight = linear[f"lin{taps.index(index)}.model.1.weight"]
            expected += ((fx - fy).square() * weight).sum(1).mean((1, 2))
    torch.testing.assert_close(metric(a, b), expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def full_state(tmp_path_factory):
    torch.manual_seed(0)
    shapes = _empty_network("squeeze").state_dict()
    state = {key: 0.1 * torch.rand(value.shape) for key, value in shapes.items()}
    path = tmp_path_factory.mktemp("lpips") / "full.pth"
    torch.save(state, path)
    return path


def test_full_state_file(full_state):
    metric = LpipsMetric("squeeze", weights_path=full_state).train()
    assert not any(module.training for module in metric.modules())
    assert not any(p.requires_grad or p.is_meta for p in metric.parameters())
    pictures = torch.rand(3, 3, 64, 64)
    assert metric(pictures, pictures).tolist() == [0, 0, 0]
    different = metric(pictures, pictures.flip(0))
    assert different.shape == (3,)
    assert (different[[0, 2]] > 0).all()


def test_building_one_draws_no_random_numbers(full_state):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    LpipsMetric("squeeze", weights_path=full_state)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", sorted(BACKBONES))
def test_without_weights_it_is_refused_with_the_way_out(network, tmp_path):
    found = lpips_available(network)
    assert not found.ok
    assert found.how_to_get
    with pytest.raises(RayfillError, match=f"No LPIPS with {network}.*weights_path"):
        LpipsMetric(network)
    with pytest.raises(RayfillError, match="there is no file"):
        LpipsMetric(network, weights_path=tmp_path / "none.pth")


def test_unknown_network_or_missing_package(monkeypatch):
    assert "Did you mean 'squeeze'" in lpips_available("squeez").reason
    with pytest.raises(ConfigError, match="alex, squeeze, vgg"):
        LpipsMetric("resnet")
    monkeypatch.setattr("rayfill.metrics.lpips.find_spec", lambda _: None)
    assert "not installed" in lpips_available("squeeze").reason
    with pytest.raises(RayfillError, match="Install the package lpips"):
        LpipsMetric("squeeze")


def test_weights_of_another_network_are_refused(full_state):
    with pytest.raises(RayfillError, match="not the weights of this network"):
        LpipsMetric("alex", weights_path=full_state)


def published_mean(name, metric, kind):
    """Mean distance of the pictures of a set's manifest column to its originals."""
    manifest = (TRIPLES / "manifest.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(manifest) if row["set"] == name]
    assert rows
    values = []
    for row in rows:
        pair = [np.array(Image.open(TRIPLES / row[c]).convert("RGB")) for c in (kind, "image")]
        result, image = (torch.from_numpy(p).permute(2, 0, 1)[None] / 255 for p in pair)
        with torch.inference_mode():
            values.append(metric(result, image).item())
    return float(np.mean(values))


@pytest.mark.realdata
@pytest.mark.skipif(not TRIPLES.is_dir(), reason="no inpainting triples beside the project")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ffhq_256_freeform", 0.131),
        ("places2_256_freeform", 0.163),
        ("places2_512_freeform", 0.204),
        ("places2_512_object", 0.081),
    ],
)
def test_published_values_are_reproduced(name, expected):
    metric = LpipsMetric("squeeze", weights_path=FULL_WEIGHTS)
    assert published_mean(name, metric, "result") == pytest.approx(expected, abs=6e-4)
