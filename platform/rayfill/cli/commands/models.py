"""``rayfill models``: the table of networks; ``--check``: whether one keeps the contract."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import tyro
from rich.console import Console

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.runs.table import Column, Table
from rayfill_data.errors import ConfigError, RayfillError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelsArgs:
    """List the networks that can be trained, or check one of your own."""

    modules: tyro.conf.Positional[tuple[str, ...]] = ()
    """Modules of yours, whose registered networks are listed too."""
    width: int = 64
    """Channels of the first level that everything is counted at."""
    check: str | None = None
    """Hold this network to what every model promises: `package.module:Name`, or one of the list."""
    extra: Mapping[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    """Options to check it with, as --model.extra of `rayfill train`."""


def main(args: Sequence[str]) -> int:
    """Run the command; 1 says that a check failed."""
    asked = parse_flags(ModelsArgs, args, prog="rayfill models")
    for module in asked.modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                [f"{module}: {error}. Install its package, or put its folder on PYTHONPATH."]
            ) from error
    if asked.check is not None:
        return _check(asked.check, extra=asked.extra, console=make_console())
    make_console().print(_listed(asked.width))
    return 0


def _listed(width: int) -> Table:
    from rayfill.config.run import ModelConfig
    from rayfill.models import MODELS, model_spec
    from rayfill_data.extension import registered

    rows = []
    for name in MODELS:
        # A joint model is counted around the Attention U-Net, with the default segmenter.
        whole = ModelConfig(name=name, width=width, depth=4, hole_fill="zero", output="direct")
        options = whole.options() if name == "joint" else {"width": width}
        rows.append([name, *_numbers(name, options), MODELS[name].paper, MODELS[name].summary])
    for name, place in registered("model").items():
        rows.append([name, *_numbers(name, {}), place, model_spec(name).summary])
    counts = ("parameters", "multiply-adds at 256x256", "stride")
    numbers = [Column(title, right=True) for title in counts]
    return Table(
        title=f"Networks at width {width}",
        columns=["name", *numbers, "paper", "what it is"],
        rows=rows,
    )


def _numbers(name: str, options: Mapping[str, Any]) -> tuple[str, str, str]:
    from rayfill.models.cost import model_cost

    try:
        cost = model_cost(name, **options)
    except RayfillError:  # one's own: an option without a default, or a forward that reads values
        return ("?", "?", "?")
    return (f"{cost.parameters:,}", f"{cost.multiply_adds / 1e9:.2f} G", str(cost.stride))


def _check(name: str, *, extra: Mapping[str, int | float | bool | str], console: Console) -> int:
    from rayfill.config.run import ModelConfig
    from rayfill.models import build_model
    from rayfill.models.contract import broken
    from rayfill_data.checks import check as check_options

    config = check_options(ModelConfig(name=name, extra=extra))
    options = config.options()
    found = broken(lambda: build_model(config.name, **options))
    table = Table(
        title=f"{config.name} {options or ''}".strip(),
        columns=["what every model promises", "", "what is wrong"],
        rows=[[check, "failed" if wrong else "passed", wrong] for check, wrong in found.items()],
    )
    console.print(table)
    return int(any(found.values()))
