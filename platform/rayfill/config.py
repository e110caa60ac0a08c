"""The typed configuration of a run: one frozen tree, every field documented once.

Experiments override it in Python, command-line flags override those (``--train.epochs 50``). It is
logged whole, stored in every checkpoint, and never looks at the machine: Ray parses it on a head
node that has no GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

from rayfill_data.errors import ConfigError, unknown_name
from rayfill_data.mask_shapes import MASKS

HoleFill = Literal["zero", "mean", "push_pull", "harmonic"]
OutputKind = Literal["direct", "residual"]
Schedule = Literal["constant", "cosine", "step"]
Precision = Literal["auto", "fp32", "bf16"]

#: The name that stands for the photographs bundled with the dependencies, prepared on first use.
BUNDLED_DATA = "photos"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on and how training samples are varied."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    uri: str = BUNDLED_DATA
    """Prepared dataset: a folder or s3://, gs:// URI; `photos` is the bundled set."""
    feed: Literal["auto", "memory", "stream"] = "auto"
    """Hold the split in memory, or stream it with Ray Data; auto: stream above memory_gib."""
    memory_gib: float = 4.0
    """Largest decoded training split, per worker, that auto keeps in memory."""
    expand_px: int = 0
    """Pixels by which training holes grow beyond the object (mask expansion)."""
    masks: str | None = None
    """Draw training holes with this generator (see docs/data.md); None: as the dataset was
    prepared."""
    flip: bool = True
    """Mirror half of the training samples."""
    color_jitter: float = 0.1
    """Largest relative change of brightness, contrast and saturation in training; 0 is none."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        if not self.uri:
            yield f"data.uri is empty: name a prepared dataset, or {BUNDLED_DATA!r}."
        if self.masks is not None and self.masks not in MASKS:
            yield "data.masks: " + unknown_name("mask generator", self.masks, MASKS)
        if self.expand_px < 0:
            yield f"data.expand_px is {self.expand_px}: it must be 0 or more pixels."
        if not 0 <= self.color_jitter < 1:
            yield f"data.color_jitter is {self.color_jitter}: it must lie in [0, 1)."
        if self.memory_gib <= 0:
            yield f"data.memory_gib is {self.memory_gib}: it must be above 0."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and its options: each network takes those it knows."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: str = "attention_unet"
    """A name of `rayfill models`."""
    width: int = 12
    """Channels of the first level (the reports use 64)."""
    depth: int = 3
    """Number of downsamplings (the reports use 4)."""
    hole_fill: HoleFill = "harmonic"
    """What stands in the hole before the network sees the image."""
    output: OutputKind = "residual"
    """Predict the picture, or a correction to the fill."""
    mask_channel: bool = True
    """Give the hole mask to the network as a fourth input channel."""
    normalisation: Literal["liu", "report"] = "liu"
    """Partial convolutions: scale by sum(1)/sum(known), or by 1/sum(known) as the reports print."""
    freeze_encoder_norm: bool = False
    """partial_conv_liu: keep the encoder's BatchNorm as it is (second phase of training)."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        from rayfill.models import MODELS, option_names

        if self.name not in MODELS:
            yield "model.name: " + unknown_name("model", self.name, MODELS)
        else:
            known = {"name", *option_names(self.name)}
            for name in self._changed():
                if name not in known:
                    yield (
                        f"model.{name} is {getattr(self, name)!r}, but {self.name} has no such "
                        "option: leave it out."
                    )
        if self.width < 1:
            yield f"model.width is {self.width}: it must be at least 1 channel."
        if not 1 <= self.depth <= 7:
            yield f"model.depth is {self.depth}: it must lie in 1..7."

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for :func:`rayfill.models.build_model`.

        Only those that the network knows: not every network has a depth.
        """
        from rayfill.models import option_names

        known = option_names(self.name)
        return {key: value for key, value in dataclasses.asdict(self).items() if key in known}

    def _changed(self) -> list[str]:
        return [
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What training minimises."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    terms: str = "l1"
    """A weighted sum of terms, such as `mse`, `mse+perceptual`, `l1+0.05*perceptual` or `liu`."""
    features: Literal["vgg16", "vgg19", "squeezenet1_1"] = "vgg19"
    """The network whose activations perceptual and style terms compare."""
    weights_path: str | None = None
    """Local file with that network's ImageNet weights; otherwise torchvision's own download."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        from rayfill.losses import parse_loss

        try:
            parse_loss(self.terms)
        except ConfigError as error:
            yield from (f"loss.terms: {problem}" for problem in error.problems)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is optimised."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 16
    """Samples in one optimiser step, over all workers together."""
    learning_rate: float = 3e-3
    """Peak learning rate of Adam."""
    schedule: Schedule = "cosine"
    """Course of the learning rate after the warm-up."""
    step_epochs: tuple[int, ...] = ()
    """With `step`: the epochs after which the learning rate is divided by 10."""
    warmup_steps: int = 20
    """Optimiser steps over which the learning rate rises linearly."""
    grad_clip_norm: float = 1.0
    """Largest gradient norm; 0 leaves gradients alone."""
    ema_decay: float = 0.99
    """Decay of the running average of the weights that is validated and kept; 0 is none."""
    precision: Precision = "auto"
    """auto is bf16 where the machine computes it faster (AMX, CUDA), else fp32."""
    compile: bool = False
    """torch.compile the network: pays off after several hundred steps."""
    validate_every: int = 1
    """Epochs between validations (each also writes a checkpoint)."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, beside the best one."""
    max_bad_steps: int = 10
    """Steps in a row with a non-finite loss or gradient after which training stops."""
    init_from: str | None = None
    """Start from the weights of this model bundle instead of random ones."""
    seed: int = 0
    """Seed of weights, order and augmentation."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        for name in ("epochs", "batch_size", "validate_every", "keep_checkpoints", "max_bad_steps"):
            if getattr(self, name) < 1:
                yield f"train.{name} is {getattr(self, name)}: it must be at least 1."
        if not self.learning_rate > 0:
            yield f"train.learning_rate is {self.learning_rate}: it must be above 0."
        if not 0 <= self.ema_decay < 1:
            yield f"train.ema_decay is {self.ema_decay}: it must lie in [0, 1)."
        for name in ("warmup_steps", "grad_clip_norm", "seed"):
            if getattr(self, name) < 0:
                yield f"train.{name} is {getattr(self, name)}: it must be 0 or more."
        if self.schedule == "step" and not self.step_epochs:
            yield "train.schedule is 'step': give train.step_epochs, such as 8 16."
        if self.schedule != "step" and self.step_epochs:
            yield f"train.step_epochs needs train.schedule 'step', got {self.schedule!r}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """How many processes and which share of the cluster one run takes."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    num_workers: int = 1
    """Training processes; more than one train together (DDP)."""
    use_gpu: bool | None = None
    """None takes GPUs where the cluster has any."""
    cpus_per_worker: float = 1.0
    """CPU cores (and torch threads) of one worker."""
    gpus_per_worker: float = 1.0
    """GPUs of one worker when GPUs are used; a fraction lets several small runs share one."""
    max_failures: int = 1
    """Times a run is restarted from its last checkpoint after a worker died."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        if self.num_workers < 1:
            yield f"scaling.num_workers is {self.num_workers}: it must be at least 1."
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if getattr(self, name) <= 0:
                yield f"scaling.{name} is {getattr(self, name)}: it must be above 0."
        if self.max_failures < 0:
            yield f"scaling.max_failures is {self.max_failures}: it must be 0 or more."


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where results are recorded."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    uri: str | None = None
    """MLflow tracking URI; None is MLFLOW_TRACKING_URI, else a SQLite file in the home folder."""
    experiment: str = "rayfill"
    """MLflow experiment."""
    model_name: str = "rayfill"
    """Name in the model registry."""
    pictures: int = 6
    """Validation samples logged as pictures at every validation."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        if self.pictures < 0:
            yield f"tracking.pictures is {self.pictures}: it must be 0 or more."


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured on held-out samples."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    select_metric: Literal["hole_psnr", "hole_ssim", "psnr", "ssim"] = "hole_psnr"
    """Validation metric (higher is better) by which checkpoints and trials are ranked."""
    lpips_network: Literal["squeeze", "alex", "vgg"] = "alex"
    """Network of the LPIPS metric."""
    lpips_weights_path: str | None = None
    """Local file with that network's complete LPIPS state; without weights LPIPS is left out."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        yield from ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines one training run."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: str = "run"
    """Name of the run: its folder and its title in MLflow."""
    storage: str | None = None
    """Folder or URI for checkpoints, reachable from every node; None is the home folder."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    scaling: ScalingConfig = ScalingConfig()
    eval: EvalConfig = EvalConfig()
    tracking: TrackingConfig = TrackingConfig()

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value, of every part, that cannot be used."""
        if not self.name or "/" in self.name or self.name.startswith("."):
            yield f"name is {self.name!r}: it must be a plain folder name."
        for part in ("data", "model", "loss", "train", "scaling", "eval", "tracking"):
            yield from getattr(self, part).problems()
        if self.train.batch_size % self.scaling.num_workers:
            yield (
                f"train.batch_size {self.train.batch_size} does not divide by "
                f"scaling.num_workers {self.scaling.num_workers}: each worker takes an equal part."
            )


ConfigT = TypeVar("ConfigT")


def check(config: RunConfig) -> RunConfig:
    """Return ``config`` unchanged, or raise :class:`ConfigError` with every problem at once."""
    problems = tuple(config.problems())
    if problems:
        raise ConfigError(problems)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a config of type ``kind`` from nested plain values.

    Raises:
        ConfigError: with every unknown key (naming the nearest) and every value of a wrong type.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(kind, dict(item)) for item in error.errors()) from None


def _explain(kind: Any, item: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = kind
        for part in item["loc"][:-1]:
            owner = type(getattr(owner, str(part)))
        return f"{key}: " + unknown_name(
            "key", str(item["loc"][-1]), (field.name for field in dataclasses.fields(owner))
        )
    return f"{key} is {item['input']!r}: {item['msg'].lower()}."


def flatten(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Return nested values as one level of dotted keys, as MLflow parameters are shown."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, prefix=f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def replace(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return ``config`` with dotted keys changed: ``{"train.epochs": 25}``.

    Raises:
        ConfigError: for an unknown key or a value of a wrong type.
    """
    values = to_dict(config)
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return from_dict(RunConfig, values)
