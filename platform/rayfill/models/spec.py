"""What is known of a network before it is built: an entry of the tables of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Generic, TypeVar

from torch import nn

from rayfill.models.options import CheckedOptions
from rayfill_data.errors import ConfigError, unknown_name

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Generic[NetworkT]):
    """Facts about a network that are known before it is built."""

    build: Callable[..., NetworkT]
    """Makes the network, with fresh weights, from its typed configuration; a segmenter also from
    its ``labels``, by keyword."""

    config_type: type[CheckedOptions]
    """The frozen dataclass of its options."""

    paper: str = ""
    """Where the architecture comes from."""

    summary: str
    """One line for a list of networks."""

    @property
    def option_names(self) -> tuple[str, ...]:
        """Return the names of its options."""
        return tuple(field.name for field in fields(self.config_type))

    def config(self, name: str, options: Mapping[str, object]) -> CheckedOptions:
        """Return ``options`` checked, defaults filled in; errors call the network ``name``.

        Raises:
            ConfigError: unknown or lacking options (all of them named), or values not allowed.
        """
        known = self.option_names
        problems = [
            unknown_name(f"option of {name}", key, known) for key in options if key not in known
        ]
        # Only options of networks from outside may have no default.
        problems += [
            f"Option {field.name!r} of {name} has no default: give it."
            for field in fields(self.config_type)
            if field.name not in options
            and field.default is MISSING
            and field.default_factory is MISSING
        ]
        if problems:
            raise ConfigError(problems)
        return self.config_type(**options)
