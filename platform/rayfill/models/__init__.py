"""Every trainable model by name: the table, and how one is built from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from rayfill.models.attention_unet import AttentionUNet
from rayfill.models.base import InpaintingModel, check_inputs, composite
from rayfill.models.convmixer_unet import ConvMixerUNet, ShallowUNet, TwoLevelConfig
from rayfill.models.dilated_unet import DilatedUNet
from rayfill.models.edgeconnect import EdgeConnect, EdgeConnectConfig
from rayfill.models.fill import FILLS, harmonic_fill, mean_fill, push_pull_fill, zero_fill
from rayfill.models.gated_conv_unet import GatedConvUNet
from rayfill.models.joint import JointConfig, JointModel
from rayfill.models.options import CheckedOptions, ModelOptions
from rayfill.models.outside import outside_model
from rayfill.models.partial_conv_unet import (
    LiuUNet,
    LiuUNetConfig,
    PartialConvUNet,
    PartialConvUNetConfig,
)
from rayfill.models.spec import NetworkSpec
from rayfill.models.unet import UNet, UNetConfig
from rayfill_data.extension import look_up, register

__all__ = [
    "FILLS",
    "MODELS",
    "AttentionUNet",
    "InpaintingModel",
    "JointModel",
    "ModelOptions",
    "NetworkSpec",
    "UNet",
    "UNetConfig",
    "build_model",
    "check_inputs",
    "composite",
    "mean_fill",
    "harmonic_fill",
    "model_config",
    "model_spec",
    "option_names",
    "push_pull_fill",
    "register_model",
    "zero_fill",
]


MODELS: dict[str, NetworkSpec[InpaintingModel]] = {
    "unet": NetworkSpec(
        build=UNet,
        config_type=UNetConfig,
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="U-Net with BatchNorm",
    ),
    "attention_unet": NetworkSpec(
        build=AttentionUNet,
        config_type=UNetConfig,
        paper="Oktay et al. 2018, arXiv:1804.03999",
        summary="U-Net with additive attention gates on its skips",
    ),
    "partial_conv_unet": NetworkSpec(
        build=PartialConvUNet,
        config_type=PartialConvUNetConfig,
        paper="Liu et al. 2018, arXiv:1804.07723, on the U-Net of 2015",
        summary="U-Net whose convolutions read known pixels only",
    ),
    "partial_conv_liu": NetworkSpec(
        build=LiuUNet,
        config_type=LiuUNetConfig,
        paper="Liu et al. 2018, arXiv:1804.07723",
        summary="strided partial convolutions down, nearest upsampling up",
    ),
    "gated_conv_unet": NetworkSpec(
        build=GatedConvUNet,
        config_type=UNetConfig,
        paper="Yu et al. 2019, arXiv:1806.03589, on the U-Net of 2015",
        summary="U-Net whose convolutions learn what to let through",
    ),
    "shallow_unet": NetworkSpec(
        build=ShallowUNet,
        config_type=TwoLevelConfig,
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="U-Net with two poolings",
    ),
    "convmixer_unet": NetworkSpec(
        build=ConvMixerUNet,
        config_type=TwoLevelConfig,
        paper="Trockman and Kolter 2022, arXiv:2201.09792, beside a U-Net",
        summary="shallow U-Net with a ConvMixer encoding the image beside it",
    ),
    "dilated_unet": NetworkSpec(
        build=DilatedUNet,
        config_type=TwoLevelConfig,
        paper="our own, after the blocks of Zeng et al. 2021, arXiv:2104.01431",
        summary="dilated blocks at 1/4 resolution: sees 2.5 times as far as a U-Net of its cost",
    ),
    "edgeconnect": NetworkSpec(
        build=EdgeConnect,
        config_type=EdgeConnectConfig,
        paper="Nazeri et al. 2019, arXiv:1901.00212",
        summary="edges first, then colours; with label maps in between where it is given them",
    ),
    "joint": NetworkSpec(
        build=JointModel,
        config_type=JointConfig,
        paper="report P2 (Shimosato and Ukita, TTI)",
        summary="a segmenter that finds the object, and any inpainter, trained together",
    ),
}


NetworkClassT = TypeVar("NetworkClassT", bound=type[nn.Module])


def register_model(name: str, /) -> Callable[[NetworkClassT], NetworkClassT]:
    """Return a decorator that registers a network of one's own under a short name.

    It is an ``nn.Module`` with ``forward(image, hole_mask)``, whose options are the parameters of
    its ``__init__``; see docs/extending.md.

    Raises:
        ConfigError: a name or a class that cannot be used.
    """
    return register("model", name, built_in=MODELS, outside=outside_model)


def model_spec(name: str, /) -> NetworkSpec[InpaintingModel]:
    """Return what is known of a model.

    Args:
        name: a key of :data:`MODELS`, a registered name, or ``package.module:Name``.

    Raises:
        ConfigError: unknown model, or one that cannot be imported.
    """
    return look_up("model", name, MODELS, outside=outside_model)


def option_names(name: str, /) -> tuple[str, ...]:
    """Return the names of the options that a model knows; errors as :func:`model_spec`."""
    return model_spec(name).option_names


def model_config(name: str, /, **options: object) -> CheckedOptions:
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
