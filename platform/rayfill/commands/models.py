"""``rayfill models``: the table of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro
from rich.table import Table

from rayfill.console import make_console


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelsArgs:
    """List the networks that can be trained."""

    width: int = 64
    """Channels of the first level that parameters are counted at."""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = tyro.cli(ModelsArgs, args=list(args), prog="rayfill models")
    from rayfill.models import MODELS, build_model, model_config

    table = Table(title=f"Networks at width {asked.width}")
    for column in ("name", "parameters", "stride", "paper", "what it is"):
        table.add_column(column, justify="right" if column in ("parameters", "stride") else "left")
    for name, spec in MODELS.items():
        model = build_model(name, width=asked.width)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        stride = model_config(name, width=asked.width).stride
        table.add_row(name, f"{parameters:,}", str(stride), spec.paper, spec.summary)
    make_console().print(table)
    return 0
