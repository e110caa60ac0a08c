from __future__ import annotations

import pickle

import pytest

from rayfill_data.errors import ConfigError, ImageError, unknown_name


def test_errors_cross_processes_whole() -> None:
    config = pickle.loads(pickle.dumps(ConfigError(["first.", "second."])))
    assert config.problems == ("first.", "second.")
    assert str(config) == "first.\nsecond."
    image = pickle.loads(pickle.dumps(ImageError("Got 3 bytes.", code="malformed")))
    assert (str(image), image.code) == ("Got 3 bytes.", "malformed")


def test_image_errors_have_a_known_code() -> None:
    with pytest.raises(ValueError, match="unknown image error code"):
        ImageError("x", code="other")


def test_unknown_names_are_met_with_the_nearest() -> None:
    assert unknown_name("model", "unett", ["unet", "vae"]) == (
        "Unknown model 'unett'. Did you mean 'unet'? Allowed: unet, vae."
    )
    assert "Did you mean" not in unknown_name("model", "zzz", ["unet"])
