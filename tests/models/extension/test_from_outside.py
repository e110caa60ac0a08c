"""The package of docs/extending.md, driven as its user would, by processes of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from rayfill_data.prepared.reader import PreparedDataset

Python = Callable[..., subprocess.CompletedProcess[str]]

TINY = (
    "--train.epochs", "1", "--tracking.pictures", "0", "--model.extra", "channels", "3",
    "--loss.terms", "l1+0.1*mypkg.losses:brightness", "--scaling.use-gpu", "False",
)  # fmt: skip


def done(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.process
def test_check(python: Python, package: Path) -> None:
    said = done(python("models", "--check", "mypkg.nets:TwoScales", "--extra", "channels", "3"))
    assert "mypkg.nets:TwoScales {'channels': 3}" in said
    assert said.count("passed") == 9
    broken = (package / "mypkg" / "nets.py").read_text().replace("    stride = 2", "    #")
    (package / "mypkg" / "broken.py").write_text(broken)
    run = python("models", "--check", "mypkg.broken:TwoScales")
    assert run.returncode == 1
    rows = [line for line in run.stdout.splitlines() if "failed" in line]
    assert any("any size in" in row and "Sizes of tensors must match" in row for row in rows)


@pytest.mark.ray
@pytest.mark.slow
def test_prepare_train_and_erase(
    python: Python, package: Path, tmp_path: Path, marks: Callable[[], set[str]]
) -> None:
    data = tmp_path / "data"
    said = done(python("prepare", "mypkg.data:Gradients", "--count", "16", "--out", str(data)))
    assert "train 8 samples" in said
    assert PreparedDataset.open(str(data)).manifest.source == "mypkg.data:Gradients"
    assert len(marks()) >= 2  # the driver's process, and a worker's
    before = marks()
    # A script that knows the model by a short name; its folder, not PYTHONPATH, has the package.
    (package / "train.py").write_text(
        "import sys, mypkg.named\nfrom rayfill.cli.main import guarded\n"
        "from rayfill.cli.commands.train import main\n"
        "if __name__ == '__main__':\n    sys.exit(guarded(main, sys.argv[1:]))\n"
    )
    named = ("--data.uri", str(data), "--train.batch-size", "4", *TINY)
    script = str(package / "train.py")
    said = done(python("--model.name", "three_scales", *named, script=script, found=False))
    assert len(marks() - before) >= 2
    bundle = Path(said.rpartition("Model bundle: ")[2].strip())
    config = json.loads((bundle / "config.json").read_text())
    assert (config["model"], config["config"]) == (
        "mypkg.named:ThreeScales",
        {"channels": 3},
    )

    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    cv2.imwrite(str(photo), np.full((40, 51, 3), 90, np.uint8))
    cv2.imwrite(str(mask), np.pad(np.full((8, 8), 255, np.uint8), ((9, 23), (9, 34))))
    erase = ("erase", str(photo), "--mask", str(mask), "-o", str(tmp_path / "out.png"))
    before = marks()
    refused = python(*erase, "--model", str(bundle))
    assert refused.returncode == 2
    assert "--allow-modules mypkg, or RAYFILL_ALLOW_MODULES=mypkg" in refused.stderr
    absent = python(*erase, "--model", str(bundle), "--allow-modules", "mypkg", found=False)
    assert absent.returncode == 2
    assert "needs the module 'mypkg', which is not there: install its package" in absent.stderr
    assert marks() == before
    done(python(*erase, "--model", str(bundle), "--allow-modules", "mypkg"))
    assert cv2.imread(str(tmp_path / "out.png")).shape == (40, 51, 3)


@pytest.mark.slow
def test_train_by_the_place_of_definition(python: Python, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done(python("prepare", "mypkg.data:Gradients", "--count", "16", "--out", str(data)))
    name = ("--model.name", "mypkg.nets:TwoScales", "--train.batch-size", "4")
    said = done(python("train", "--data.uri", str(data), *name, *TINY))
    bundle = said.rpartition("Model bundle: ")[2].strip()
    allowed = {"RAYFILL_ALLOW_MODULES": "mypkg"}
    done(python("evaluate", "--data", str(data), "--model", bundle, "--model", "telea", **allowed))
    wrong = python("train", "--data.uri", str(data), *name, *TINY, "--model.extra", "chanels", "3")
    assert wrong.returncode == 2
    assert "Did you mean 'channels'?" in wrong.stderr
