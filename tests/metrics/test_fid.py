"""FID: the published network or a refusal; the distance against SciPy's matrix square root."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from rayfill.metrics import FID_MIN_SAMPLES, FidMetric, fid, fid_available
from rayfill_data.errors import RayfillError

HAS_PACKAGE = find_spec("torch_fidelity") is not None


class Means(nn.Module):
    """Six features of an 8-bit picture: means and spreads of its channels."""

    num_features = 6

    def forward(self, image):
        assert image.dtype == torch.uint8
        x = image.double() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


@pytest.fixture
def small_network(monkeypatch, tmp_path):
    """Everything but the network is real: that one needs a package and weights."""
    (tmp_path / "weights.pth").touch()
    monkeypatch.setattr(fid, "find_spec", lambda _: True)
    monkeypatch.setattr(fid, "_load_inception", lambda _: Means())
    return tmp_path / "weights.pth"


def pictures(count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(count, 3, 1, 1, generator=generator)
    return (levels + 0.3 * torch.rand(count, 3, 8, 8, generator=generator)) / 1.3


def test_distance_equals_scipy(small_network):
    target, composite = pictures(40), pictures(40, seed=1) ** 1.5
    metric = FidMetric(weights_path=small_network, min_samples=40)
    for rows in (slice(0, 7), slice(7, 40)):
        metric.update(composite[rows], target[rows])
    a, b = (Means()((x * 255).round().to(torch.uint8)).numpy() for x in (composite, target))
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    gap = a.mean(axis=0) - b.mean(axis=0)
    expected = gap @ gap + np.trace(c1 + c2 - 2 * root)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-6)


def test_equal_sets_are_at_no_distance(small_network):
    metric = FidMetric(weights_path=small_network, min_samples=30)
    metric.update(pictures(30), pictures(30))
    assert metric.compute().item() == pytest.approx(0, abs=1e-6)


def test_too_few_pictures_are_refused(small_network):
    metric = FidMetric(weights_path=small_network)
    metric.update(pictures(30), pictures(30))
    with pytest.raises(RayfillError, match=f"FID of 30 pictures; at least {FID_MIN_SAMPLES}"):
        metric.compute()


def test_states_are_summed_over_ranks(small_network):
    first, second = (FidMetric(weights_path=small_network, min_samples=40) for _ in range(2))
    whole = FidMetric(weights_path=small_network, min_samples=40)
    composite, target = pictures(40), pictures(40, seed=1)
    first.update(composite[:9], target[:9])
    second.update(composite[9:], target[9:])
    whole.update(composite, target)
    for state, reduction in first._reductions.items():
        setattr(
            first, state, reduction(torch.stack([getattr(first, state), getattr(second, state)]))
        )
    assert first.compute().item() == pytest.approx(whole.compute().item(), rel=1e-9)


def test_without_the_package_it_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(fid, "find_spec", lambda _: None)
    found = fid_available()
    assert not found.ok
    assert "torch-fidelity" in found.reason
    assert "torchvision's Inception v3 is another network" in found.how_to_get
    with pytest.raises(RayfillError, match="No FID: the package torch-fidelity"):
        FidMetric(weights_path=tmp_path)


def test_without_weights_it_is_refused_with_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(fid, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(RayfillError, match="there is no file .*Download https://.*weights_path"):
        FidMetric()
    with pytest.raises(RayfillError, match=r"there is no file .*none\.pth"):
        FidMetric(weights_path=tmp_path / "none.pth")


def test_a_file_that_is_no_state_dict_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(fid, "find_spec", lambda _: True)
    (tmp_path / "w.pth").write_bytes(b"not a state dict")
    with pytest.raises(RayfillError, match="cannot be read as a PyTorch state dict"):
        FidMetric(weights_path=tmp_path / "w.pth")


@pytest.mark.skipif(not HAS_PACKAGE, reason="torch-fidelity is not installed")
def test_the_published_network_takes_only_its_own_weights(tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(RayfillError, match="not the weights of FID's Inception network"):
        FidMetric(weights_path=tmp_path / "other.pth")
    source = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        # The constructor only loads; what it would load is caught instead.
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        source.__init__("x", ["2048"], feature_extractor_weights_path=tmp_path / "other.pth")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    metric = FidMetric(weights_path=tmp_path / "weights.pth", min_samples=2)
    assert not any(parameter.requires_grad for parameter in metric.parameters())
    metric.update(pictures(3), pictures(3))
    assert metric.compute().item() == pytest.approx(0, abs=1e-3)
