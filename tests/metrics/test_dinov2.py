"""DINOv2's network against torch's own transformer layer, its published count, its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rayfill.metrics import removal_coherence
from rayfill.metrics.dinov2 import DinoV2, DinoV2Features
from rayfill_data.errors import RayfillError


@pytest.fixture(scope="module")
def drawn() -> DinoV2:
    """A network of random weights."""
    torch.manual_seed(0)
    network = DinoV2().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


def torchs_own(network: DinoV2) -> nn.TransformerEncoder:
    """The same layers of ``torch.nn``, with the factors of their branches multiplied in."""
    layer = nn.TransformerEncoderLayer(
        384, 6, 1536, activation="gelu", layer_norm_eps=1e-6, norm_first=True, batch_first=True
    )
    norm = nn.LayerNorm(384, eps=1e-6)
    encoder = nn.TransformerEncoder(layer, 12, norm=norm, enable_nested_tensor=False)
    for own, block in zip(encoder.layers, network.blocks, strict=True):
        given = block.state_dict()
        first, second = given["ls1.gamma"], given["ls2.gamma"]
        own.load_state_dict(
            {
                "self_attn.in_proj_weight": given["attn.qkv.weight"],
                "self_attn.in_proj_bias": given["attn.qkv.bias"],
                "self_attn.out_proj.weight": first[:, None] * given["attn.proj.weight"],
                "self_attn.out_proj.bias": first * given["attn.proj.bias"],
                "linear1.weight": given["mlp.fc1.weight"],
                "linear1.bias": given["mlp.fc1.bias"],
                "linear2.weight": second[:, None] * given["mlp.fc2.weight"],
                "linear2.bias": second * given["mlp.fc2.bias"],
                **{
                    f"norm{n}.{k}": given[f"norm{n}.{k}"]
                    for n in (1, 2)
                    for k in ("weight", "bias")
                },
            }
        )
    encoder.norm.load_state_dict(network.norm.state_dict())
    return encoder.eval()


def test_it_has_the_published_parameters(drawn: DinoV2) -> None:
    assert sum(parameter.numel() for parameter in drawn.parameters()) == 22_056_576
    assert {"cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight"} <= set(
        drawn.state_dict()
    )
    assert "blocks.11.ls2.gamma" in drawn.state_dict()


def test_it_equals_torchs_own_transformer_at_the_size_it_was_trained_on(drawn: DinoV2) -> None:
    picture = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    patches = nn.functional.unfold(picture, 14, stride=14).transpose(1, 2)
    projection = drawn.patch_embed["proj"]
    tokens = patches @ projection.weight.flatten(1).T + projection.bias
    with torch.no_grad():
        tokens = torch.cat([drawn.cls_token, tokens], dim=1) + drawn.pos_embed
        expected = torchs_own(drawn)(tokens)[:, 1:]
        seen = drawn(picture).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen, expected, atol=2e-4, rtol=1e-3)


def test_positions_are_resampled_smoothly_for_other_shapes(drawn: DinoV2) -> None:
    with torch.no_grad():
        positions = drawn._positions((10, 64))
    assert positions.shape == (1, 1 + 640, 384)
    rows = drawn.pos_embed[:, 1:].unflatten(1, (37, 37)).mean(dim=(1, 2))
    torch.testing.assert_close(positions[:, 1:].mean(dim=1), rows, atol=0.01, rtol=0)


def test_features_of_any_picture_and_coherence_through_them(drawn: DinoV2, tmp_path: Path) -> None:
    torch.save(drawn.state_dict(), tmp_path / "drawn.pth")
    features = DinoV2Features(weights_path=tmp_path / "drawn.pth")
    picture = np.random.default_rng(0).random((40, 60, 3), dtype=np.float32)
    seen = features(picture)
    assert seen.shape == (43, 64, 384)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), 1, atol=1e-5)
    hole = torch.zeros(1, 1, 40, 60)
    hole[..., 12:28, 20:40] = 1
    composite = torch.from_numpy(picture).permute(2, 0, 1)[None]
    assert 0 <= float(removal_coherence(composite, hole, features=features)) <= 1.5


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    torch.save({"norm.weight": torch.ones(384)}, tmp_path / "other.pth")
    with pytest.raises(RayfillError, match="not the weights of this network"):
        DinoV2Features(weights_path=tmp_path / "other.pth")
    with pytest.raises(RayfillError, match="cannot be read"):
        DinoV2Features(weights_path=tmp_path / "none.pth")
