"""``rayfill promote``: move the champion alias, with a reason."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import tyro

from rayfill import paths
from rayfill.registry import CHAMPION, DEFAULT_MODEL_NAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromoteArgs:
    """Make a registered version the champion."""

    version: tyro.conf.Positional[str]
    """Version number in the registry."""
    reason: str
    """Why; noted on the version."""
    model: str = DEFAULT_MODEL_NAME
    """Registered model."""
    alias: str = CHAMPION
    """Alias to move."""
    tracking_uri: str | None = None
    """MLflow store; None as for training."""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = tyro.cli(PromoteArgs, args=list(args), prog="rayfill promote")
    from rayfill.registry import get_version, promote

    uri = paths.tracking_uri(asked.tracking_uri)
    version = get_version(asked.model, version=asked.version, tracking_uri=uri)
    promote(version, alias=asked.alias, reason=asked.reason, tracking_uri=uri)
    sys.stdout.write(f"{asked.model}@{asked.alias} is now version {asked.version}.\n")
    return 0
