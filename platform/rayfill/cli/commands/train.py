"""``rayfill train``: one run, here or on the workers of Ray Train; run it again to go on."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.config.presets import PRESETS, find_preset
from rayfill.config.run import RunConfig, check
from rayfill.runs.references import MODELS, parse_reference
from rayfill_data.errors import ConfigError, redact_uri

_PRESET_HELP = "Recipe of a report, which the other flags override: " + "; ".join(
    f"{name} ({preset.summary})" for name, preset in PRESETS.items()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arguments:
    """Everything that defines one training run."""

    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME", help=_PRESET_HELP)] = None
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = RunConfig()


def parse(args: Sequence[str]) -> RunConfig:
    """Return the run that the flags describe, on top of ``--preset NAME`` where there is one.

    Raises:
        ConfigError: an unknown preset, or every value that cannot be used.
    """
    # Which defaults the flags override must be known before they are read.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="?")
    name = first.parse_known_args(args)[0].preset
    default = _Arguments()
    if name is not None:
        default = _Arguments(preset=name, config=find_preset(name).config)
    config = parse_flags(_Arguments, args, default=default, prog="rayfill train").config
    if name is not None and PRESETS[name].needs_init and not config.train.init_from:
        raise ConfigError(
            [
                f"Preset {name} goes on from a trained model, and train.init_from is not given: "
                "name the bundle of the phase before with --train.init-from."
            ]
        )
    if (start := config.train.init_from) is not None:
        # First: the other checks look into networks, which takes torch.
        parse_reference(start, allowed=MODELS)
    return check(config)


def main(args: Sequence[str]) -> int:
    """Run the command."""
    config = parse(args)
    from rayfill.runs.datasets import check_data, ensure_data
    from rayfill.runs.job import make_job
    from rayfill.runs.places import resolve_paths
    from rayfill.sweeps.progress import train_watched
    from rayfill.sweeps.starts import find_starts, with_start
    from rayfill.training.cluster import place, ray_cluster
    from rayfill.training.validation import check_select_metric

    console = make_console()
    config = resolve_paths(config)
    check_data(config)
    check_select_metric([config])
    config = with_start(config, find_starts([config]))
    with ray_cluster() as capacity:
        uri = ensure_data(config, console=console)
        config = place(config, capacity=capacity, data_uri=uri)
        summary = train_watched(make_job(config), capacity=capacity, console=console)
    score = summary.best[f"val/{config.eval.select_metric}"]
    sys.stdout.write(
        f"Best epoch {summary.best_epoch}: {config.eval.select_metric} {score:.3f}. "
        f"Model bundle: {redact_uri(summary.bundle)}\n"
    )
    return 0
