"""Every trainable model by name: the table, and how one is built from it.

It names modules and imports none, so that a name that is nothing is refused before torch is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rayfill.models.spec import NetworkSpec
from rayfill_data.extension import look_up, register

if TYPE_CHECKING:
    from torch import nn

    from rayfill.models.base import InpaintingModel
    from rayfill_data.checks import Checked

MODELS: dict[str, NetworkSpec[InpaintingModel]] = {
    "unet": NetworkSpec(
        network="rayfill.models.unets.unet:UNet",
        options="rayfill.models.unets.unet:UNetConfig",
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="U-Net with BatchNorm",
    ),
    "attention_unet": NetworkSpec(
        network="rayfill.models.unets.attention_unet:AttentionUNet",
        options="rayfill.models.unets.unet:UNetConfig",
        paper="Oktay et al. 2018, arXiv:1804.03999",
        summary="U-Net with additive attention gates on its skips",
    ),
    "partial_conv_unet": NetworkSpec(
        network="rayfill.models.unets.partial_conv_unet:PartialConvUNet",
        options="rayfill.models.unets.partial_conv_unet:PartialConvUNetConfig",
        paper="Liu et al. 2018, arXiv:1804.07723, on the U-Net of 2015",
        summary="U-Net whose convolutions read known pixels only",
    ),
    "partial_conv_liu": NetworkSpec(
        network="rayfill.models.unets.partial_conv_unet:LiuUNet",
        options="rayfill.models.unets.partial_conv_unet:LiuUNetConfig",
        paper="Liu et al. 2018, arXiv:1804.07723",
        summary="strided partial convolutions down, nearest upsampling up",
    ),
    "gated_conv_unet": NetworkSpec(
        network="rayfill.models.unets.gated_conv_unet:GatedConvUNet",
        options="rayfill.models.unets.unet:UNetConfig",
        paper="Yu et al. 2019, arXiv:1806.03589, on the U-Net of 2015",
        summary="U-Net whose convolutions learn what to let through",
    ),
    "shallow_unet": NetworkSpec(
        network="rayfill.models.unets.convmixer_unet:ShallowUNet",
        options="rayfill.models.unets.convmixer_unet:TwoLevelConfig",
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="U-Net with two poolings",
    ),
    "convmixer_unet": NetworkSpec(
        network="rayfill.models.unets.convmixer_unet:ConvMixerUNet",
        options="rayfill.models.unets.convmixer_unet:TwoLevelConfig",
        paper="Trockman and Kolter 2022, arXiv:2201.09792, beside a U-Net",
        summary="shallow U-Net with a ConvMixer encoding the image beside it",
    ),
    "dilated_unet": NetworkSpec(
        network="rayfill.models.unets.dilated_unet:DilatedUNet",
        options="rayfill.models.unets.convmixer_unet:TwoLevelConfig",
        paper="our own, after the blocks of Zeng et al. 2021, arXiv:2104.01431",
        summary="dilated blocks at 1/4 resolution: sees 2.5 times as far as a U-Net of its cost",
    ),
    "edgeconnect": NetworkSpec(
        network="rayfill.models.edgeconnect.network:EdgeConnect",
        options="rayfill.models.edgeconnect.network:EdgeConnectConfig",
        paper="Nazeri et al. 2019, arXiv:1901.00212",
        summary="edges first, then colours; with label maps in between where it is given them",
    ),
    "joint": NetworkSpec(
        network="rayfill.models.joint:JointModel",
        options="rayfill.models.joint:JointConfig",
        paper="report P2 (Shimosato and Ukita, TTI)",
        summary="a segmenter that finds the object, and any inpainter, trained together",
    ),
}


NetworkClassT = TypeVar("NetworkClassT", bound="type[nn.Module]")


def register_model(name: str, /) -> Callable[[NetworkClassT], NetworkClassT]:
    """Return a decorator that registers a network of one's own under a short name.

    It is an ``nn.Module`` with ``forward(image, hole_mask)``, whose options are the parameters of
    its ``__init__``; see docs/extending.md.

    Raises:
        ConfigError: a name or a class that cannot be used.
    """
    return register("model", name, built_in=MODELS, outside=_outside)


def model_spec(name: str, /) -> NetworkSpec[InpaintingModel]:
    """Return what is known of a model.

    Args:
        name: a key of :data:`MODELS`, a registered name, or ``package.module:Name``.

    Raises:
        ConfigError: unknown model, or one that cannot be imported.
    """
    return look_up("model", name, MODELS, outside=_outside)


def option_names(name: str, /) -> tuple[str, ...]:
    """Return the names of the options that a model knows; errors as :func:`model_spec`."""
    return model_spec(name).option_names


def model_config(name: str, /, **options: object) -> Checked:
    """Return the checked configuration of the model called ``name``, defaults filled in.

    Raises:
        ConfigError: as :func:`model_spec`, unknown options (all of them named), or values not
            allowed.
    """
    return model_spec(name).config(name, options)


def build_model(name: str, /, **config: object) -> InpaintingModel:
    """Return the model called ``name`` with fresh weights.

    Args:
        name: as for :func:`model_spec`.
        **config: options of its ``config_type``; those not given take their defaults.

    Raises:
        ConfigError: as :func:`model_config`.

    >>> sum(p.numel() for p in build_model("unet", mask_channel=False).parameters())
    31037763
    """
    spec = model_spec(name)
    return spec.build(spec.config(name, config))


def _outside(network: Any, name: str) -> NetworkSpec[InpaintingModel]:
    from rayfill.models.outside import outside_model

    return outside_model(network, name)
