"""What a user is told where memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import torch

from rayfill.config.run import DataConfig, RunConfig, TrainConfig
from rayfill.training import loop
from rayfill.training.loop import Runtime, run_training
from rayfill.training.memory import out_of_memory
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.reader import PreparedDataset

RUN = RunConfig(name="r", train=TrainConfig(batch_size=6))


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "of the GPU"),
        (MemoryError(), "of the machine"),
        (ray.exceptions.OutOfMemoryError("Task was killed due to the node"), "of the machine"),
    ],
)
def test_running_out_of_memory_names_a_smaller_batch(error: BaseException, where: str) -> None:
    told = out_of_memory(error, config=RUN)
    assert told is not None
    assert f"ran out of the memory {where} with train.batch_size 6: try 3" in str(told)


def test_other_errors_are_left_alone() -> None:
    assert out_of_memory(RuntimeError("shapes differ"), config=RUN) is None


def test_torch_really_says_so_and_a_run_ends_with_our_sentence(
    make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*args: Any, **kwargs: Any) -> Any:
        return torch.empty(2**60)  # an exbibyte: the allocator itself refuses

    out = str(make_dataset())
    monkeypatch.setattr(loop, "train_epoch", hungry)
    config = RunConfig(name="r", data=DataConfig(uri=out), train=TrainConfig(batch_size=6))
    runtime = Runtime(run_dir=str(tmp_path / "run"), device=torch.device("cpu"))
    with pytest.raises(RayfillError, match="try 3, or fewer runs"):
        run_training(config, dataset=PreparedDataset.open(out), runtime=runtime)
