"""A comparison as one page that needs nothing beside it: no network, no script, no other file."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from rayfill.evaluation.report import plots
from rayfill.evaluation.report.contents import (
    Comparison,
    interval,
    metric_name,
    unit,
    with_unit,
)
from rayfill.evaluation.report.sheets import TILE_PX, Sheet, shown_systems
from rayfill_data.codec import UInt8Array, encode_png
from rayfill_data.sheet import Tile, fitted

if TYPE_CHECKING:
    from jinja2 import Template


def page(comparison: Comparison, *, sheets: Sequence[Sheet]) -> str:
    """Return the page; whatever comes from a user is escaped.

    Args:
        comparison: what is shown.
        sheets: its contact sheets, if they could be drawn.
    """
    board = comparison.board
    _, left_out = shown_systems(comparison)
    return _template().render(
        board=board,
        verdict=comparison.verdict(),
        facts=_facts(comparison),
        rows=board.table().cells(),
        leads=_leads(comparison),
        metric=metric_name(comparison.sample_metric),
        unit=unit(comparison.sample_metric),
        plots=plots.pages(comparison),
        buckets=board.bucket_table() if comparison.best else None,
        sheets=[
            (
                sheet.kind,
                [(row, [_shown(tile) for tile in row.tiles]) for row in sheet.rows],
            )
            for sheet in sheets
        ],
        left_out=left_out,
        changed=comparison.changed(),
        unranked=comparison.unranked,
        faults=comparison.faults(),
        runs=list(comparison.runs.values()),
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what stands in large type above everything else, name and value."""
    board, best = comparison.board, comparison.best
    protocol = board.protocol
    scored = [
        (f"{metric_name(metric)}, best system", with_unit(best.table.total[metric].mean, metric))
        for metric in comparison.metrics
        if best and metric in best.table.total
    ]
    return [
        *scored[:2],
        ("systems", str(len(board.entries))),
        ("test samples", str(len(comparison.sample_id))),
        ("dataset", f"{protocol.get('dataset', '')} {protocol.get('dataset_hash', '')[:8]}"),
        ("size", protocol.get("size", "").replace("x", "×")),
    ]


def _leads(comparison: Comparison) -> dict[str, tuple[str, str, str]]:
    """Return how far the best is ahead of each system by name, over what, and what is in doubt."""
    metric = comparison.sample_metric
    return {
        other: (
            interval(leads[metric], metric),
            leads[metric].counted,
            comparison.doubt(other, metric),
        )
        for other, leads in comparison.leads.items()
        if metric in leads
    }


def _shown(tile: Tile) -> dict[str, Any]:
    height, width = fitted(tile.picture, side_px=TILE_PX).shape[:2]
    return {
        "title": tile.title,
        "value": tile.value,
        "source": _data_uri(tile.picture),
        "width": width,
        "height": height,
        "smooth": height < tile.picture.shape[0],
    }


def _data_uri(picture: UInt8Array) -> str:
    """Return a picture as it is, for the browser to enlarge, or a large one reduced."""
    reduced = fitted(picture, side_px=TILE_PX)
    if reduced.shape[0] >= picture.shape[0]:
        kind, content = "png", encode_png(picture)
    else:
        stream = io.BytesIO()
        Image.fromarray(reduced).save(stream, "JPEG", quality=90, subsampling=0)
        kind, content = "jpeg", stream.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
