"""The parts of a run's configuration: every field documented once, every value checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from rayfill.config.ranking import needs_lpips
from rayfill_data.checks import Bounds, Count, NotNegative, Positive, Related, Whole
from rayfill_data.errors import ConfigError, unknown_name
from rayfill_data.extension import full_name, full_names
from rayfill_data.masks.shapes import MASKS

HoleFill = Literal["zero", "mean", "push_pull", "harmonic"]
#: What is done to a model's answer before it is shown.
Finish = Literal["auto", "none", "exemplar"]
#: Which of the fills of a hole, the best guess first (:data:`rayfill.models.VARIANTS`).
LAST_VARIANT = 3
Variant = Annotated[int, Bounds(ge=0, le=LAST_VARIANT)]
OutputKind = Literal["direct", "residual"]
Schedule = Literal["constant", "cosine", "step"]
Precision = Literal["auto", "fp32", "bf16"]
Stage = Literal["inpainting", "edges", "labels", "image", "segmentation", "joint"]
SelectMetric = Literal[
    "hole_psnr",
    "hole_ssim",
    "psnr",
    "ssim",
    "coherence",
    "lpips",
    "removal_psnr",
    "removal_ssim",
    "removal_lpips",
    "edge_f1",
    "label_accuracy",
    "iou",
]

#: What filled holes are ranked by on the validation split.
_OF_FILLS: tuple[SelectMetric, ...] = (
    "hole_psnr", "hole_ssim", "psnr", "ssim", "coherence", "lpips",
)  # fmt: skip

#: What each stage of training measures on the validation split, for ranking; the first is usual.
#: Not the coherence of removals: who leaves the object where it is has the best.
STAGE_METRICS: dict[Stage, tuple[SelectMetric, ...]] = {
    "inpainting": _OF_FILLS,
    "image": _OF_FILLS,
    "edges": ("edge_f1",),
    "labels": ("label_accuracy",),
    "segmentation": ("iou",),
    "joint": ("removal_psnr", "removal_ssim", "removal_lpips", "iou"),
}

#: Fields of a model that name networks, and of which kind.
_NETWORKS = {"name": "model", "inpainter": "model", "segmenter": "segmenter"}
_OF_SEGMENTER = "segmenter_"

#: The name that stands for the photographs bundled with the dependencies, prepared on first use.
BUNDLED_DATA = "photos"


class Part(Related):
    """A part of the configuration: pydantic refuses keys that it does not have."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Part):
    """What to train on and how training samples are varied."""

    uri: str = BUNDLED_DATA
    """Prepared dataset: a folder or s3://, gs:// URI; `photos` is the bundled set."""
    feed: Literal["auto", "memory", "stream"] = "auto"
    """Hold the split in memory, or stream it with Ray Data; auto: stream above memory_gib."""
    memory_gib: Positive = 4.0
    """Largest decoded training split, per worker, that auto keeps in memory."""
    train_samples: Count | None = None
    """Train on so many samples, spread evenly over the training split; None: on all."""
    expand_px: Whole = 0
    """Pixels by which training holes grow beyond the object (mask expansion)."""
    masks: str | None = None
    """Draw training holes with this generator (see docs/data.md); None: as the dataset was
    prepared."""
    flip: bool = True
    """Mirror half of the training samples."""
    rotate_degrees: Annotated[float, Bounds(ge=0, le=180)] = 0.0
    """Largest angle by which training samples are turned."""
    color_jitter: Annotated[float, Bounds(ge=0, lt=1)] = 0.1
    """Largest relative change of brightness, contrast and saturation in training; 0 is none."""

    def relations(self) -> Iterator[str]:
        """Yield one sentence for every value that does not fit the others, or names nothing."""
        if not self.uri:
            yield f"data.uri is empty: name a prepared dataset, or {BUNDLED_DATA!r}."
        if self.masks is not None and self.masks not in MASKS:
            yield "data.masks: " + unknown_name("mask generator", self.masks, MASKS)
        if self.train_samples is not None and self.feed == "stream":
            yield "data.train_samples takes from a split in memory: leave data.feed at auto."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Part):
    """Which network, and its options: each network takes those it knows."""

    name: str = "attention_unet"
    """A name of `rayfill models`, or a network of one's own: `package.module:Name`."""
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
    blocks: int = 8
    """edgeconnect: dilated residual blocks of each generator."""
    inpainter: str = "attention_unet"
    """joint: the network that fills the hole, with the options above, or one's own."""
    segmenter: str = "segmentation_unet"
    """joint: the network that finds it; also `package.module:Name`."""
    segmenter_width: int = 8
    """joint: channels of the segmenter's first level."""
    segmenter_depth: int = 4
    """joint: the segmenter's number of downsamplings."""
    segmenter_balance: float = 0.5
    """joint: how far a segmentation_unet's loss evens labels out; 0 counts every pixel alike."""
    label_names: tuple[str, ...] = ("nothing", "person")
    """joint: what the dataset's label maps hold."""
    label_maps: bool = False
    """joint: the inpainter, edgeconnect, completes label maps too."""
    selects: Literal["object", "label"] = "object"
    """joint: what it removes: one object, or all that bears its label, such as every letter."""
    extra: Mapping[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    """Further options of the network, by name: all those of one's own. joint: of the inpainter;
    those of the segmenter begin with `segmenter_`."""

    def __post_init__(self) -> None:
        # Workers know nothing of names that were registered here.
        for field, kind in _NETWORKS.items():
            object.__setattr__(self, field, full_name(kind, getattr(self, field)))

    def relations(self) -> Iterator[str]:
        """Yield one sentence for every value that does not fit the others, or names nothing."""
        from rayfill.models import model_config, option_names
        from rayfill.models.segmentation import segmenter_spec

        named = _NETWORKS if self.name == "joint" else {"name": "model"}
        for field, kind in named.items():
            find = option_names if kind == "model" else segmenter_spec
            try:
                find(getattr(self, field))
            except ConfigError as error:
                yield from (f"model.{field}: {problem}" for problem in error.problems)
                return
        known = self._known()
        for name in self._changed():
            if name not in known:
                hint = f"give it as model.extra.{name}" if ":" in self._network else "leave it out"
                yield (
                    f"model.{name} is {getattr(self, name)!r}, but {self.name} has no such "
                    f"option: {hint}."
                )
        try:
            model_config(self.name, **self.options())
        except ConfigError as error:
            yield from (f"model: {problem}" for problem in error.problems)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for :func:`rayfill.models.build_model`.

        Only those that the network knows: not every network has a depth.
        """
        network = self._options_of(self._network)
        if self.name != "joint":
            return network | dict(self.extra)
        found = self._segmenter_options()
        for key, value in self.extra.items():
            whose = found if key.startswith(_OF_SEGMENTER) else network
            whose[key.removeprefix(_OF_SEGMENTER)] = value
        if self.label_maps:
            network["labels"] = len(self.label_names)
        return {
            "inpainter": self.inpainter,
            "inpainter_options": network,
            "segmenter": self.segmenter,
            "segmenter_options": found,
            "label_names": list(self.label_names),
            "selects": self.selects,
        }

    @property
    def _network(self) -> str:
        """What fills the hole."""
        return self.inpainter if self.name == "joint" else self.name

    def _options_of(self, network: str) -> dict[str, Any]:
        """Return the fields that a network of ours knows; one from outside has its own defaults."""
        from rayfill.models import option_names

        known = () if ":" in network else option_names(network)
        return {key: value for key, value in dataclasses.asdict(self).items() if key in known}

    def _segmenter_options(self) -> dict[str, Any]:
        from rayfill.models.segmentation import segmenter_spec

        known = () if ":" in self.segmenter else segmenter_spec(self.segmenter).option_names
        values = {f"{_OF_SEGMENTER}{key}": key for key in known}
        return {key: getattr(self, field) for field, key in values.items() if hasattr(self, field)}

    def _known(self) -> set[str]:
        if self.name != "joint":
            return {"name", *self._options_of(self.name)}
        fields = (field.name for field in dataclasses.fields(self))
        own = {name for name in fields if name.startswith("segmenter")}
        own |= {"name", "inpainter", "label_names", "label_maps", "selects"}
        return own | self._options_of(self.inpainter).keys()

    def _changed(self) -> list[str]:
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.name != "extra" and getattr(self, field.name) != field.default
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(Part):
    """What training minimises."""

    terms: str = "l1"
    """A weighted sum of terms, such as `mse`, `mse+perceptual`, `l1+0.05*perceptual`, `liu` or
    `p2`; a term of one's own is `package.module:Name`."""
    features: Literal["vgg16", "vgg19", "squeezenet1_1"] = "vgg19"
    """The network whose activations perceptual and style terms compare."""
    weights_path: str | None = None
    """Local file with that network's ImageNet weights; otherwise torchvision's own download."""
    alpha: Annotated[float, Bounds(ge=0, lt=1)] = 0.03
    """Joint training: how far the mask shall grow beyond the object, as a share of the largest
    distance in the picture; the report's best is 0.03."""
    mask_expansion: NotNegative = 1000.0
    """Joint training: weight of the mask-expansion loss; 0 trains without it."""
    segmentation: NotNegative = 1.0
    """Joint training: weight of the segmenter's own losses."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", full_names("loss term", self.terms))

    def relations(self) -> Iterator[str]:
        """Yield one sentence for every value that does not fit the others, or names nothing."""
        from rayfill.losses import ADVERSARIAL, parse_loss

        try:
            terms = parse_loss(self.terms)
        except ConfigError as error:
            yield from (f"loss.terms: {problem}" for problem in error.problems)
        else:
            if all(term in ADVERSARIAL for term in terms):
                yield (
                    f"loss.terms is {self.terms!r}: {', '.join(ADVERSARIAL)} alone do not say what "
                    "to paint; add a term such as hole_mean_l1."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Part):
    """How the network is optimised."""

    stage: Stage = "inpainting"
    """What is trained. Of edgeconnect: edges, labels or image, each by itself, or inpainting (all
    of it). Of joint: its inpainter as before, segmentation, or joint (both through the mask)."""
    epochs: Count = 10
    """Passes over the training split."""
    batch_size: Count = 16
    """Samples in one optimiser step, over all workers together."""
    learning_rate: Positive = 3e-3
    """Peak learning rate of Adam."""
    schedule: Schedule = "cosine"
    """Course of the learning rate after the warm-up."""
    step_epochs: tuple[int, ...] = ()
    """With `step`: the epochs after which the learning rate is divided by 10."""
    warmup_steps: Whole = 20
    """Optimiser steps over which the learning rate rises linearly."""
    grad_clip_norm: NotNegative = 1.0
    """Largest gradient norm; 0 leaves gradients alone."""
    ema_decay: Annotated[float, Bounds(ge=0, lt=1)] = 0.99
    """Decay of the running average of the weights that is validated and kept; 0 is none."""
    precision: Precision = "auto"
    """auto is bf16 where the machine computes it faster (AMX, CUDA), else fp32."""
    compile: bool = False
    """torch.compile the network: pays off after several hundred steps."""
    validate_every: Count = 1
    """Epochs between validations (each also writes a checkpoint)."""
    keep_checkpoints: Count = 2
    """Newest checkpoints to keep, beside the best one."""
    max_bad_steps: Count = 10
    """Steps in a row with a non-finite loss or gradient after which training stops."""
    init_from: str | None = None
    """Start from the weights of a model instead of random ones: a bundle or a run's folder,
    models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or sweep:NAME for a sweep's best."""
    continue_from: str | None = None
    """Go on from the newest checkpoint of this run's folder, with its optimisers, averages and
    epochs: `epochs` counts those that were done there."""
    schedule_epochs: tuple[int, int] | None = None
    """First and last epoch of the learning rate's course; None is the whole run."""
    discriminator_width: Count = 64
    """Channels of the first layer of a discriminator, where the loss has one."""
    discriminator_rate: Positive = 0.1
    """Learning rate of discriminators, as a share of learning_rate."""
    seed: Whole = 0
    """Seed of weights, order and augmentation."""

    def relations(self) -> Iterator[str]:
        """Yield what is wrong with where the run begins and with its learning rate's course."""
        if self.init_from and self.continue_from:
            yield "train.init_from and train.continue_from exclude each other: leave one out."
        if self.schedule_epochs and not 0 <= self.schedule_epochs[0] < self.schedule_epochs[1]:
            yield (
                f"train.schedule_epochs is {self.schedule_epochs}: the first must be 0 or more, "
                "the last above it."
            )
        if self.schedule == "step" and not self.step_epochs:
            yield "train.schedule is 'step': give train.step_epochs, such as 8 16."
        if self.schedule != "step" and self.step_epochs:
            yield f"train.step_epochs needs train.schedule 'step', got {self.schedule!r}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig(Part):
    """How many processes and which share of the cluster one run takes."""

    num_workers: Count = 1
    """Training processes; more than one train together (DDP)."""
    use_gpu: bool | None = None
    """None takes GPUs where the cluster has any."""
    cpus_per_worker: Positive = 1.0
    """CPU cores (and torch threads) of one worker."""
    gpus_per_worker: Positive = 1.0
    """GPUs of one worker when GPUs are used; a fraction lets several small runs share one."""
    max_failures: Whole = 1
    """Times a run is restarted from its last checkpoint after a worker died."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig(Part):
    """Where results are recorded."""

    uri: str | None = None
    """MLflow tracking URI; None is MLFLOW_TRACKING_URI, else a SQLite file in the home folder."""
    experiment: str = "rayfill"
    """MLflow experiment."""
    model_name: str = "rayfill"
    """Name in the model registry."""
    pictures: Whole = 6
    """Validation samples logged as pictures at every validation."""
    params: tuple[str, ...] = ()
    """Config keys recorded as parameters even at their default, beside those that are not; a sweep
    adds what it varies. The whole configuration is the run's config.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig(Part):
    """What is measured on held-out samples."""

    select_metric: SelectMetric = "hole_psnr"
    """Validation metric by which checkpoints and trials are ranked: the highest, or of coherence
    and LPIPS the lowest, is best. Stages other than inpainting have their own: edge_f1,
    label_accuracy, iou, removal_psnr."""
    lpips_network: Literal["squeeze", "alex", "vgg"] = "squeeze"
    """Network of the LPIPS metric."""
    lpips_weights_path: str | None = None
    """Local file with that network's complete LPIPS state; without weights tables leave LPIPS out,
    and nothing can be selected by it."""

    @property
    def ranked_by(self) -> str:
        """What scores are of; those of different LPIPS networks cannot be compared."""
        network = f" ({self.lpips_network})" if needs_lpips(self.select_metric) else ""
        return f"{self.select_metric}{network}"
