"""Training steps of P1 and P4 on a GPU; prints JSON.

``PYTHONPATH=platform:data python benchmarks/gpu_training.py`` needs torch, torchvision, numpy,
OpenCV, pyarrow, safetensors and torchmetrics; neither Ray nor MLflow, nor Rayfill installed.

VGG16's weights are random, in a file that is named so: only time is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import facts
from perceptual import random_weights
from torch.utils.flop_counter import FlopCounterMode
from training_step import random_batch

from rayfill.config.presets import find_preset
from rayfill.config.run import RunConfig
from rayfill.losses import LOSSES, parse_loss
from rayfill.models.batch import TensorBatch
from rayfill.training.recipes import Recipe

#: Preset -> batch size of its report.
_BATCHES = {"p1-unet": 32, "p4-phase-1": 6}

_MODES = ("eager", "compiled")

_COPIED_BYTES = 2**30

Step = Callable[[], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timer:
    """Times steps on a device, by CUDA events on a GPU."""

    device: torch.device
    warm_up: int
    count: int

    def seconds(self, step: Step) -> list[float]:
        for _ in range(self.warm_up):
            step()
        if self.device.type != "cuda":
            return [_wall(step) for _ in range(self.count)]
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(self.count + 1)]
        torch.cuda.synchronize()
        marks[0].record()
        for mark in marks[1:]:
            step()
            mark.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in itertools.pairwise(marks)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--presets", nargs="+", default=list(_BATCHES), choices=list(_BATCHES))
    parser.add_argument("--modes", nargs="+", default=list(_MODES), choices=_MODES)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, pixels")
    parser.add_argument("--batch", type=int, help="pictures in a batch; default: the report's")
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--matmul", type=int, default=8192, help="side of the matrices")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    timer = Timer(device=device, warm_up=given.warm_up, count=given.steps)
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    result: dict[str, Any] = {
        "about": facts(("torch", "torchvision")),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": given.precision,
        "size_px": given.size,
        "ceilings": ceilings(given.matmul, dtype=dtype, timer=timer),
        "runs": [],
    }
    for preset in given.presets:
        batch = given.batch or _BATCHES[preset]
        for mode in given.modes:
            with tempfile.TemporaryDirectory() as folder:
                config = _config(preset, batch=batch, precision=given.precision, mode=mode)
                config = _with_random_weights(config, folder=Path(folder))
                recipe = Recipe(config, device=device, total_steps=10_000)
            data = _on(device, random_batch(batch, size=given.size))
            run = run_steps(recipe, data, ceiling=result["ceilings"]["matmul_tflops"], timer=timer)
            result["runs"].append({"preset": preset, "mode": mode, "batch": batch, **run})
    print(json.dumps(result, indent=1))
    return 0


def run_steps(
    recipe: Recipe, batch: TensorBatch, *, ceiling: float, timer: Timer
) -> dict[str, Any]:
    """Return time, work and memory of a recipe's steps; ``ceiling`` is in TFLOP/s."""
    # Before torch.compile makes kernels that a counter cannot see into.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        recipe.step(batch)
    on_gpu = timer.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = timer.seconds(lambda: recipe.step(batch))
    run = summary(
        seconds, images=len(batch.image), flops=counter.get_total_flops(), ceiling=ceiling
    )
    last = recipe.step(batch)
    run["loss"] = last.terms["loss"].item()
    run["applied"] = last.applied
    if on_gpu:
        run["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return run


def summary(seconds: Sequence[float], *, images: int, flops: int, ceiling: float) -> dict[str, Any]:
    """Return rates of the median step.

    Args:
        seconds: of every step.
        images: in a batch.
        flops: of a step, a multiply-add counting 2.
        ceiling: TFLOP/s of a matrix product on the same device.
    """
    median = statistics.median(seconds)
    tflops = flops / median / 1e12
    return {
        "median_s": median,
        "quartiles_s": statistics.quantiles(seconds, n=4, method="inclusive")[::2],
        "images_per_s": images / median,
        "gflop_per_image": flops / images / 1e9,
        "tflops": tflops,
        "fraction_of_matmul": tflops / ceiling,
        "seconds": list(seconds),
    }


def ceilings(side: int, *, dtype: torch.dtype, timer: Timer) -> dict[str, float]:
    """Return what the device reaches at a matrix product and at a copy, medians."""
    device = timer.device
    # Random, never zeros: those cost less power, and clocks rise.
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = statistics.median(timer.seconds(lambda: a @ b))
    size = _COPIED_BYTES if device.type == "cuda" else 2**20
    source = torch.randint(0, 255, (size,), device=device, dtype=torch.uint8)
    sink = torch.empty_like(source)
    copy = statistics.median(timer.seconds(lambda: sink.copy_(source)))
    return {"matmul_tflops": 2 * side**3 / product / 1e12, "copy_gb_per_s": 2 * size / copy / 1e9}


def _wall(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _config(preset: str, *, batch: int, precision: Any, mode: str) -> RunConfig:
    config = find_preset(preset).config
    train = dataclasses.replace(
        config.train, batch_size=batch, precision=precision, compile=mode == "compiled"
    )
    return dataclasses.replace(config, train=train)


def _with_random_weights(config: RunConfig, *, folder: Path) -> RunConfig:
    if not any(LOSSES[term].needs_features for term in parse_loss(config.loss.terms)):
        return config
    path = random_weights(config.loss.features, folder=folder)
    return dataclasses.replace(
        config, loss=dataclasses.replace(config.loss, weights_path=str(path))
    )


def _on(device: torch.device, batch: TensorBatch) -> TensorBatch:
    tensors = {name: getattr(batch, name).to(device) for name in ("image", "target", "hole_mask")}
    return dataclasses.replace(batch, **tensors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
