from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rayfill.runs.checkpoint import Checkpoint, CheckpointStore


def make(step: int) -> Checkpoint:
    return Checkpoint(
        epoch=step // 10,
        step=step,
        weights={"network": {"w": torch.full((3,), float(step))}, "ema": {"w": torch.zeros(3)}},
        state={"optimizer": {"exp_avg": torch.ones(2)}, "random": torch.get_rng_state()},
        meta={"history": [{"epoch": 1, "val/psnr": 20.5}], "run_id": "abc"},
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    saved = make(10)
    store.save(saved)
    loaded, passed_over = store.latest()
    assert loaded is not None
    assert passed_over == ()
    assert (loaded.epoch, loaded.step, loaded.meta) == (1, 10, dict(saved.meta))
    assert torch.equal(loaded.weights["network"]["w"], saved.weights["network"]["w"])
    assert torch.equal(loaded.state["random"], saved.state["random"])


def test_newest_is_by_step_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    for step in (10, 30, 20, 40):  # a clock that jumps cannot matter: names are steps
        store.save(make(step))
    loaded, _ = store.latest()
    assert loaded is not None
    assert loaded.step == 40
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000030", "step-00000040"]


@pytest.mark.parametrize("file", ["network.safetensors", "state.pt", "meta.json", "manifest.json"])
def test_a_damaged_newest_falls_back_and_says_so(tmp_path: Path, file: str) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    store.save(make(10))
    store.save(make(20))
    victim = tmp_path / "step-00000020" / file
    victim.write_bytes(victim.read_bytes()[:-3])
    loaded, passed_over = store.latest()
    assert loaded is not None
    assert loaded.step == 10
    assert len(passed_over) == 1
    assert "step-00000020" in passed_over[0]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert CheckpointStore(str(tmp_path / "never"), keep=1).latest() == (None, ())
