"""What DINOv2's smallest vision transformer sees, for removal coherence; weights from a file."""

from __future__ import annotations

import os

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayfill.metrics.picture_features import IMAGENET_MEAN, IMAGENET_STD
from rayfill.models.pretrained import load_strictly, read_state

Floats = NDArray[np.float32]

_WIDTH, _DEPTH, _HEADS = 384, 12, 6
_PATCH_PX = 14
#: Patches along a side of the pictures that positions were learned on: 518 px.
_LEARNED_SIDE = 37
#: As published: added to the number of patches before positions are resampled.
_POSITION_OFFSET = 0.1
#: Patches along the longer side that a picture is shown with, as PROVE has it.
_SHOWN_SIDE = 64


class _Scale(nn.Module):
    """A factor per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(_WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        split = self.qkv(tokens).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*split.unbind(0))
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class _Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(_WIDTH, 4 * _WIDTH)
        self.fc2 = nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        answer: Tensor = self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return answer


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.attn = _Attention()
        self.ls1 = _Scale()
        self.norm2 = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.mlp = _Perceptron()
        self.ls2 = _Scale()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        scaled: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return scaled


class DinoV2(nn.Module):
    """ViT-S/14 of DINOv2: 22,056,576 parameters, named as in its published file.

    Source: Oquab et al. 2023 (arXiv:2304.07193).
    """

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _LEARNED_SIDE**2, _WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, _WIDTH))  # in the file, for training only
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, _WIDTH, kernel_size=_PATCH_PX, stride=_PATCH_PX)}
        )
        self.blocks = nn.ModuleList(_Block() for _ in range(_DEPTH))
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-6)

    def forward(self, picture: Tensor) -> Tensor:
        """Return (B, 384, H / 14, W / 14), what is seen in each patch.

        Args:
            picture: (B, 3, H, W), normalised as for ImageNet; H and W are multiples of 14.
        """
        patches = self.patch_embed["proj"](picture)
        size = (patches.shape[-2], patches.shape[-1])
        tokens = torch.cat(
            [self.cls_token.expand(len(picture), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        tokens = tokens + self._positions(size)
        for block in self.blocks:
            tokens = block(tokens)
        seen: Tensor = self.norm(tokens)[:, 1:].transpose(1, 2).unflatten(2, size)
        return seen

    def _positions(self, size: tuple[int, int]) -> Tensor:
        if size == (_LEARNED_SIDE, _LEARNED_SIDE):
            return self.pos_embed
        learned = self.pos_embed[:, 1:].reshape(1, _LEARNED_SIDE, _LEARNED_SIDE, _WIDTH)
        factors = [(count + _POSITION_OFFSET) / _LEARNED_SIDE for count in size]
        resampled = nn.functional.interpolate(
            learned.permute(0, 3, 1, 2), scale_factor=factors, mode="bicubic"
        )
        return torch.cat([self.pos_embed[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)


class DinoV2Features:
    """What DINOv2's ViT-S/14 sees in every patch: (H, W, 3) -> (h, w, 384), each of length 1.

    Pictures are shown with 64 patches (896 px) along the longer side, as removal coherence was
    published (PROVE, arXiv:2605.14534); 4 s of a CPU core each.
    """

    def __init__(self, *, weights_path: str | os.PathLike[str]) -> None:
        """Load the network.

        Args:
            weights_path: the published ``dinov2_vits14_pretrain.pth``.

        Raises:
            RayfillError: no such file, or one of another network; never random weights instead.
        """
        with torch.device("meta"):
            network = DinoV2()
        load_strictly(network, read_state(weights_path), where=str(weights_path))
        self.network = network.eval()

    def __call__(self, picture: Floats) -> Floats:
        """Return the features of a picture, (H, W, 3) in [0, 1]."""
        scale = _SHOWN_SIDE / max(picture.shape[:2])
        height, width = (_PATCH_PX * max(1, round(side * scale)) for side in picture.shape[:2])
        shown = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        normalised = np.ascontiguousarray(
            ((shown - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
        )
        with torch.no_grad():
            seen = self.network(torch.from_numpy(normalised)[None])[0]
            unit = nn.functional.normalize(seen, dim=0)
        features: Floats = unit.permute(1, 2, 0).contiguous().numpy()
        return features
