"""The training recipes of the reports by name, each as its report gives it.

Where a report leaves something open, the docstring of the function that makes its presets says what
stands in. None of them averages weights, warms up or clips gradients, as no report does; all take
the dataset, and with it the size, from ``--data.uri``.
"""

from __future__ import annotations

import dataclasses

from rayfill.config.run import (
    STAGE_METRICS,
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from rayfill.config.sections import Stage
from rayfill_data.errors import ConfigError, unknown_name

_PLAIN = TrainConfig(schedule="constant", warmup_steps=0, grad_clip_norm=0.0, ema_decay=0.0)
_NOT_VARIED = DataConfig(flip=False, color_jitter=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A recipe with a name."""

    config: RunConfig
    """The run; only its dataset is left to say."""

    summary: str
    """One line for a list of presets."""

    needs_init: bool = False
    """Whether it goes on from a trained bundle, ``train.init_from``."""


def find_preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        ConfigError: unknown name.
    """
    if name not in PRESETS:
        raise ConfigError([unknown_name("preset", name, PRESETS)])
    return PRESETS[name]


def _p1(name: str, *, model: str, loss: str) -> RunConfig:
    """Return a recipe of P1: batch 32, learning rate 1e-3, 50 epochs, samples as they are.

    Source: report P1 (Kirbasoglu, ITU), U-Net and Attention U-Net (arXiv:1505.04597,
    arXiv:1804.03999) with MSE or VGG19 features. Open in it: the optimiser (Adam) and the depth
    (the published 4 levels of 64 channels).
    """
    return RunConfig(
        name=name,
        data=_NOT_VARIED,
        model=ModelConfig(name=model, width=64, depth=4, hole_fill="zero", output="direct"),
        loss=LossConfig(terms=loss, features="vgg19"),
        train=dataclasses.replace(_PLAIN, epochs=50, batch_size=32, learning_rate=1e-3),
    )


def _p3(name: str, *, model: ModelConfig) -> RunConfig:
    """Return a recipe of P3: MSE, batch 5, learning rate 1e-3 for 8 epochs, then 1e-4 for 12.

    Source: report P3 (Sapkota, Subedi and Khanal, Tribhuvan). The holes are the thick lines of its
    second phase; ``--data.masks lines_thin`` gives those of the first. Open in it: how far it turns
    and brightens samples (10 degrees, a tenth).
    """
    return RunConfig(
        name=name,
        data=DataConfig(masks="lines_thick", flip=True, rotate_degrees=10.0, color_jitter=0.1),
        model=model,
        loss=LossConfig(terms="mse"),
        train=dataclasses.replace(
            _PLAIN,
            epochs=20,
            batch_size=5,
            learning_rate=1e-3,
            schedule="step",
            step_epochs=(8,),
        ),
    )


def _p4(name: str, *, second: bool) -> RunConfig:
    """Return a phase of P4: Liu's five-term loss on VGG16; the second freezes the encoder's norm.

    Source: report P4 (Gupta, Gupta and Karmakar, Roorkee) after Liu et al. 2018 (arXiv:1804.07723),
    which gives what the report leaves open: batch 6, learning rate 2e-4, then 5e-5. The number of
    epochs is open in both: 50, then 10.
    """
    return RunConfig(
        name=name,
        data=dataclasses.replace(_NOT_VARIED, masks="irregular"),
        model=ModelConfig(
            name="partial_conv_liu",
            width=64,
            depth=7,
            hole_fill="zero",
            output="direct",
            freeze_encoder_norm=second,
        ),
        loss=LossConfig(terms="liu", features="vgg16"),
        train=dataclasses.replace(
            _PLAIN,
            epochs=10 if second else 50,
            batch_size=6,
            learning_rate=5e-5 if second else 2e-4,
        ),
    )


def _p5(name: str, *, model: str) -> RunConfig:
    """Return a recipe of P5: MSE, 5 epochs, a square hole each.

    Source: report P5 (Masud). Its batch of 2 spends 25 minutes on an epoch; here it is 32, which
    the report's comparison does not turn on. Open in it: the width (64) and the learning rate
    (Adam's usual 1e-3).
    """
    return RunConfig(
        name=name,
        data=dataclasses.replace(_NOT_VARIED, masks="square"),
        model=ModelConfig(name=model, width=64, hole_fill="zero", output="direct"),
        loss=LossConfig(terms="mse"),
        train=dataclasses.replace(_PLAIN, epochs=5, batch_size=32, learning_rate=1e-3),
    )


def _p2(name: str, *, stage: Stage) -> RunConfig:
    """Return a stage of P2: EdgeConnect's three inpainters and Panoptic FPN, each alone, then all.

    Source: report P2 (Shimosato and Ukita, TTI): Adam, learning rate 1e-5, batch 4, its weights of
    all losses, alpha 0.03. Open in it: the lengths (50 epochs), and the learning rate of the stages
    before (1e-4, that of Nazeri et al. 2019, arXiv:1901.00212, whose networks they are). They are
    meant in the order of the table, each from the bundle of the one before.
    """
    return RunConfig(
        name=name,
        data=_NOT_VARIED,
        model=ModelConfig(
            name="joint",
            inpainter="edgeconnect",
            width=64,
            hole_fill="zero",
            output="direct",
            label_maps=True,
            segmenter="panoptic_fpn",
            segmenter_width=128,
        ),
        loss=LossConfig(terms="p2", alpha=0.03),
        train=dataclasses.replace(
            _PLAIN,
            stage=stage,
            epochs=50,
            batch_size=4,
            learning_rate=1e-5 if stage == "joint" else 1e-4,
        ),
        eval=EvalConfig(select_metric=STAGE_METRICS[stage][0]),
    )


_P3_UNET = ModelConfig(
    name="unet", width=64, depth=4, hole_fill="zero", output="direct", mask_channel=False
)
_P3_PARTIAL = ModelConfig(
    name="partial_conv_unet",
    width=64,
    depth=4,
    hole_fill="zero",
    output="direct",
    normalisation="report",
)

PRESETS: dict[str, Preset] = {
    "p1-unet": Preset(
        config=_p1("p1-unet", model="unet", loss="mse"), summary="U-Net, MSE, 50 epochs"
    ),
    "p1-attention-unet": Preset(
        config=_p1("p1-attention-unet", model="attention_unet", loss="mse"),
        summary="Attention U-Net, MSE, 50 epochs",
    ),
    "p1-attention-unet-perceptual": Preset(
        config=_p1("p1-attention-unet-perceptual", model="attention_unet", loss="perceptual"),
        summary="Attention U-Net, VGG19 features, 50 epochs",
    ),
    "p2-segmentation": Preset(
        config=_p2("p2-segmentation", stage="segmentation"), summary="Panoptic FPN, from COCO"
    ),
    "p2-edges": Preset(
        config=_p2("p2-edges", stage="edges"), summary="edge inpainter", needs_init=True
    ),
    "p2-labels": Preset(
        config=_p2("p2-labels", stage="labels"), summary="segmentation inpainter", needs_init=True
    ),
    "p2-image": Preset(
        config=_p2("p2-image", stage="image"), summary="image inpainter", needs_init=True
    ),
    "p2-joint": Preset(
        config=_p2("p2-joint", stage="joint"),
        summary="all of it through the mask, with the mask-expansion loss",
        needs_init=True,
    ),
    "p3-unet": Preset(
        config=_p3("p3-unet", model=_P3_UNET), summary="U-Net of 31,037,763 parameters, MSE"
    ),
    "p3-partial-conv": Preset(
        config=_p3("p3-partial-conv", model=_P3_PARTIAL),
        summary="the same of partial convolutions, scaled as the report prints it",
    ),
    "p4-phase-1": Preset(
        config=_p4("p4-phase-1", second=False), summary="Liu's network and loss, first phase"
    ),
    "p4-phase-2": Preset(
        config=_p4("p4-phase-2", second=True),
        summary="the same with a frozen encoder norm, from a bundle of the first",
        needs_init=True,
    ),
    "p5-unet": Preset(
        config=_p5("p5-unet", model="shallow_unet"), summary="shallow U-Net, MSE, 5 epochs"
    ),
    "p5-convmixer": Preset(
        config=_p5("p5-convmixer", model="convmixer_unet"),
        summary="the same with a ConvMixer beside it",
    ),
}
