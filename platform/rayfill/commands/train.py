"""``rayfill train``: one run, here or on the workers of Ray Train; run it again to go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from rayfill.config import RunConfig, check
from rayfill.console import make_console


def main(args: Sequence[str]) -> int:
    """Run the command."""
    config = check(tyro.cli(RunConfig, args=list(args), prog="rayfill train"))
    from rayfill.cluster import place, ray_cluster
    from rayfill.data_location import check_data, ensure_data
    from rayfill.sweep_progress import train_watched
    from rayfill.training.driver import make_job, resolve_paths

    console = make_console()
    config = resolve_paths(config)
    check_data(config)
    with ray_cluster() as capacity:
        uri = ensure_data(config, console=console)
        config = place(config, capacity=capacity, data_uri=uri)
        summary = train_watched(make_job(config), capacity=capacity, console=console)
    score = summary.best[f"val/{config.eval.select_metric}"]
    sys.stdout.write(
        f"Best epoch {summary.best_epoch}: {config.eval.select_metric} {score:.3f}. "
        f"Model bundle: {summary.bundle}\n"
    )
    return 0
