"""Measuring whatever references name, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rayfill.config.run import EvalConfig
from rayfill.evaluation.evaluate import EvaluateOptions, evaluate_systems
from rayfill.evaluation.evaluate_all import lpips_if_available
from rayfill.evaluation.result import Evaluation
from rayfill.evaluation.systems import open_systems
from rayfill_data.prepared.reader import PreparedDataset


def evaluate(
    references: Sequence[str],
    *,
    data: str | PreparedDataset,
    split: str = "test",
    lpips: EvalConfig | None = None,
    tracking_uri: str | None = None,
    **options: Any,
) -> Evaluation:
    """Return what systems score on the same samples, and how sure their differences are.

    Args:
        references: Baselines, models and folders of finished pictures
            (:mod:`rayfill.runs.references`), each also as ``LABEL=VALUE``.
        data: A prepared dataset, or its folder or URI.
        split: One with frozen holes: ``val`` or ``test``.
        lpips: Which LPIPS network; None measures none.
        tracking_uri: MLflow store of registry and runs; None as for training.
        **options: Of :class:`rayfill.evaluation.evaluate.EvaluateOptions`.

    Raises:
        ConfigError: references that name nothing, and options that cannot be used.
        RayfillError: as :func:`rayfill.evaluation.evaluate.evaluate_systems`.
    """
    network, note = lpips_if_available(lpips) if lpips else (None, "")
    return evaluate_systems(
        open_systems(references, tracking_uri=tracking_uri),
        dataset=PreparedDataset.open(data) if isinstance(data, str) else data,
        split=split,
        options=dataclasses.replace(EvaluateOptions(), **options),
        lpips=network,
        notes=[note] if note else [],
    )
