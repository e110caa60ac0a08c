from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import get_args, get_type_hints

import pytest
import torch

from rayfill.config.run import (
    EvalConfig,
    LossConfig,
    ModelConfig,
    RunConfig,
    check,
    flatten,
    from_dict,
    replace,
    to_dict,
)
from rayfill.losses.perceptual import FEATURES
from rayfill.metrics.lpips import BACKBONES
from rayfill.models import FILLS, MODELS, build_model
from rayfill.models.options import Output
from rayfill.models.unets.partial_conv import NORMALISATIONS
from rayfill_data.errors import ConfigError


def test_round_trip_through_json() -> None:
    config = replace(RunConfig(), {"train.epochs": 7, "train.step_epochs": (3, 5)})
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_unknown_keys_name_the_nearest_at_every_level() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(RunConfig, {"train": {"epoch": 3}, "modl": {}, "data": {"url": "x"}})
    problems = "\n".join(caught.value.problems)
    assert "train.epoch: Unknown key 'epoch'. Did you mean 'epochs'?" in problems
    assert "Did you mean 'model'?" in problems
    assert "Did you mean 'uri'?" in problems


def test_wrong_types_are_refused_with_the_key() -> None:
    with pytest.raises(ConfigError, match="train.epochs is 'many'"):
        replace(RunConfig(), {"train.epochs": "many"})
    for number in (True, "7"):
        with pytest.raises(ConfigError, match=f"train.epochs is {number!r}"):
            replace(RunConfig(), {"train.epochs": number})


def test_all_impossible_values_are_reported_at_once() -> None:
    config = replace(
        RunConfig(),
        {
            "train.learning_rate": -1.0,
            "train.epochs": 0,
            "model.name": "unett",
            "loss.terms": "mse+perceptul",
            "scaling.num_workers": 3,
            "data.expand_px": -1,
        },
    )
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert [re.split(":? ", problem)[0] for problem in caught.value.problems] == [
        "data.expand_px", "model.name", "loss.terms", "train.epochs", "train.learning_rate",
        "train.batch_size",
    ]  # fmt: skip


def test_flatten_gives_dotted_keys() -> None:
    flat = flatten(to_dict(RunConfig()))
    assert flat["train.epochs"] == RunConfig().train.epochs
    assert not any(isinstance(value, dict) for value in flat.values())


def test_step_schedule_needs_its_epochs_and_only_it() -> None:
    with pytest.raises(ConfigError, match="give train.step_epochs"):
        check(replace(RunConfig(), {"train.schedule": "step"}))
    with pytest.raises(ConfigError, match="needs train.schedule 'step'"):
        check(replace(RunConfig(), {"train.step_epochs": (1,)}))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_is_built_from_the_default_run(name: str) -> None:
    config = check(replace(RunConfig(), {"model.name": name, "model.width": 2}))
    options = config.model.options()
    with torch.device("meta"):
        assert build_model(name, **options).stride >= 1
    options = options.get("inpainter_options", options)
    assert {"width": 2, "hole_fill": "harmonic", "output": "residual"}.items() <= options.items()
    assert "name" not in options


def test_a_network_gets_only_the_options_it_knows() -> None:
    assert "depth" in ModelConfig(name="unet").options()
    assert "mask_channel" in ModelConfig(name="unet").options()
    assert "depth" not in ModelConfig(name="shallow_unet").options()
    assert "mask_channel" not in ModelConfig(name="partial_conv_unet").options()
    assert ModelConfig(name="partial_conv_liu", freeze_encoder_norm=True).options()[
        "freeze_encoder_norm"
    ]


def test_an_option_that_would_be_ignored_is_refused() -> None:
    changes = {"model.name": "shallow_unet", "model.depth": 4, "model.normalisation": "report"}
    with pytest.raises(ConfigError) as caught:
        check(replace(RunConfig(), changes))
    assert len(caught.value.problems) == 2
    text = "\n".join(caught.value.problems)
    assert "model.depth is 4, but shallow_unet has no such option" in text
    assert "model.normalisation is 'report', but shallow_unet has no such option" in text
    config = replace(RunConfig(), {"model.name": "partial_conv_unet"})
    with pytest.raises(ConfigError, match="model.mask_channel is False"):
        check(replace(config, {"model.mask_channel": False}))


@pytest.mark.parametrize(
    ("section", "field", "table"),
    [
        (ModelConfig, "hole_fill", FILLS),
        (ModelConfig, "output", get_args(Output)),
        (ModelConfig, "normalisation", NORMALISATIONS),
        (LossConfig, "features", FEATURES),
        (EvalConfig, "lpips_network", BACKBONES),
    ],
)
def test_a_run_may_choose_whatever_the_table_holds(
    section: type, field: str, table: Iterable[str]
) -> None:
    assert sorted(get_args(get_type_hints(section)[field])) == sorted(table)
