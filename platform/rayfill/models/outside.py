"""Networks from outside: a plain ``nn.Module`` held to what every model promises."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from rayfill.models.base import InpaintingModel, check_inputs
from rayfill.models.fills.fill import zero_fill
from rayfill.models.fills.filled import pad_edge
from rayfill.models.spec import NetworkSpec
from rayfill_data.checks import Checked
from rayfill_data.errors import ConfigError, RayfillError

_FORWARD = ["image", "hole_mask"]


class OutsideModel(InpaintingModel):
    """Holds a plain module to the contract: any size, nothing read under the hole, [0, 1] in eval.

    The module sees 0 under the hole, and sizes that its ``stride`` divides (1 where it declares
    none): edges are repeated at the right and bottom, and cut off again.

    Attributes:
        network: the module.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        stride = getattr(network, "stride", 1)
        if not isinstance(stride, int) or stride < 1:
            raise RayfillError(
                f"{type(network).__name__}.stride is {stride!r}: it must be a whole number, what "
                "both sides of a picture must divide by."
            )
        self.stride = stride

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the prediction (B, 3, H, W); shapes and ranges as in :class:`InpaintingModel`.

        Raises:
            RayfillError: the module's answer has another shape than its input.
        """
        check_inputs(image, hole_mask)
        height, width = image.shape[-2:]
        shown = pad_edge(zero_fill(image, hole_mask), self.stride)
        prediction = self.network(shown, pad_edge(hole_mask, self.stride))
        if not isinstance(prediction, Tensor) or prediction.shape != shown.shape:
            got = getattr(prediction, "shape", type(prediction).__name__)
            raise RayfillError(
                f"{type(self.network).__name__} answered an image {tuple(shown.shape)} with "
                f"{tuple(got) if isinstance(got, Sequence) else got}; it must be of the image's "
                "size. If it halves pictures, give it `stride`: sizes are padded to a multiple."
            )
        prediction = prediction[..., :height, :width].to(image.dtype)
        return prediction if self.training else prediction.clamp(0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutsideOptions(Checked):
    """Options of a network from outside; a subclass for each, see :func:`options_type`."""

    _hints: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        # Late: it is not needed to use the networks that are built in.
        from pydantic import TypeAdapter, ValidationError

        problems = []
        for name, value in self.values().items():
            try:
                checked = TypeAdapter(self._hints.get(name, Any)).validate_python(value)
            except ValidationError as error:
                problems.append(f"{name} is {value!r}: {error.errors()[0]['msg'].lower()}.")
            else:
                object.__setattr__(self, name, checked)
        if problems:
            raise ConfigError(problems)

    def values(self) -> dict[str, Any]:
        """Return the options by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def outside_model(network: Any, name: str) -> NetworkSpec[InpaintingModel]:
    """Return the entry of a model from outside; errors call it ``name``.

    Args:
        network: a class of ``nn.Module`` with ``forward(image, hole_mask)``. What is no
            :class:`InpaintingModel` is wrapped in an :class:`OutsideModel`.
        name: what it is called.

    Raises:
        ConfigError: something else.
    """
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise ConfigError([f"{name} is no model: make it a class of torch.nn.Module."])
    takes = list(inspect.signature(network.forward).parameters)[1:3]
    if takes != _FORWARD:
        raise ConfigError(
            [
                f"The forward of {name} takes ({', '.join(takes)}); a model takes (image, "
                "hole_mask): RGB in [0, 1], and 1 where it is to be filled."
            ]
        )

    def build(config: OutsideOptions) -> InpaintingModel:
        made = network(**config.values())
        return made if isinstance(made, InpaintingModel) else OutsideModel(made)

    return NetworkSpec(network=build, options=options_type(network), summary=first_line(network))


def options_type(
    network: type[nn.Module], *, without: tuple[str, ...] = ()
) -> type[OutsideOptions]:
    """Return the options of a class: the parameters of its ``__init__``, types and defaults.

    Args:
        network: the class.
        without: parameters that are no options.
    """
    init = network.__init__
    try:
        hints = typing.get_type_hints(init)
    except NameError:  # names that are there for type checkers only
        hints = {}
    made: list[tuple[str, Any, Any]] = []
    for parameter in list(inspect.signature(init).parameters.values())[1:]:
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variable or parameter.name in without:
            continue
        default = parameter.default
        filled = (
            dataclasses.field()
            if default is parameter.empty
            else dataclasses.field(default_factory=functools.partial(_same, default))
        )
        made.append((parameter.name, hints.get(parameter.name, Any), filled))
    return dataclasses.make_dataclass(
        f"{network.__name__}Options",
        made,
        bases=(OutsideOptions,),
        namespace={"_hints": hints},
        frozen=True,
        kw_only=True,
    )


def first_line(network: type) -> str:
    """Return the first line of a class's own docstring; empty where it has none."""
    return (network.__doc__ or "").strip().partition("\n")[0]


def _same(value: Any) -> Any:
    return value
