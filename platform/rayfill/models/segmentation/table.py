"""Every segmenter by name: the table, and how one is built from it; it imports no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rayfill.models.spec import NetworkSpec
from rayfill_data.extension import look_up, register

if TYPE_CHECKING:
    from rayfill.models.segmentation.base import Segmenter
    from rayfill_data.checks import Checked

SEGMENTERS: dict[str, NetworkSpec[Segmenter]] = {
    "segmentation_unet": NetworkSpec(
        network="rayfill.models.segmentation.unet:SegmentationUNet",
        options="rayfill.models.segmentation.unet:SegmentationUNetConfig",
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="small U-Net, trained from nothing on a CPU",
    ),
    "panoptic_fpn": NetworkSpec(
        network="rayfill.models.segmentation.panoptic_fpn:PanopticFPN",
        options="rayfill.models.segmentation.panoptic_fpn:PanopticFPNConfig",
        paper="Kirillov et al. 2019, arXiv:1901.02446",
        summary="Mask R-CNN of ResNet-50 trained on COCO, with a semantic head beside it",
    ),
}


SegmenterClassT = TypeVar("SegmenterClassT", bound="type[Segmenter]")


def register_segmenter(name: str, /) -> Callable[[SegmenterClassT], SegmenterClassT]:
    """Return a decorator that registers a :class:`Segmenter` of one's own under a short name.

    Raises:
        ConfigError: a name or a class that cannot be used.
    """
    return register("segmenter", name, built_in=SEGMENTERS, outside=_outside)


def segmenter_spec(name: str, /) -> NetworkSpec[Segmenter]:
    """Return what is known of a segmenter.

    Args:
        name: a key of :data:`SEGMENTERS`, a registered name, or ``package.module:Name``.

    Raises:
        ConfigError: unknown segmenter, or one that cannot be imported.
    """
    return look_up("segmenter", name, SEGMENTERS, outside=_outside)


def segmenter_config(name: str, /, **options: object) -> Checked:
    """Return the checked configuration of the segmenter called ``name``, defaults filled in.

    Raises:
        ConfigError: as :func:`segmenter_spec`, unknown options (all of them named), or values not
            allowed.
    """
    return segmenter_spec(name).config(name, options)


def segmenter_architecture(
    name: str, /, *, labels: Sequence[str] = (), **options: object
) -> Segmenter:
    """Return the segmenter called ``name`` with fresh weights, whatever its options name.

    What a checkpoint or a bundle is loaded into; arguments and errors as :func:`build_segmenter`.
    """
    spec = segmenter_spec(name)
    return spec.build(spec.config(name, options), labels=labels)


def build_segmenter(name: str, /, *, labels: Sequence[str], **options: object) -> Segmenter:
    """Return the segmenter called ``name`` with the weights that its options name.

    Args:
        name: as for :func:`segmenter_spec`.
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


def _outside(network: Any, name: str) -> NetworkSpec[Segmenter]:
    from rayfill.models.segmentation.base import outside_segmenter

    return outside_segmenter(network, name)
