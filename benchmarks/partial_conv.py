"""Networks of partial convolutions against the same networks of the textbook layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import Case, Theme
from torch import Tensor, nn
from training_step import random_batch

from rayfill.models import InpaintingModel, build_model
from rayfill.models.unets.partial_conv import PartialConv2d

#: Name, title, size in pixels, rounds.
_NETWORKS = (
    ("partial_conv_liu", "Liu's network, width 64, depth 7", 256, 9),
    ("partial_conv_unet", "U-Net of P3, width 64, depth 4", 128, 9),
)

#: Channels and size in pixels of single layers.
_LAYERS = ((64, 256), (128, 128), (256, 64))

_BATCH = 2


def cases(folder: Path) -> Iterator[Case]:
    for name, title, size, rounds in _NETWORKS:
        torch.manual_seed(0)
        model = build_model(name, width=64, normalisation="report")
        model = model.to(memory_format=torch.channels_last)
        textbook = Textbook(model)
        yield _steps(title, model, textbook, size=size, rounds=rounds)
        yield _mask_paths(title, model, textbook, size=size)
    for channels, size in _LAYERS:
        yield _layers(channels, size=size)


def _mask_paths(title: str, model: InpaintingModel, textbook: Textbook, *, size: int) -> Case:
    batch = random_batch(_BATCH, size=size)
    recorder = _Recorder(model)
    with torch.no_grad():
        recorder(batch.image, batch.hole_mask)

    def plain() -> None:
        for layer, mask in recorder.given:
            update(textbook.known(layer, mask)[1])

    return Case(
        title=f"Masks alone, {title}, {size} px, batch {_BATCH}",
        ways={
            "textbook layer": plain,
            "Rayfill": functools.partial(model.windows, 1 - batch.hole_mask),
        },
        units=_BATCH,
        unit="image",
        rounds=9,
    )


def _layers(channels: int, *, size: int) -> Case:
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
    partial = PartialConv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
    mask = 1 - random_batch(_BATCH, size=size).hole_mask
    x = torch.randn(_BATCH, channels, size, size).mul_(mask)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    window = partial.window(mask)
    ways = {
        "nn.Conv2d": lambda: plain(x),
        "partial, mask summed and input masked before": lambda: partial.convolve([x], window),
        "partial, all in one": lambda: partial(x, mask)[0],
    }
    return Case(
        title=f"One 3x3 layer, {channels} channels, {size} px, batch {_BATCH}",
        ways={name: functools.partial(_there_and_back, run) for name, run in ways.items()},
        units=_BATCH,
        unit="image",
        rounds=15,
        notes=("Forward and backward.",),
    )


def _there_and_back(run: Callable[[], Tensor]) -> None:
    out = run()
    out.backward(torch.ones_like(out))


def _steps(
    title: str, model: InpaintingModel, textbook: Textbook, *, size: int, rounds: int
) -> Case:
    error = difference(model, textbook, size=size)
    return Case(
        title=f"Training step of {title}, {size} px, batch {_BATCH}",
        ways={
            "textbook layer": training_step(textbook, size=size),
            "Rayfill": training_step(model, size=size),
        },
        units=_BATCH,
        unit="image",
        rounds=rounds,
        notes=(f"Largest relative difference of the two predictions: {error:.1e}.",),
    )


def difference(model: InpaintingModel, textbook: Textbook, *, size: int) -> float:
    """Return the largest difference of the predictions, relative to the largest value."""
    batch = random_batch(_BATCH, size=size)
    with torch.no_grad():
        ours = model(batch.image, batch.hole_mask)
        theirs = textbook(batch.image, batch.hole_mask)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def training_step(model: nn.Module, *, size: int) -> Callable[[], object]:
    """Return forward, L1 loss, backward and Adam of a random batch."""
    batch = random_batch(_BATCH, size=size)
    image = batch.image.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.l1_loss(model(image, batch.hole_mask), batch.target).backward()
        optimizer.step()

    return step


class Textbook(nn.Module):
    """One of our networks computed as its widely copied implementations do.

    Masks are as wide as features and go through a convolution with weights of one; what has no
    known value is filled with 0 after the division. Shares its weights with our network.
    """

    def __init__(self, model: InpaintingModel) -> None:
        super().__init__()
        self.model = model
        self._walk = _WALKS[type(model).__name__]
        layers = [layer for layer in model.modules() if isinstance(layer, PartialConv2d)]
        self._ones = {layer: torch.ones_like(layer.conv.weight) for layer in layers}

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        return self._walk(self, image, (1 - hole_mask).expand_as(image))

    def layer(self, layer: PartialConv2d, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        conv, bias = layer.conv, layer.bias
        raw = F.conv2d(x * mask, conv.weight, bias, conv.stride, conv.padding)
        known, empty = self.known(layer, mask)
        if bias is None:
            out = raw / known
        else:
            out = (raw - bias.view(1, -1, 1, 1)) / known + bias.view(1, -1, 1, 1)
        return out.masked_fill(empty, 0.0), update(empty)

    def known(self, layer: PartialConv2d, mask: Tensor) -> tuple[Tensor, Tensor]:
        conv = layer.conv
        with torch.no_grad():
            known = F.conv2d(mask, self._ones[layer], None, conv.stride, conv.padding)
            empty = known == 0
            return known.masked_fill_(empty, 1.0), empty

    def block(self, block: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x, mask = self.layer(block.conv, x, mask)
        x = x if block.norm is None else block.norm(x)
        return F.leaky_relu(x, block.slope), mask


class _Recorder(Textbook):
    """Keeps every layer with the mask it was given, in order."""

    def __init__(self, model: InpaintingModel) -> None:
        super().__init__(model)
        self.given: list[tuple[PartialConv2d, Tensor]] = []

    def known(self, layer: PartialConv2d, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.given.append((layer, mask))
        return super().known(layer, mask)


def update(empty: Tensor) -> Tensor:
    return torch.ones_like(empty, dtype=torch.float32).masked_fill_(empty, 0.0)


def _walk_liu(book: Textbook, x: Tensor, mask: Tensor) -> Tensor:
    model, skips = book.model, []
    for down in model.down:
        skips.append((x, mask))
        x, mask = book.block(down, x, mask)
    for up in [*model.up, None]:
        below = [F.interpolate(value, scale_factor=2.0, mode="nearest") for value in (x, mask)]
        x, mask = (torch.cat(pair, dim=1) for pair in zip(below, skips.pop(), strict=True))
        x, mask = book.block(up, x, mask) if up is not None else book.layer(model.head, x, mask)
    return x


def _walk_unet(book: Textbook, x: Tensor, mask: Tensor) -> Tensor:
    def double(module: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return book.block(module.blocks[1], *book.block(module.blocks[0], x, mask))

    model, skips = book.model, []
    x, mask = double(model.stem, x, mask)
    for down in model.down:
        skips.append((x, mask))
        # What BatchNorm adds to unknown places must not win over a known value.
        x, mask = double(down, F.max_pool2d(x * mask, 2), F.max_pool2d(mask, 2))
    for up, fuse in zip(model.up, model.fuse, strict=True):
        skip, skip_mask = skips.pop()
        mask = F.interpolate(mask[:, : skip.shape[1]], scale_factor=2.0, mode="nearest")
        joined = torch.cat([skip, up(x)], dim=1)
        x, mask = double(fuse, joined, torch.cat([skip_mask, mask], dim=1))
    return model.head(x * mask)


_WALKS = {"LiuUNet": _walk_liu, "PartialConvUNet": _walk_unet}


THEME = Theme(
    title="Partial convolutions against the textbook layer",
    about="Forward, L1 loss, backward and fused Adam of whole networks in float32, channels_last, "
    "on one thread. The textbook layer convolves masks as wide as the features with weights of "
    "one, divides, and fills with zeros what has no known value; both share their weights. Both "
    "divide by the number of known values without Liu's constant.",
    libraries=("torch",),
    cases=cases,
)
