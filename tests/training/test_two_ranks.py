"""Every stage on two data-parallel ranks: what they agree on, and what they compute.

Run as a script, this file is one of the ranks.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rayfill.models import MODELS
from rayfill.models.batch import TensorBatch
from rayfill.training.recipes import Recipe, StepResult

ROOT = Path(__file__).resolve().parents[2]
ROWS = 4
#: A rank that waits for a reduction that another never enters fails after so long.
HANGS_S = 60


def _stages() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "stages_in_tests", Path(__file__).with_name("test_stages.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


TABLE = _stages()
every_stage = pytest.mark.parametrize("name", TABLE.STAGES)


def even(seed: int = 0) -> TensorBatch:
    """Every sample has an object, all of a size."""
    samples: TensorBatch = TABLE.batch(seed, size=ROWS)
    return samples


def changed(samples: TensorBatch, *, rank: int, **parts: Callable[[Tensor], Tensor]) -> TensorBatch:
    """Change what one rank gets."""
    new = {}
    for part, change in parts.items():
        tensor = getattr(samples, part).clone()
        tensor[_rows(rank)] = change(tensor[_rows(rank)])
        new[part] = tensor
    return dataclasses.replace(samples, **new)


def without_objects(samples: TensorBatch, *, rank: int, holes: bool) -> TensorBatch:
    """Leave no object in one rank's half, nor, if not ``holes``, a hole."""
    bare = dataclasses.replace(samples, image=samples.target)
    image = changed(samples, rank=rank, image=lambda _: bare.image[_rows(rank)]).image
    samples = changed(samples, rank=rank, labels=torch.zeros_like)
    if not holes:
        samples = changed(samples, rank=rank, hole_mask=torch.zeros_like)
    return dataclasses.replace(samples, image=image)


#: What the ranks are given one after the other, halved.
BATCHES: dict[str, Callable[[], TensorBatch]] = {
    "objects on both": even,
    "no object on the second": lambda: without_objects(even(1), rank=1, holes=True),
    "no hole on the first": lambda: without_objects(even(2), rank=0, holes=False),
    "not finite on the second": lambda: changed(
        even(3), rank=1, target=lambda x: torch.full_like(x, torch.nan)
    ),
    "objects again": lambda: even(4),
}
#: After which of them gradients are looked at.
FIRST = ("no object on the second", "no hole on the first")


def _rows(rank: int) -> slice:
    return slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)


def half(samples: TensorBatch, rank: int) -> TensorBatch:
    parts = dataclasses.asdict(samples)
    return TensorBatch(**{k: None if v is None else v[_rows(rank)] for k, v in parts.items()})


def make(name: str, *, wrap: Any = None, comparable: bool = False) -> Recipe:
    """The recipe of a stage; ``comparable`` leaves out what is of each rank's own.

    That is batch statistics, and the error over hole pixels, of which the holes that joint training
    finds have not as many on both ranks.
    """
    stage, changes, _, _ = TABLE.STAGES[name]
    changes = {"train.grad_clip_norm": 0.0, **changes}
    if comparable and changes.get("loss.terms") == "p2":
        changes["loss.terms"] = "l1+0.1*gan+0.1*feature_matching+250*gan_style"
    settings = TABLE.config(stage, **changes)
    recipe = Recipe(settings, device=torch.device("cpu"), total_steps=100, wrap=wrap)
    if comparable:
        for module in recipe._network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
                module.train = lambda mode=True, m=module: m  # type: ignore[misc, assignment]
    return recipe


def parameters(recipe: Recipe) -> dict[str, Tensor]:
    """Those of the network and of all discriminators."""
    modules: dict[str, nn.Module] = {"network": recipe._network}
    modules |= {judge: adversary.network for judge, adversary in recipe._adversaries.items()}
    return {
        f"{owner}/{key}": parameter
        for owner, module in modules.items()
        for key, parameter in module.named_parameters()
    }


def gradients(recipe: Recipe) -> dict[str, Tensor]:
    """What the last step learnt from."""
    return {k: p.grad.clone() for k, p in parameters(recipe).items() if p.grad is not None}


def numbers(result: StepResult) -> dict[str, float]:
    return {name: float(value) for name, value in result.terms.items()}


