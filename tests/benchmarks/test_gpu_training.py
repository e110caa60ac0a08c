"""The GPU benchmark's arithmetic, and that it needs no more than it says."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
ABSENT = ("ray", "mlflow", "pydantic", "tyro", "rich", "lpips", "pycocotools")

RUN = f"""
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.fixture(scope="module")
def module() -> ModuleType:
    path = ROOT / "benchmarks" / "gpu_training.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec = importlib.util.spec_from_file_location("gpu_training", path)
        loaded = importlib.util.module_from_spec(spec)
        sys.modules["gpu_training"] = loaded  # dataclasses look their module up
        spec.loader.exec_module(loaded)
    return loaded


def test_rates_are_those_of_the_median_step(module: ModuleType) -> None:
    run = module.summary([0.4, 0.1, 0.2, 9.0, 0.2], images=8, flops=4 * 10**12, ceiling=40.0)
    assert run["median_s"] == 0.2
    assert run["quartiles_s"] == [0.2, 0.4]
    assert run["images_per_s"] == pytest.approx(40)
    assert run["gflop_per_image"] == pytest.approx(500)
    assert run["tflops"] == pytest.approx(20)
    assert run["fraction_of_matmul"] == pytest.approx(0.5)


def test_warm_up_is_not_counted(module: ModuleType) -> None:
    calls = []
    timer = module.Timer(device=module.torch.device("cpu"), warm_up=3, count=5)
    assert len(timer.seconds(lambda: calls.append(1))) == 5
    assert len(calls) == 8


@pytest.mark.process
@pytest.mark.parametrize("preset", ["p1-unet", pytest.param("p4-phase-1", marks=pytest.mark.slow)])
def test_it_runs_small_on_a_cpu_without_ray_and_mlflow(preset: str) -> None:
    flags = f"--presets {preset} --modes eager --device cpu --precision fp32 --size 32 --batch 2"
    flags += " --warm-up 0 --steps 2 --matmul 64"
    script = str(ROOT / "benchmarks" / "gpu_training.py")
    roots = [ROOT / name for name in ("benchmarks", "platform", "data")]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            RUN,
            script,
            *flags.split(),
            "--modes",
            "eager",
            "--presets",
            preset,
        ],
        env={**os.environ, "PYTHONPATH": ":".join(map(str, roots)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (run,) = result["runs"]
    assert run["preset"] == preset
    if preset == "p1-unet":
        # Counted by hand for 256x256 pictures: three times 96.4 GFLOP, but for the first layer,
        # whose input needs no gradient.
        assert run["gflop_per_image"] * 64 == pytest.approx(289, rel=3e-3)
    assert run["applied"]
    assert math.isfinite(run["loss"])
    assert len(run["seconds"]) == 2
    assert run["images_per_s"] > 0
    assert all(value > 0 for value in result["ceilings"].values())
