"""``serve run rayfill_serving.app:build_app key=value …``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rayfill_serving.options import parse_options

if TYPE_CHECKING:
    from ray.serve import Application


def build_app(args: Mapping[str, str]) -> Application:
    """Return the Serve application.

    Args:
        args: Fields of :class:`rayfill_serving.options.ServingOptions` by name, as text.

    Raises:
        ConfigError: with every unknown key and every bad value.
    """
    from rayfill_serving.deployments import deploy

    return deploy(parse_options(args).resolved())
