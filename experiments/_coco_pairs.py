"""What the experiments of report P2 share: their dataset, and its networks at full size."""

from __future__ import annotations

from typing import Any

from rayfill.config.run import DataConfig, EvalConfig, ModelConfig, RunConfig, TrainConfig


def prepare_command(size: int, *, repeats: int = 18) -> str:
    """Return the command that makes ``repeats`` pairs of every photo, ``size`` pixels wide."""
    return (
        "`rayfill prepare coco_pairs --images DIR --annotations instances.json "
        f"--size {size} --balance-ratios --repeats {repeats} --out data/cache/coco_pairs{size}`"
    )


def removal_run(name: str) -> RunConfig:
    """Return a run of an Attention U-Net on pairs, ranked by whole pictures."""
    return RunConfig(
        name=name,
        data=DataConfig(flip=True, color_jitter=0.1),
        model=ModelConfig(name="attention_unet"),
        train=TrainConfig(batch_size=16),
        eval=EvalConfig(select_metric="psnr"),
    )


#: EdgeConnect as report P2 trains it, batch 4 and its weights of all losses; the learning rate is
#: that of Nazeri et al. 2019 (arXiv:1901.00212).
EDGECONNECT: dict[str, Any] = {
    "model.width": 64,
    "model.hole_fill": "zero",
    "model.output": "direct",
    "loss.terms": "p2",
    "train.epochs": 50,
    "train.batch_size": 4,
    "train.learning_rate": 1e-4,
    "train.schedule": "constant",
    "train.warmup_steps": 0,
    "train.grad_clip_norm": 0.0,
    "train.ema_decay": 0.0,
}
