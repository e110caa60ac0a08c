"""The typed configuration of a run: one frozen tree, every field documented once.

Experiments override it in Python, command-line flags override those (``--train.epochs 50``). It is
logged whole, stored in every checkpoint, and never looks at the machine: Ray parses it on a head
node that has no GPU.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rayfill.config.sections import (
    BUNDLED_DATA,
    STAGE_METRICS,
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    Part,
    Precision,
    ScalingConfig,
    TrackingConfig,
    TrainConfig,
)
from rayfill_data.checks import check
from rayfill_data.errors import ConfigError, redact_uri, unknown_name

if TYPE_CHECKING:
    import pydantic

__all__ = [
    "BUNDLED_DATA",
    "STAGE_METRICS",
    "DataConfig",
    "EvalConfig",
    "LossConfig",
    "ModelConfig",
    "Precision",
    "RunConfig",
    "ScalingConfig",
    "TrackingConfig",
    "TrainConfig",
    "check",
    "flatten",
    "from_dict",
    "replace",
    "to_dict",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Part):
    """Everything that defines one training run."""

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

    def relations(self) -> Iterator[str]:
        """Yield one sentence for every value that does not fit those of other parts."""
        if not self.name or "/" in self.name or self.name.startswith("."):
            yield f"name is {self.name!r}: it must be a plain folder name."
        yield from self._stage_problems()
        known = flatten(to_dict(self))
        for key in self.tracking.params:
            if key not in known and not key.startswith("model.extra."):
                yield "tracking.params: " + unknown_name("key", key, known)
        if self.scaling.num_workers > 0 and self.train.batch_size % self.scaling.num_workers:
            yield (
                f"train.batch_size {self.train.batch_size} does not divide by "
                f"scaling.num_workers {self.scaling.num_workers}: each worker takes an equal part."
            )

    def _stage_problems(self) -> Iterator[str]:
        """Yield what the stage needs and the model or metric does not give."""
        stage, model = self.train.stage, self.model
        inpainter = model.inpainter if model.name == "joint" else model.name
        if stage in ("segmentation", "joint") and model.name != "joint":
            yield f"train.stage is {stage!r}: it needs model.name joint, got {model.name!r}."
        if stage in ("edges", "labels", "image") and inpainter != "edgeconnect":
            yield f"train.stage is {stage!r}: it is one of edgeconnect, got {inpainter!r}."
        if (stage == "labels" or model.label_maps) and not (
            model.label_maps and inpainter == "edgeconnect"
        ):
            yield "Label maps need model.name joint, model.inpainter edgeconnect and label_maps."
        if self.eval.select_metric not in STAGE_METRICS[stage]:
            yield (
                f"eval.select_metric is {self.eval.select_metric!r}: stage {stage!r} measures "
                f"{', '.join(STAGE_METRICS[stage])}."
            )


ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def written(config: Any) -> dict[str, Any]:
    """Return a config as it is written down: what JSON gives back, without credentials."""
    plain: dict[str, Any] = json.loads(redact_uri(json.dumps(to_dict(config))))
    return plain


def from_dict(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a config of type ``kind`` from nested plain values.

    Raises:
        ConfigError: with every unknown key (naming the nearest) and every value of a wrong type.
    """
    import pydantic

    try:
        value: ConfigT = _adapter(cast("Any", kind)).validate_python(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(kind, dict(item)) for item in error.errors()) from None
    return value


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    import pydantic

    return pydantic.TypeAdapter(kind)


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
