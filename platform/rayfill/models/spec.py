"""What is known of a network before it is built: an entry of the tables of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Generic, TypeVar

from rayfill_data.errors import ConfigError, unknown_name
from rayfill_data.extension import at_place

if TYPE_CHECKING:
    from torch import nn

    from rayfill_data.checks import Checked

NetworkT = TypeVar("NetworkT", bound="nn.Module")


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Generic[NetworkT]):
    """Facts about a network that are known before it is built."""

    network: str | Callable[..., NetworkT]
    """Makes the network, with fresh weights, from its typed configuration; a segmenter also from
    its ``labels``, by keyword. Of ours the place, ``module:Name``, imported when it is wanted."""

    options: str | type[Checked]
    """The frozen dataclass of its options, or its place."""

    paper: str = ""
    """Where the architecture comes from."""

    summary: str
    """One line for a list of networks."""

    @property
    def build(self) -> Callable[..., NetworkT]:
        """Return what makes the network."""
        made: Callable[..., NetworkT] = at_place(self.network)
        return made

    @property
    def config_type(self) -> type[Checked]:
        """Return the type of its options."""
        kind: type[Checked] = at_place(self.options)
        return kind

    @property
    def option_names(self) -> tuple[str, ...]:
        """Return the names of its options."""
        return tuple(field.name for field in fields(self.config_type))

    def config(self, name: str, options: Mapping[str, object]) -> Checked:
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
