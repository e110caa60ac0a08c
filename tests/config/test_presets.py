"""The recipes of the reports: what they say, that they can be built, and flags on top of them."""

from __future__ import annotations

import pytest
import torch

from rayfill.cli.commands.train import parse
from rayfill.config.presets import PRESETS, find_preset
from rayfill.config.run import RunConfig, check
from rayfill.losses import SUMS, parse_loss
from rayfill.models import build_model
from rayfill.training.recipes import learning_rate_factor
from rayfill_data.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_run_that_passes_the_check(name):
    config = PRESETS[name].config
    assert check(config) is config
    assert config.name == name
    assert config.model.width == 64
    assert config.model.output == "direct"
    assert (config.train.ema_decay, config.train.warmup_steps) == (0, 0)
    assert config.train.grad_clip_norm == 0
    with torch.device("meta"):
        build_model(config.model.name, **config.model.options())


@pytest.mark.parametrize(
    ("name", "model", "loss", "epochs", "batch", "rate"),
    [
        ("p1-unet", "unet", "mse", 50, 32, 1e-3),
        ("p1-attention-unet", "attention_unet", "mse", 50, 32, 1e-3),
        ("p1-attention-unet-perceptual", "attention_unet", "perceptual", 50, 32, 1e-3),
        ("p3-unet", "unet", "mse", 20, 5, 1e-3),
        ("p3-partial-conv", "partial_conv_unet", "mse", 20, 5, 1e-3),
        ("p4-phase-1", "partial_conv_liu", "liu", 50, 6, 2e-4),
        ("p4-phase-2", "partial_conv_liu", "liu", 10, 6, 5e-5),
        ("p5-unet", "shallow_unet", "mse", 5, 32, 1e-3),
        ("p5-convmixer", "convmixer_unet", "mse", 5, 32, 1e-3),
    ],
)
def test_presets_say_what_their_reports_say(name, model, loss, epochs, batch, rate):
    config = PRESETS[name].config
    assert (config.model.name, config.loss.terms) == (model, loss)
    assert (config.train.epochs, config.train.batch_size) == (epochs, batch)
    assert config.train.learning_rate == rate


def test_p2_has_the_report_s_weights_and_stages_in_order():
    stages = [(name, PRESETS[name].config) for name in PRESETS if name.startswith("p2-")]
    assert [config.train.stage for _, config in stages] == [
        "segmentation", "edges", "labels", "image", "joint",
    ]  # fmt: skip
    joint = PRESETS["p2-joint"].config
    assert (joint.train.learning_rate, joint.train.batch_size) == (1e-5, 4)
    assert (joint.loss.alpha, joint.loss.mask_expansion) == (0.03, 1000)
    assert parse_loss(joint.loss.terms) == {
        "hole_mean_l1": 1, "gan": 0.1, "feature_matching": 0.1, "gan_style": 250,
    }  # fmt: skip
    assert [PRESETS[name].needs_init for name, _ in stages] == [False, True, True, True, True]


def test_the_unet_of_p3_has_the_reports_parameters():
    model = PRESETS["p3-unet"].config.model
    with torch.device("meta"):
        network = build_model(model.name, **model.options())
    assert sum(p.numel() for p in network.parameters()) == 31_037_763


@pytest.mark.parametrize("name", ["p3-unet", "p3-partial-conv"])
def test_p3_spends_8_epochs_at_1e_3_and_12_at_1e_4(name):
    train = PRESETS[name].config.train
    factor = learning_rate_factor(train, total_steps=20 * 7)
    rates = [train.learning_rate * factor(step) for step in range(20 * 7)]
    assert rates == pytest.approx([1e-3] * (8 * 7) + [1e-4] * (12 * 7))


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("p3")])
def test_the_other_learning_rates_are_constant(name):
    factor = learning_rate_factor(PRESETS[name].config.train, total_steps=100)
    assert {factor(step) for step in range(100)} == {1.0}


def test_the_phases_of_p4_differ_in_what_the_second_is_for():
    first, second = (PRESETS[f"p4-phase-{number}"] for number in (1, 2))
    assert not first.config.model.freeze_encoder_norm
    assert second.config.model.freeze_encoder_norm
    assert (first.needs_init, second.needs_init) == (False, True)
    assert parse_loss(first.config.loss.terms) == SUMS["liu"]
    assert first.config.loss == second.config.loss
    assert first.config.loss.features == "vgg16"
    states = []
    for preset in (first, second):
        with torch.device("meta"):
            network = build_model(preset.config.model.name, **preset.config.model.options())
        states.append({key: value.shape for key, value in network.state_dict().items()})
    assert states[0] == states[1]


def test_flags_override_the_preset_and_nothing_else_changes():
    config = parse(["--train.epochs", "3", "--preset", "p3-unet", "--train.step-epochs", "1", "2"])
    train = config.train
    assert (train.epochs, train.step_epochs, train.batch_size) == (3, (1, 2), 5)
    assert parse(["--preset=p3-unet"]) == PRESETS["p3-unet"].config
    assert parse(["--preset", "p3-unet", "--train.epochs", "20"]) == PRESETS["p3-unet"].config
    flipped = parse(["--preset", "p1-unet", "--data.flip", "--model.no-mask-channel"])
    assert flipped.data.flip
    assert not flipped.model.mask_channel


def test_without_a_preset_the_defaults_hold():
    assert parse([]) == RunConfig()
    assert parse(["--name", "preset"]).name == "preset"


def test_an_unknown_preset_is_refused_with_the_nearest():
    for refused in (lambda: find_preset("p3-unt"), lambda: parse(["--preset", "p3-unt"])):
        with pytest.raises(ConfigError, match=r"Unknown preset 'p3-unt'. Did you mean 'p3-unet'"):
            refused()


def test_overrides_are_checked_like_any_run():
    with pytest.raises(ConfigError) as caught:
        parse(["--preset", "p4-phase-1", "--train.epochs", "0", "--model.name", "unett"])
    assert len(caught.value.problems) == 2


def test_the_second_phase_wants_the_bundle_of_the_first():
    with pytest.raises(ConfigError, match=r"p4-phase-2 .*--train\.init-from"):
        parse(["--preset", "p4-phase-2"])
    config = parse(["--preset", "p4-phase-2", "--train.init-from", "m@champion"])
    assert config.train.init_from == "m@champion"


def test_the_help_names_every_preset_and_shows_the_chosen_ones_values(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "4000")
    for args, shown in ((["--help"], "(default: 10; "), (["--preset", "p3-unet", "--help"], "20")):
        with pytest.raises(SystemExit) as ended:
            parse(args)
        assert ended.value.code == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in PRESETS)
        assert printed.startswith("usage: rayfill train")
        epochs = printed.partition("--train.epochs")[2].partition("--train.batch-size")[0]
        assert shown in epochs