def run_rank(rank: int, folder: Path) -> None:
    """Train every stage on this rank's halves and leave behind what came of it."""
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=HANGS_S),
    )
    found: dict[str, Any] = {}
    for name in TABLE.STAGES:
        sys.stderr.write(f"{name}\n")  # where it ended, if it does
        recipe = make(name, wrap=DistributedDataParallel)
        results = [recipe.step(half(samples(), rank)) for samples in BATCHES.values()]
        found[name] = {
            "applied": [result.applied for result in results],
            "scores": recipe.validate([half(even(9), rank)]),
            "kept": dict(recipe.kept_model().state_dict()),
            "parameters": parameters(recipe),
        }
        for first in FIRST:
            fresh = make(name, wrap=DistributedDataParallel)
            result = fresh.step(half(BATCHES[first](), rank))
            found[name][first] = gradients(fresh), numbers(result)
        comparable = make(name, wrap=DistributedDataParallel, comparable=True)
        comparable.step(half(even(), rank))
        found[name]["comparable"] = gradients(comparable)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@every_stage
@pytest.mark.parametrize("samples", ["objects on both", *FIRST])
def test_every_trained_parameter_has_a_gradient_whatever_a_rank_is_given(
    name: str, samples: str
) -> None:
    """The reduction waits for all of them: one without would leave the other rank waiting."""
    for rank in range(2):
        recipe = make(name)
        recipe.step(half(BATCHES[samples](), rank))
        trained = {k for k, p in parameters(recipe).items() if p.requires_grad}
        assert gradients(recipe).keys() == trained


@pytest.mark.parametrize("network", sorted(set(MODELS) - {"joint", "edgeconnect"}))
def test_so_has_every_network_s_in_joint_training(network: str) -> None:
    for samples in ("objects on both", *FIRST):
        for rank in range(2):
            recipe = joint_of(network)
            recipe.step(half(BATCHES[samples](), rank))
            assert all(p.grad is not None for p in parameters(recipe).values() if p.requires_grad)


def joint_of(network: str) -> Recipe:
    changes = {
        "model.name": "joint",
        "model.inpainter": network,
        "model.segmenter_width": 4,
        "model.segmenter_depth": 2,
        "loss.terms": "l1+0.1*gan",
        "eval.select_metric": "removal_psnr",
    }
    return Recipe(TABLE.config("joint", **changes), device=torch.device("cpu"), total_steps=100)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, Any]]:
    """What two ranks made of every stage."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'data'}",
        "OMP_NUM_THREADS": "1",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=400)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [worker.returncode for worker in workers] == [0, 0], "\n\n".join(s[-2000:] for s in said)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@every_stage
def test_ranks_skip_together_and_keep_the_same_weights(
    ranks: list[Mapping[str, Any]], name: str
) -> None:
    """Also after halves without an object, without a hole, and not finite on one rank alone."""
    first, second = (rank[name] for rank in ranks)
    reads_no_target = name in ("labels", "segmentation")
    assert first["applied"] == [True, True, True, reads_no_target, True]
    assert second["applied"] == first["applied"]
    for what in ("kept", "parameters"):
        assert first[what].keys() == second[what].keys()
        for key, tensor in first[what].items():
            assert tensor.isfinite().all()
            assert torch.equal(tensor, second[what][key]), key
    assert first["scores"] == second["scores"]


@pytest.mark.slow
@every_stage
@pytest.mark.parametrize("samples", FIRST)
def test_ranks_learn_from_the_mean_of_what_their_halves_say(
    ranks: list[Mapping[str, Any]], name: str, samples: str
) -> None:
    """Each gradient once: neither lost nor doubled where a discriminator is asked, then trained."""
    halves = []
    for rank in range(2):
        recipe = make(name)
        result = recipe.step(half(BATCHES[samples](), rank))
        halves.append(gradients(recipe))
        assert ranks[rank][name][samples][1] == pytest.approx(numbers(result), rel=1e-4)
    mean = {key: (halves[0][key] + halves[1][key]) / 2 for key in halves[0]}
    for rank_found in ranks:
        assert_close(rank_found[name][samples][0], mean)


@pytest.mark.slow
@every_stage
def test_ranks_learn_what_one_process_learns_of_the_whole_batch(
    ranks: list[Mapping[str, Any]], name: str
) -> None:
    """But for what :func:`make` leaves out; objects are as large on both ranks."""
    recipe = make(name, comparable=True)
    recipe.step(even())
    assert_close(ranks[0][name]["comparable"], gradients(recipe))


def assert_close(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for owner in {key.partition("/")[0] for key in expected}:
        mine = [key for key in expected if key.startswith(f"{owner}/")]
        largest = max(float(expected[key].abs().max()) for key in mine)
        assert largest > 0
        for key in mine:
            assert torch.allclose(got[key], expected[key], rtol=1e-3, atol=1e-4 * largest), key


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
