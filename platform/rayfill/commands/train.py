"""``rayfill train``: one run, here or on the workers of Ray Train; run it again to go on."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import tyro

from rayfill.config import RunConfig, check
from rayfill.console import make_console


def main(args: Sequence[str]) -> int:
    """Run the command."""
    config = check(tyro.cli(RunConfig, args=list(args), prog="rayfill train"))
    from rayfill.cluster import check_fits, ray_cluster
    from rayfill.data_location import check_data, ensure_data
    from rayfill.sweep_plan import Outcome
    from rayfill.sweep_progress import SweepProgress
    from rayfill.training.driver import make_job, resolve_paths, train_on_ray

    console = make_console()
    config = resolve_paths(config)
    check_data(config)
    with ray_cluster() as capacity:
        scaling = config.scaling
        use_gpu = scaling.use_gpu if scaling.use_gpu is not None else capacity.gpus > 0
        config = dataclasses.replace(
            config,
            scaling=dataclasses.replace(scaling, use_gpu=use_gpu),
            data=dataclasses.replace(config.data, uri=ensure_data(config, console=console)),
        )
        check_fits(
            capacity,
            cpus=scaling.cpus_per_worker * scaling.num_workers,
            gpus=scaling.gpus_per_worker * scaling.num_workers if use_gpu else 0,
        )
        with SweepProgress([config], concurrent=1, console=console) as progress:
            progress.started(config.name)
            summary = train_on_ray(
                make_job(config),
                capacity=capacity,
                on_epoch=lambda entry: progress.reported(config.name, entry),
            )
            progress.ended(config.name, Outcome(status="finished", epoch=summary.epochs))
    score = summary.best[f"val/{config.eval.select_metric}"]
    sys.stdout.write(
        f"Best epoch {summary.best_epoch}: {config.eval.select_metric} {score:.3f}. "
        f"Model bundle: {summary.bundle}\n"
    )
    return 0
