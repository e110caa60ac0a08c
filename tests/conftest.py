"""What every test may use."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """Connect to one small Ray cluster of our own, shared by the whole suite."""
    import ray
    import ray.data

    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=512 * 2**20,
    )
    with warnings.catch_warnings():
        # Ray Data 2.60 warns of its own defaults when its context is first made.
        warnings.simplefilter("ignore", DeprecationWarning)
        ray.data.DataContext.get_current()
    yield
    ray.shutdown()
