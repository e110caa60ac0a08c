"""Turning what a config says about its data into a dataset that is there."""

from __future__ import annotations

from rich.console import Console

from rayfill import paths
from rayfill.config import BUNDLED_DATA, RunConfig
from rayfill_data.errors import ConfigError, DatasetError
from rayfill_data.reader import PreparedDataset


def check_data(config: RunConfig) -> None:
    """Find out that a dataset is not there before anything is started.

    Raises:
        ConfigError: no finished dataset of this version where ``data.uri`` points.
    """
    if config.data.uri == BUNDLED_DATA:
        return
    try:
        PreparedDataset.open(config.data.uri)
    except DatasetError as error:
        raise ConfigError([f"data.uri: {error}"]) from error


def ensure_data(config: RunConfig, *, console: Console) -> str:
    """Return the dataset's location, preparing the bundled photographs the first time."""
    if config.data.uri != BUNDLED_DATA:
        return config.data.uri
    from rayfill_data.pipeline import prepare
    from rayfill_data.reader import read_manifest
    from rayfill_data.sources import PhotosOptions

    uri = str(paths.home() / "data" / "photos")
    if read_manifest(uri) is None:
        console.print(f"Preparing the bundled photographs in {uri}", highlight=False)
    prepare("photos", out=uri, options=PhotosOptions())
    return uri
