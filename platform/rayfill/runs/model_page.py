"""What the pages of a registered model and of its versions say in MLflow, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rayfill.runs.table import Column, Table

_HEAD = "Inpainting models trained by Rayfill."
#: How registered models began before they told their history.
_OLDER = ("", "Models trained by Rayfill.")

#: Metrics that are tags of a version, one each, for MLflow's table.
_TAGGED = (
    "hole_psnr", "hole_ssim", "psnr", "ssim", "lpips", "coherence", "sharpness", "removal_psnr",
    "removal_ssim", "iou",
)  # fmt: skip
_VAL = "val_"

#: MLflow takes 5000 characters a tag; the newest promotions are kept.
_KEPT, _SHOWN, _REASON_CHARS = 15, 10, 150


def score_tags(scores: Mapping[str, float]) -> dict[str, str]:
    """Return the main scores as tags, such as ``test_hole_psnr: 23.54``."""
    main = {f"test_{name}": scores[name] for name in _TAGGED if name in scores}
    main |= {name: value for name, value in scores.items() if name.startswith(_VAL)}
    return {name: f"{value:.4g}" for name, value in main.items()}


def describe_version(
    *, name: str, scores: Mapping[str, float], protocol: Mapping[str, str], run: Any
) -> str:
    """Return what a version is, what it scored and under which conditions, and how to use it.

    Args:
        name: Of the registered model.
        scores: On the test split by metric; on the validation split as ``val_...``.
        protocol: What the scores were measured under.
        run: MLflow's run that trained it.
    """
    tags, info = run.data.tags, run.info
    network = tags.get("rayfill.model", "A network")
    # The table of versions shows how this begins, as it is written: without Markdown.
    loss = f", loss {tags['rayfill.loss']}" if "rayfill.loss" in tags else ""
    sweep = f" of sweep **{tags['rayfill.sweep']}**" if "rayfill.sweep" in tags else ""
    link = f"[{info.run_name}](#/experiments/{info.experiment_id}/runs/{info.run_id})"
    table = Table(
        columns=["score", Column("", right=True, format=".4g")], rows=list(scores.items())
    )
    conditions = "".join(f"- {key}: {value}\n" for key, value in protocol.items())
    where = f"- folder: {tags['rayfill.dataset']}\n" if "rayfill.dataset" in tags else ""
    return (
        f"{network}{loss}, from run {link}{sweep}.\n\n"
        f"{table.markdown()}\n"
        f"Measured under:\n\n{conditions}{where}\n"
        f"Serve the champion of this name:\n\n```\nrayfill serve --models {name}@champion\n```\n"
    )


def add_promotion(history: str, promotion: Mapping[str, str]) -> str:
    """Return the history of promotions, as a tag holds it, with one more, newest first."""
    short = {**promotion, "because": promotion["because"][:_REASON_CHARS]}
    return json.dumps([short, *read_history(history)][:_KEPT])


def read_history(history: str) -> list[dict[str, str]]:
    """Return the promotions of :func:`add_promotion`, newest first."""
    promotions: list[dict[str, str]] = json.loads(history or "[]")
    return promotions


def describe_model(name: str, history: Sequence[Mapping[str, str]], *, present: str) -> str:
    """Return what a registered model is and who was champion since when, and why.

    Args:
        name: Of the registered model.
        history: Promotions, newest first.
        present: The description as it is: one that somebody else wrote is left alone.
    """
    if present not in _OLDER and not present.startswith(_HEAD):
        return present
    table = Table(
        columns=["when", "alias", *(Column(t, right=True) for t in ("version", "before")), "why"],
        rows=[
            [one["at"], one["alias"], one["version"], one["from"] or "none", one["because"]]
            for one in history[:_SHOWN]
        ],
    )
    return (
        f"{_HEAD} Serve the champion with `rayfill serve --models {name}@champion`; move the "
        f"alias with `rayfill promote VERSION --model {name} --reason ...`.\n\n"
        + (table.markdown() if table.rows else "")
    )
