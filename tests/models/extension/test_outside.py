"""Networks, losses and sources from outside, and the names they go by, in this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rayfill.cli.commands.models import main as models_command
from rayfill.config.run import (
    LossConfig,
    ModelConfig,
    RunConfig,
    check,
    flatten,
    from_dict,
    replace,
    to_dict,
)
from rayfill.losses import build_loss, parse_loss
from rayfill.models import build_model, model_config
from rayfill.models.contract import broken
from rayfill.models.cost import model_cost
from rayfill.runs.run_page import compared_params, comparing, differing_keys
from rayfill.sweeps.plan import plan_trials
from rayfill.sweeps.space import find_point, varied_keys
from rayfill_data.checks import problems
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.extension import outside_packages
from rayfill_data.sources import find_source

NET = "mypkg.nets:TwoScales"

HEADER = """
import torch
from torch import nn
from rayfill.losses import register_loss
from rayfill.models import register_model
from rayfill.models.segmentation import Segmenter, SegmenterOutput, register_segmenter
from rayfill_data.sources import register_source
"""


@pytest.fixture
def mine(mypkg: Any, package: Path) -> Any:
    """Import a module called ``mine`` of the given text."""

    def make(text: str) -> Any:
        (package / "mine.py").write_text(HEADER + text)
        return mypkg("mine")

    return make


def test_options_are_those_of_the_signature(mypkg: Any) -> None:
    config: Any = model_config(NET, channels=4)
    assert (config.channels, config.slope) == (4, 0.1)
    network = build_model(NET, channels=4)
    assert network.stride == 2
    assert model_cost(NET, channels=4).parameters == sum(p.numel() for p in network.parameters())
    with pytest.raises(ConfigError) as caught:
        model_config(NET, chanels=4, slop=1)
    assert "Unknown option of mypkg.nets:TwoScales 'chanels'. Did you mean 'channels'?" in str(
        caught.value
    )
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="channels is 'many': input should be a valid integer"):
        model_config(NET, channels="many")


def test_an_option_without_a_default_must_be_given(mine: Any) -> None:
    mine(
        "class Net(nn.Module):\n"
        "    def __init__(self, width, names: tuple[str, ...] = ('a',), **rest):\n"
        "        super().__init__()\n"
        "    def forward(self, image, hole_mask): return image\n"
    )
    with pytest.raises(ConfigError, match="Option 'width' of mine:Net has no default"):
        model_config("mine:Net")
    config: Any = model_config("mine:Net", width=3, names=["b"])  # as JSON gives it back
    assert (config.width, config.names) == (3, ("b",))


def test_the_example_keeps_the_contract(mypkg: Any) -> None:
    assert set(broken(lambda: build_model(NET)).values()) == {""}


@pytest.mark.parametrize(
    ("body", "check_name", "said"),
    [
        ("return image[..., ::2, ::2]", "any size in", "answered an image (2, 3, 17, 31) with"),
        ("return self.lin(image)", "any size in", "shapes cannot be multiplied"),
        ("self.n.add_(1); return self.conv(image) + self.n", "no state", "another answer"),
        ("return self.conv(image / 0)", "finite", "NaN or infinity"),
        ("return self.conv(image) * self.w.detach().mean()", "every weight", "reaches network.w, "),
        ("return self.conv(image - image.mean())", "alone", "samples of the batch changed"),
        ("return self.conv(image + self.k.to(image))", "saved", "meta"),
    ],
)
def test_what_breaks_the_contract_is_found(
    mine: Any, body: str, check_name: str, said: str
) -> None:
    mine(
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.lin = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(5, 5)\n"
        "        self.w = nn.Parameter(torch.ones(1))\n"
        "        self.register_buffer('n', torch.zeros(1))\n"
        "        self.k = torch.ones(1)\n"
        f"    def forward(self, image, hole_mask): {body}\n"
    )
    found = broken(lambda: build_model("mine:Net"))
    (problem,) = (text for name, text in found.items() if name.startswith(check_name))
    assert said in problem


def test_a_forward_that_reads_values_is_said_not_to_be_counted(mine: Any) -> None:
    mine(
        "class Net(nn.Module):\n"
        "    def forward(self, image, hole_mask): return image * hole_mask.mean().item()\n"
    )
    with pytest.raises(RayfillError, match="mine:Net cannot be counted, which needs a forward"):
        model_cost("mine:Net")


def test_the_hole_of_a_plain_module_is_blank(mine: Any) -> None:
    mine("class Net(nn.Module):\n    def forward(self, image, hole_mask): return image\n")
    image, hole_mask = torch.full((1, 3, 5, 7), float("nan")), torch.ones(1, 1, 5, 7)
    assert torch.equal(build_model("mine:Net")(image, hole_mask), torch.zeros(1, 3, 5, 7))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Net = 3", "mine:Net is no model: make it a class of torch.nn.Module."),
        ("class Net: pass", "mine:Net is no model"),
        (
            "class Net(nn.Module):\n    def forward(self, x, mask): return x",
            "The forward of mine:Net takes (x, mask); a model takes (image, hole_mask)",
        ),
        ("class Nett: pass", "Unknown name in mine 'Net'. Did you mean 'Nett'?"),
        ("1 / 0", "Importing mine for mine:Net failed: ZeroDivisionError"),
        ("import nowhere_to_be_found", "mine:Net needs the module 'nowhere_to_be_found'"),
    ],
)
def test_what_is_no_model_is_refused(mine: Any, text: str, said: str) -> None:
    with contextlib.suppress(ZeroDivisionError, ModuleNotFoundError):  # as its user will see
        mine(text)
    (problem,) = problems(ModelConfig(name="mine:Net"))
    assert problem.startswith("model.name: ")
    assert said in problem


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "absent.nets:Net",
            "needs the module 'absent', which is not there: install",
        ),
        ("mypkg.absent:Net", "needs the module 'mypkg.absent', which is not there"),
        ("mypkg/nets.py:Net", "is not of the form package.module:Name"),
        ("mypkg.nets:", "is not of the form package.module:Name"),
    ],
)
def test_a_module_that_is_not_there_is_named(mypkg: Any, name: str, said: str) -> None:
    for config in (ModelConfig(name=name), ModelConfig(name="joint", inpainter=name)):
        assert said in " ".join(problems(config))
    assert said in " ".join(problems(ModelConfig(name="joint", segmenter=name)))
    assert said in " ".join(problems(LossConfig(terms=f"l1+0.1*{name}")))
    with pytest.raises(ConfigError) as caught:
        find_source(name)
    assert said in str(caught.value)


def test_a_run_gives_the_options_that_are_asked_for(mypkg: Any) -> None:
    config = RunConfig(model=ModelConfig(name=NET, extra={"channels": 4}))
    assert check(config).model.options() == {"channels": 4}
    assert replace(config, {"model.extra.channels": 6}).model.options() == {"channels": 6}
    assert from_dict(RunConfig, to_dict(config)) == config
    wide = replace(config, {"model.width": 16})
    with pytest.raises(ConfigError, match=r"has no such option: give it as model.extra.width\."):
        check(wide)
    with pytest.raises(ConfigError, match="Did you mean 'channels'"):
        check(replace(config, {"model.extra.chanels": 6}))
    assert check(RunConfig(model=ModelConfig(name="unet", extra={"odd_sizes": "pad_inside"})))


def test_a_sweep_varies_options_of_ones_own(mypkg: Any) -> None:
    space = {"model.extra.channels": (3, 4)}
    base = comparing(RunConfig(model=ModelConfig(name=NET)), varied_keys(space))
    trials = plan_trials(check(base), space)
    assert [compared_params(trial)["model.extra.channels"] for trial in trials] == [3, 4]
    assert "model.extra.channels" not in compared_params(base)
    assert differing_keys([base, *trials]) == ["model.extra.channels"]
    assert find_point(space, flatten(to_dict(trials[1]))) == {"model.extra.channels": 1}


def test_a_joint_model_of_two_networks_from_outside(mine: Any) -> None:
    mine(
        "@register_segmenter('halves')\n"
        "class Halves(Segmenter):\n"
        "    def __init__(self, labels, *, heads: int = 1):\n"
        "        super().__init__(labels)\n"
        "        self.conv = nn.Conv2d(3, len(self.labels), heads)\n"
        "    def forward(self, image, labels=None):\n"
        "        return SegmenterOutput(logits=self.conv(image))\n"
    )
    model = ModelConfig(
        name="joint", inpainter=NET, segmenter="halves", extra={"channels": 3, "segmenter_heads": 1}
    )
    assert model.segmenter == "mine:Halves"
    assert list(problems(model)) == []
    network: Any = build_model("joint", **model.options())
    assert network.stride == 2
    assert network.inpainter.network.fine.out_channels == 3
    image, hole_mask = torch.rand(1, 3, 9, 11), torch.zeros(1, 1, 9, 11)
    assert network(image, hole_mask).shape == image.shape
    assert network.segment(image).shape == (1, 2, 9, 11)
    wrong = replace(RunConfig(model=model), {"model.extra.segmenter_hedas": 1})
    assert "Did you mean 'heads'" in " ".join(problems(wrong.model))


def test_a_registered_name_becomes_the_place_of_its_definition(mypkg: Any) -> None:
    assert "Unknown model 'three_scales'" in " ".join(problems(ModelConfig(name="three_scales")))
    mypkg("mypkg.named")
    config = check(RunConfig(model=ModelConfig(name="three_scales")))
    assert config.model.name == "mypkg.named:ThreeScales"
    assert replace(RunConfig(), {"model.name": "three_scales"}).model == config.model
    assert build_model("three_scales").stride == 2
    assert [path.name for path in outside_packages()] == ["mypkg"]


def test_models_lists_what_a_module_registers(
    mypkg: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert models_command(["mypkg.named"]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "three_scales" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    count = sum(parameter.numel() for parameter in build_model(NET).parameters())
    assert cells[:2] == ["three_scales", f"{count:,}"]
    assert cells[3:] == ["2", "mypkg.named:ThreeScales", "Two scales under a short name."]
    with pytest.raises(ConfigError, match="Did you mean 'TwoScales'"):
        models_command(["--check", "mypkg.nets:TwoScale"])
    with pytest.raises(ConfigError, match="nowhere: No module named 'nowhere'. Install"):
        models_command(["nowhere"])


def test_registering_twice_or_where_workers_cannot_look_is_refused(mine: Any) -> None:
    module = mine(
        "@register_model('net')\n"
        "class Net(nn.Module):\n"
        "    def forward(self, image, hole_mask): return image\n"
        "def make():\n"
        "    class Inner(Net): pass\n"
        "    return Inner\n"
        "class Other(Net): pass\n"
        "class Main(Net): pass\n"
        "Main.__module__ = '__main__'\n"
    )
    from rayfill.models import register_model

    assert register_model("net")(module.Net) is module.Net
    for name, network, said in (
        ("net", module.Other, "The model 'net' is mine:Net already: register mine:Other"),
        ("inner", module.make(), "is defined inside something else"),
        ("main", module.Main, "defined in the script that is run, which workers cannot import"),
        ("three", 3, "three is no model"),
    ):
        with pytest.raises(ConfigError) as caught:
            register_model(name)(network)
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match="'unet' is built in"):
        register_model("unet")
    with pytest.raises(ConfigError, match="lower-case letters"):
        register_model("my-net")


def test_a_loss_from_outside_is_a_term_like_the_others(mine: Any) -> None:
    mine(
        "@register_loss('gap')\n"
        "def gap(prediction, target, hole_mask):\n"
        "    return ((prediction - target) * hole_mask).mean()\n"
        "class Gap(nn.Module):\n"
        "    def forward(self, target, prediction, hole_mask):\n"
        "        return gap(prediction, target, hole_mask)\n"
        "def many(prediction, target, hole_mask): return prediction - target\n"
        "def wrong(x, y): return x\n"
        "class Needy(Gap):\n"
        "    def __init__(self, scale): super().__init__()\n"
    )
    terms = LossConfig(terms="1e-1*mse + 2*gap+mine:Gap").terms
    assert terms == "1e-1*mse + 2*mine:gap+mine:Gap"
    weights = parse_loss(terms)
    assert weights == {"mse": 0.1, "mine:gap": 2.0, "mine:Gap": 1.0}
    prediction, image, target = torch.rand(3, 2, 3, 4, 4)
    hole_mask = torch.ones(2, 1, 4, 4)
    result = build_loss(weights)(prediction, image, target, hole_mask)
    gap = (prediction - target).mean()
    torch.testing.assert_close(result.terms["mine:gap"], gap)
    torch.testing.assert_close(result.terms["mine:Gap"], gap)
    torch.testing.assert_close(result.total, 0.1 * (prediction - target).square().mean() + 3 * gap)
    with pytest.raises(RayfillError, match=r"mine:many gave a tensor \(2, 3, 4, 4\)"):
        build_loss({"mine:many": 1.0})(prediction, image, target, hole_mask)
    for term, said in (
        ("wrong", "Loss term mine:wrong takes (x, y); a term takes prediction, target"),
        ("Needy", "needs arguments to be made: give every one a default"),
        ("HEADER", "Unknown name in mine"),
    ):
        assert said in " ".join(problems(LossConfig(terms=f"mine:{term}")))


def test_a_source_from_outside_has_its_own_options(mypkg: Any, mine: Any) -> None:
    spec = find_source("mypkg.data:Gradients")
    assert spec.summary == "Soft gradients of two colours."
    options = spec.options_type(count=4)
    plan = spec.plan(options, 0)
    assert [task.split for task in plan.tasks] == ["train", "train", "val", "test"]
    assert spec.render(plan.tasks[0], options, 0).image.shape == (32, 32, 3)
    mine("from rayfill_data.sources.folder import FOLDER\nclass Source: pass\n")
    assert find_source("mine:FOLDER") is find_source("folder")
    with pytest.raises(ConfigError, match="mine:Source is no source: make it a SourceSpec, or"):
        find_source("mine:Source")


def test_what_is_installed_is_not_sent_to_workers(mypkg: Any) -> None:
    with pytest.raises(ConfigError, match="torch.nn:Linear takes"):
        build_model("torch.nn:Linear")
    build_model(NET)
    assert "torch" in sys.modules
    assert [path.name for path in outside_packages()] == ["mypkg"]
