"""Measure Rayfill against plain code: ``python benchmarks/run.py [--only NAME]``.

Takes about ten minutes on two cores that do nothing else. Every theme writes a table and its raw
figures as ``THEME_HARDWARE_DATE.md`` and ``.json``.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Literal

# Before torch is imported, here and in the processes started from here: one thread each.
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import data_feed
import metrics_ssim
import partial_conv
import perceptual
import selection
import serving
import torch
import training_step
import trial_overhead
import tyro
from harness import facts, hardware_slug, markdown, measure, write_results

THEMES = {
    "metrics_ssim": metrics_ssim.THEME,
    "training_step": training_step.THEME,
    "partial_conv": partial_conv.THEME,
    "perceptual": perceptual.THEME,
    "data_feed": data_feed.THEME,
    "serving": serving.THEME,
    "selection": selection.THEME,
    "trial_overhead": trial_overhead.THEME,
}
ThemeName = Literal[
    "metrics_ssim",
    "training_step",
    "partial_conv",
    "perceptual",
    "data_feed",
    "serving",
    "selection",
    "trial_overhead",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measure Rayfill against plain code doing the same work."""

    only: tuple[ThemeName, ...] = ()
    """Themes to measure; none is all."""
    out: Path = Path(__file__).parent / "results"
    """Folder for the results."""
    rounds: int | None = None
    """Rounds of every case, to try things out; None is each theme's own number."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in options.only or THEMES:
        theme = THEMES[name]
        about = facts(theme.libraries)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results = [measure(case, rounds=options.rounds) for case in theme.cases(Path(folder))]
        stem = options.out / f"{name}_{hardware_slug()}_{about['date']}"
        write_results(theme, results, about=about, stem=stem)
        print(markdown(theme, results, about=about))
        print(f"({time.monotonic() - started:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
