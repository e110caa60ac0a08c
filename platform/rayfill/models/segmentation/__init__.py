"""Networks that label the pixels of a photo: the table, and how one is built from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rayfill.models.options import typed_options
from rayfill.models.segmentation.base import (
    IGNORED,
    NOTHING,
    Segmenter,
    SegmenterOptions,
    SegmenterOutput,
    Segments,
    soft_mask,
)
from rayfill.models.segmentation.panoptic_fpn import PanopticFPN, PanopticFPNConfig
from rayfill.models.segmentation.selection import (
    SelectedMask,
    select_by_clicks,
    select_by_overlap,
    straight_through,
)
from rayfill.models.segmentation.unet import SegmentationUNet, SegmentationUNetConfig
from rayfill_data.errors import ConfigError, unknown_name

__all__ = [
    "IGNORED",
    "NOTHING",
    "SEGMENTERS",
    "PanopticFPN",
    "PanopticFPNConfig",
    "SegmentationUNet",
    "SegmentationUNetConfig",
    "Segmenter",
    "SegmenterOptions",
    "SegmenterOutput",
    "SegmenterSpec",
    "Segments",
    "SelectedMask",
    "build_segmenter",
    "segmenter_architecture",
    "segmenter_config",
    "select_by_clicks",
    "select_by_overlap",
    "soft_mask",
    "straight_through",
]

OptionsT = TypeVar("OptionsT", bound=SegmenterOptions)


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec(Generic[OptionsT]):
    """Facts about a segmenter that are known before it is built."""

    build: Callable[..., Segmenter]
    """Makes the network from its typed configuration and, by keyword, its ``labels``."""

    config_type: type[OptionsT]
    """The frozen dataclass of its options."""

    paper: str
    """Where the architecture comes from."""

    summary: str
    """One line for a list of segmenters."""


SEGMENTERS: dict[str, SegmenterSpec[Any]] = {
    "segmentation_unet": SegmenterSpec(
        build=SegmentationUNet,
        config_type=SegmentationUNetConfig,
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="small U-Net, trained from nothing on a CPU",
    ),
    "panoptic_fpn": SegmenterSpec(
        build=PanopticFPN,
        config_type=PanopticFPNConfig,
        paper="Kirillov et al. 2019, arXiv:1901.02446",
        summary="Mask R-CNN of ResNet-50 trained on COCO, with a semantic head beside it",
    ),
}


def segmenter_config(name: str, /, **options: object) -> SegmenterOptions:
    """Return the checked configuration of the segmenter called ``name``, defaults filled in.

    Raises:
        ConfigError: unknown segmenter, unknown options (all of them named), or values not allowed.
    """
    if name not in SEGMENTERS:
        raise ConfigError([unknown_name("segmenter", name, SEGMENTERS)])
    config: SegmenterOptions = typed_options(SEGMENTERS[name].config_type, options, owner=name)
    return config


def segmenter_architecture(
    name: str, /, *, labels: Sequence[str] = (), **options: object
) -> Segmenter:
    """Return the segmenter called ``name`` with fresh weights, whatever its options name.

    What a checkpoint or a bundle is loaded into; arguments and errors as :func:`build_segmenter`.
    """
    config = segmenter_config(name, **options)
    return SEGMENTERS[name].build(config, labels=labels)


def build_segmenter(name: str, /, *, labels: Sequence[str], **options: object) -> Segmenter:
    """Return the segmenter called ``name`` with the weights that its options name.

    Args:
        name: a key of :data:`SEGMENTERS`.
        labels: label names by index, the first "nothing".
        **options: options of its ``config_type``; those not given take their defaults.

    Raises:
        ConfigError: unknown segmenter, labels or options (all of them named), or values not
            allowed.
        RayfillError: published weights that cannot be had; never random ones instead.

    >>> network = build_segmenter("segmentation_unet", labels=("nothing", "person"), width=8)
    >>> sum(p.numel() for p in network.parameters())
    486562
    """
    segmenter = segmenter_architecture(name, labels=labels, **options)
    segmenter.load_pretrained()
    return segmenter
