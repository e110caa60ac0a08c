"""Every trainable model by name: the table, and how one is built from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from rayfill.models.attention_unet import AttentionUNet
from rayfill.models.base import InpaintingModel, check_inputs, composite
from rayfill.models.convmixer_unet import ConvMixerUNet, ShallowUNet, TwoLevelConfig
from rayfill.models.dilated_unet import DilatedUNet
from rayfill.models.edgeconnect import EdgeConnect, EdgeConnectConfig
from rayfill.models.fill import FILLS, harmonic_fill, mean_fill, push_pull_fill, zero_fill
from rayfill.models.gated_conv_unet import GatedConvUNet
from rayfill.models.joint import JointConfig, JointModel
from rayfill.models.options import CheckedOptions, ModelOptions, typed_options
from rayfill.models.partial_conv_unet import (
    LiuUNet,
    LiuUNetConfig,
    PartialConvUNet,
    PartialConvUNetConfig,
)
from rayfill.models.unet import UNet, UNetConfig
from rayfill_data.errors import ConfigError, unknown_name

__all__ = [
    "FILLS",
    "MODELS",
    "AttentionUNet",
    "InpaintingModel",
    "JointModel",
    "ModelOptions",
    "ModelSpec",
    "UNet",
    "UNetConfig",
    "build_model",
    "check_inputs",
    "composite",
    "mean_fill",
    "model_config",
    "option_names",
    "harmonic_fill",
    "push_pull_fill",
    "zero_fill",
]


OptionsT = TypeVar("OptionsT", bound=CheckedOptions)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Generic[OptionsT]):
    """Facts about a model that are known before it is built."""

    build: Callable[[OptionsT], InpaintingModel]
    """Makes the network, with fresh weights, from its typed configuration."""

    config_type: type[OptionsT]
    """The frozen dataclass of its options; what images are padded to is its ``stride``."""

    paper: str
    """Where the architecture comes from."""

    needs_segmentation: bool = False
    """Whether training needs panoptic labels beside the masks."""

    summary: str
    """One line for a list of models."""


MODELS: dict[str, ModelSpec[Any]] = {
    "unet": ModelSpec(
        build=UNet,
        config_type=UNetConfig,
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="U-Net with BatchNorm",
    ),
    "attention_unet": ModelSpec(
        build=AttentionUNet,
        config_type=UNetConfig,
        paper="Oktay et al. 2018, arXiv:1804.03999",
        summary="U-Net with additive attention gates on its skips",
    ),
    "partial_conv_unet": ModelSpec(
        build=PartialConvUNet,
        config_type=PartialConvUNetConfig,
        paper="Liu et al. 2018, arXiv:1804.07723, on the U-Net of 2015",
        summary="U-Net whose convolutions read known pixels only",
    ),
    "partial_conv_liu": ModelSpec(
        build=LiuUNet,
        config_type=LiuUNetConfig,
        paper="Liu et al. 2018, arXiv:1804.07723",
        summary="strided partial convolutions down, nearest upsampling up",
    ),
    "gated_conv_unet": ModelSpec(
        build=GatedConvUNet,
        config_type=UNetConfig,
        paper="Yu et al. 2019, arXiv:1806.03589, on the U-Net of 2015",
        summary="U-Net whose convolutions learn what to let through",
    ),
    "shallow_unet": ModelSpec(
        build=ShallowUNet,
        config_type=TwoLevelConfig,
        paper="Ronneberger et al. 2015, arXiv:1505.04597",
        summary="U-Net with two poolings",
    ),
    "convmixer_unet": ModelSpec(
        build=ConvMixerUNet,
        config_type=TwoLevelConfig,
        paper="Trockman and Kolter 2022, arXiv:2201.09792, beside a U-Net",
        summary="shallow U-Net with a ConvMixer encoding the image beside it",
    ),
    "dilated_unet": ModelSpec(
        build=DilatedUNet,
        config_type=TwoLevelConfig,
        paper="our own, after the blocks of Zeng et al. 2021, arXiv:2104.01431",
        summary="dilated blocks at 1/4 resolution: sees 2.5 times as far as a U-Net of its cost",
    ),
    "edgeconnect": ModelSpec(
        build=EdgeConnect,
        config_type=EdgeConnectConfig,
        paper="Nazeri et al. 2019, arXiv:1901.00212",
        summary="edges first, then colours; with label maps in between where it is given them",
    ),
    "joint": ModelSpec(
        build=JointModel,
        config_type=JointConfig,
        paper="report P2 (Shimosato and Ukita, TTI)",
        needs_segmentation=True,
        summary="a segmenter that finds the object, and any inpainter, trained together",
    ),
}


def option_names(name: str, /) -> tuple[str, ...]:
    """Return the names of the options that the model called ``name`` knows.

    Raises:
        ConfigError: unknown model.
    """
    if name not in MODELS:
        raise ConfigError([unknown_name("model", name, MODELS)])
    return tuple(field.name for field in fields(MODELS[name].config_type))


def model_config(name: str, /, **options: object) -> CheckedOptions:
    """Return the checked configuration of the model called ``name``, defaults filled in.

    Raises:
        ConfigError: unknown model, unknown options (all of them named), or values not allowed.
    """
    if name not in MODELS:
        raise ConfigError([unknown_name("model", name, MODELS)])
    config: CheckedOptions = typed_options(MODELS[name].config_type, options, owner=name)
    return config


def build_model(name: str, /, **config: object) -> InpaintingModel:
    """Return the model called ``name`` with fresh weights.

    Args:
        name: a key of :data:`MODELS`.
        **config: options of its ``config_type``; those not given take their defaults.

    Raises:
        ConfigError: unknown model, unknown options (all of them named), or values not allowed.

    >>> sum(p.numel() for p in build_model("unet", mask_channel=False).parameters())
    31037763
    """
    checked = model_config(name, **config)
    return MODELS[name].build(checked)
