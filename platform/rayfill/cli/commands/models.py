"""``rayfill models``: the table of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro
from rich.table import Table

from rayfill.cli.console import make_console


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelsArgs:
    """List the networks that can be trained."""

    width: int = 64
    """Channels of the first level that everything is counted at."""


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = tyro.cli(ModelsArgs, args=list(args), prog="rayfill models")
    from rayfill.config.run import ModelConfig
    from rayfill.models import MODELS, model_config
    from rayfill.models.cost import model_cost

    table = Table(title=f"Networks at width {asked.width}")
    numbers = ("parameters", "multiply-adds at 256x256", "stride")
    for column in ("name", *numbers, "paper", "what it is"):
        table.add_column(column, justify="right" if column in numbers else "left")
    for name, spec in MODELS.items():
        # A joint model is counted around the Attention U-Net, with the default segmenter.
        whole = ModelConfig(
            name=name, width=asked.width, depth=4, hole_fill="zero", output="direct"
        ).options()
        options = whole if name == "joint" else {"width": asked.width}
        cost = model_cost(name, **options)
        table.add_row(
            name,
            f"{cost.parameters:,}",
            f"{cost.multiply_adds / 1e9:.2f} G",
            str(model_config(name, **options).stride),
            spec.paper,
            spec.summary,
        )
    make_console().print(table)
    return 0
