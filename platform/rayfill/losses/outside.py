"""Loss terms from outside: a plain callable of prediction, target and hole mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rayfill_data.errors import ConfigError, RayfillError

_TAKES = {"prediction", "target", "hole_mask"}


class OutsideLoss(nn.Module):
    """Gives a callable the arguments of a loss term, and refuses what is no scalar."""

    def __init__(self, term: Callable[..., Tensor], *, name: str) -> None:
        super().__init__()
        self.term = term
        self.name = name

    def forward(
        self,
        prediction: Tensor,
        image: Tensor,  # noqa: ARG002  (every term of ours is given it)
        target: Tensor,
        hole_mask: Tensor,
    ) -> Tensor:
        """Return the term.

        Raises:
            RayfillError: something else than a tensor of one value.
        """
        value = self.term(prediction=prediction, target=target, hole_mask=hole_mask)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise RayfillError(f"Loss term {self.name} gave {got}; it must be a single value.")
        return value.reshape(())


def outside_term(thing: Any, name: str) -> Callable[[], OutsideLoss]:
    """Return what makes a term from outside.

    Args:
        thing: a callable (prediction, target, hole_mask) -> scalar, or a class of ``nn.Module``
            whose ``forward`` is one and whose ``__init__`` needs nothing.
        name: what errors call it.

    Raises:
        ConfigError: something else.
    """
    is_class = isinstance(thing, type) and issubclass(thing, nn.Module)
    called = thing.forward if is_class or isinstance(thing, nn.Module) else thing
    if not callable(called) or (isinstance(thing, type) and not is_class):
        raise ConfigError([f"{name} is no loss term: make it a function or a class of nn.Module."])
    takes = inspect.signature(called).parameters
    needed = {
        key
        for key, value in takes.items()
        if value.default is value.empty and key != "self" and value.kind != value.VAR_KEYWORD
    }
    if not (takes.keys() >= _TAKES and needed <= _TAKES):
        raise ConfigError(
            [
                f"Loss term {name} takes ({', '.join(takes)}); a term takes prediction, target and "
                "hole_mask, by these names."
            ]
        )
    if is_class and any(
        parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in inspect.signature(thing).parameters.values()
    ):
        raise ConfigError(
            [f"Loss term {name} needs arguments to be made: give every one a default."]
        )
    return lambda: OutsideLoss(thing() if is_class else thing, name=name)
