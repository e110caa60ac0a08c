"""Getting a Ray cluster: the one this process runs in, or a local one for as long as it lasts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayfill.config.run import RunConfig
from rayfill_data.errors import ConfigError
from rayfill_data.extension import outside_packages

#: Fresh large allocations cost a CPU worker more than the arithmetic; keeping freed memory is a
#: free 5 to 10 percent of a training step.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the cluster has in all, and whether it can grow."""

    cpus: float
    gpus: float
    can_grow: bool


@contextlib.contextmanager
def ray_cluster(*, dashboard: bool = False) -> Iterator[Capacity]:
    """Use the cluster that is there, else start a local one and end it afterwards.

    A process that already called ``ray.init`` keeps its own cluster; ``RAY_ADDRESS`` (set inside
    every Ray job) names one to join.

    Args:
        dashboard: Start the dashboard of a local cluster; nested trials need it.
    """
    import ray

    if ray.is_initialized():
        yield _capacity()
        return
    for name in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ray's own rich tables would fight with ours.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    on_terminate = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        # The very code of this process, so that no node runs an older installed copy.
        runtime_env: Mapping[str, Any] = {
            "env_vars": _MALLOC,
            "py_modules": [str(package) for package in (*_own_packages(), *outside_packages())],
        }
        ray.init(runtime_env=runtime_env, **options)
    else:
        needed = [str(place.parent) for place in (*_own_packages(), *outside_packages())]
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [path for path in dict.fromkeys([*needed, *inherited]) if path]
        environment = {**_MALLOC, "PYTHONPATH": os.pathsep.join(paths)}
        ray.init(
            "local",
            num_cpus=os.cpu_count(),
            include_dashboard=dashboard,
            runtime_env={"env_vars": environment},
            **options,
        )
    # ray.init puts a handler of its own in the place of the caller's.
    signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield _capacity()
    finally:
        ray.shutdown()


def place(config: RunConfig, *, capacity: Capacity, data_uri: str) -> RunConfig:
    """Return a run settled on this cluster: with or without GPUs, and where its data lie.

    Raises:
        ConfigError: it asks for more than the cluster can ever have; Ray would wait for ever.
    """
    scaling = config.scaling
    use_gpu = scaling.use_gpu if scaling.use_gpu is not None else capacity.gpus > 0
    wants = (
        (scaling.cpus_per_worker * scaling.num_workers, capacity.cpus, "CPUs"),
        (scaling.gpus_per_worker * scaling.num_workers * use_gpu, capacity.gpus, "GPUs"),
    )
    problems = [
        f"scaling asks for {want:g} {unit} and the cluster has {have:g}: lower "
        "scaling.num_workers, scaling.cpus_per_worker or scaling.gpus_per_worker, or join a larger "
        "cluster."
        for want, have, unit in wants
        if want > have and not capacity.can_grow
    ]
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(
        config,
        scaling=dataclasses.replace(scaling, use_gpu=use_gpu),
        data=dataclasses.replace(config.data, uri=data_uri),
    )


def _capacity() -> Capacity:
    import ray

    resources = ray.cluster_resources()
    return Capacity(
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        can_grow=os.environ.get("RAYFILL_AUTOSCALING", "") == "1",
    )


def _own_packages() -> list[Path]:
    """Return the folders of the packages that workers need."""
    import rayfill
    import rayfill_data

    return [Path(str(package.__file__)).parent for package in (rayfill, rayfill_data)]


def concurrent_trials(config: RunConfig, *, capacity: Capacity) -> int:
    """Return how many trials fit on the cluster side by side."""
    scaling = config.scaling
    fits = capacity.cpus / (scaling.cpus_per_worker * scaling.num_workers)
    if scaling.use_gpu:
        fits = min(fits, capacity.gpus / (scaling.gpus_per_worker * scaling.num_workers))
    return max(1, int(fits))
