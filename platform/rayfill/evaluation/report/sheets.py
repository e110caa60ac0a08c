"""The same test samples side by side for all systems: where the best does well, so-so and badly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rayfill.config.ranking import less_is_better
from rayfill.evaluation.leaderboard import FINISH, Entry
from rayfill.evaluation.report.contents import Comparison, with_unit
from rayfill.evaluation.systems import PATCHED, System, trained
from rayfill.inference.baselines import BASELINES
from rayfill.metrics import bucket_of
from rayfill.models import JointModel, composite
from rayfill.models.batch import to_device
from rayfill_data.codec import UInt8Array, to_uint8
from rayfill_data.errors import DatasetError, RayfillError, unknown_name
from rayfill_data.prepared.batches import evaluation_batches
from rayfill_data.sheet import SheetRow, Tile, draw_sheet, fitted, mark_hole

if TYPE_CHECKING:
    from rayfill_data.prepared.reader import SplitArrays

#: Which samples are shown, by how well the best system fills them.
KINDS = ("best", "median", "worst")

#: More pictures beside each other than these are no longer looked at.
MOST_SYSTEMS = 12
#: Of these, so many are kept for classical baselines.
_MOST_BASELINES = 4

#: The longest side of a picture that is shown.
TILE_PX = 160
_HOLE_COLOUR = (213, 94, 0)
_HOLE_OPACITY = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sheet:
    """Samples of one kind."""

    kind: str
    """One of :data:`KINDS`."""
    rows: Sequence[SheetRow]
    """A sample each, which its heading names: its input, the true picture, and what every system
    makes of it, as large as they were made."""


def choose_samples(
    values: NDArray[np.float64],
    *,
    hole_ratio: NDArray[np.floating],
    sample_id: Sequence[str],
    count: int,
) -> dict[str, list[int]]:
    """Return the indices of the best, median and worst samples, ``count`` of each.

    PSNR falls as holes grow, so the samples are taken from the buckets of hole ratios in turn:
    each gives its best (or median, or worst) before one gives its second. None is chosen twice;
    samples without a finite value are left out, perfect ones among them.

    Args:
        values: (N,) of the system that is ranked first, higher is better.
        hole_ratio: (N,) in [0, 1].
        sample_id: N names, which decide between equal values.
        count: of each kind; fewer where the split has fewer.
    """
    order = [int(i) for i in np.argsort(np.asarray(sample_id)) if np.isfinite(values[i])]
    order.sort(key=lambda index: -values[index])  # stable: equal ones stay sorted by name
    bucket_by_index = bucket_of(hole_ratio).tolist()
    buckets: dict[int, list[int]] = {}
    for index in order:
        buckets.setdefault(bucket_by_index[index], []).append(index)
    ranked = {
        kind: {bucket: _nearest(kind, members) for bucket, members in sorted(buckets.items())}
        for kind in KINDS
    }
    taken: set[int] = set()
    chosen: dict[str, list[int]] = {}
    for kind in ("best", "worst", "median"):
        chosen[kind] = _in_turn(ranked[kind], count=min(count, len(order) // 3 or 1), taken=taken)
    return {kind: chosen[kind] for kind in KINDS}


def _nearest(kind: str, members: list[int]) -> list[int]:
    """Return a bucket's samples, those first that are most like ``kind``."""
    if kind == "best":
        return members
    if kind == "worst":
        return members[::-1]
    middle = (len(members) - 1) / 2
    return [members[i] for i in sorted(range(len(members)), key=lambda i: (abs(i - middle), i))]


def _in_turn(buckets: Mapping[int, list[int]], *, count: int, taken: set[int]) -> list[int]:
    """Take ``count`` samples from the buckets in turn, spread over them; note them as taken."""
    names, last = list(buckets), len(buckets) - 1
    apart = [round((i + 0.5) * len(names) / count - 0.5) for i in range(min(count, len(names)))]
    first = [names[min(place, last)] for place in dict.fromkeys(apart)]
    names = [*first, *(name for name in names if name not in first)]
    found: list[tuple[int, int]] = []
    queues = {name: [index for index in buckets[name] if index not in taken] for name in names}
    while len(found) < count and any(queues.values()):
        for name in names:
            if queues[name] and len(found) < count:
                found.append((name, queues[name].pop(0)))
    taken.update(index for _, index in found)
    return [index for _, index in sorted(found, key=lambda pair: pair[0])]


def shown_systems(comparison: Comparison) -> tuple[list[Entry], list[str]]:
    """Return the entries that have pictures, best first, and the names of those left out.

    All of them up to :data:`MOST_SYSTEMS`; of more, the best runs and the best baselines.
    """
    ranked = comparison.board.ranked()
    baselines = [entry for entry in ranked if entry.kind == "baseline"][:_MOST_BASELINES]
    runs = [entry for entry in ranked if entry.kind != "baseline"]
    kept = {e.name for e in [*runs[: MOST_SYSTEMS - len(baselines)], *baselines]}
    if len(ranked) <= MOST_SYSTEMS:
        kept = {entry.name for entry in ranked}
    left_out = [entry.name for entry in ranked if entry.name not in kept]
    return [entry for entry in ranked if entry.name in kept], left_out


def draw_sheets(comparison: Comparison, *, arrays: SplitArrays, count: int) -> list[Sheet]:
    """Return the contact sheets of a comparison; none where nothing is ranked or all is perfect.

    Args:
        comparison: what is compared; its samples are those of ``arrays``.
        arrays: the test split.
        count: samples of each kind.

    Raises:
        DatasetError: the split does not hold the samples that were measured.
        RayfillError: a bundle that is gone or damaged.
    """
    metric = comparison.sample_metric
    best = comparison.best
    if best is None or metric not in comparison.measured[best.name].values:
        return []
    values = comparison.measured[best.name].values[metric]
    chosen = choose_samples(
        -values if less_is_better(metric) else values,
        hole_ratio=comparison.hole_ratio,
        sample_id=comparison.sample_id,
        count=count,
    )
    indices = [index for kind in KINDS for index in chosen[kind]]
    if not indices:
        return []
    rows = dict(zip(indices, _sheet_rows(comparison, indices=indices, arrays=arrays), strict=True))
    return [
        Sheet(kind=kind, rows=[rows[i] for i in chosen[kind]]) for kind in KINDS if chosen[kind]
    ]


def _sheet_rows(
    comparison: Comparison, *, indices: Sequence[int], arrays: SplitArrays
) -> list[SheetRow]:
    metric = comparison.sample_metric
    part = _subset(arrays, [comparison.sample_id[index] for index in indices])
    filled = {
        entry.name: composites(
            system(comparison, entry), arrays=part, removal=metric.startswith("removal_")
        )
        for entry in shown_systems(comparison)[0]
    }
    rows = []
    for place, index in enumerate(indices):
        made = [
            Tile(title=n, value=_value(comparison, n, metric, index), picture=pictures[place])
            for n, pictures in filled.items()
        ]
        tiles = [*_given(part, place), *made]
        rows.append(SheetRow(heading=comparison.sample_id[index], tiles=tiles))
    return rows


def _given(arrays: SplitArrays, index: int) -> list[Tile]:
    """Return what is known of a sample: its input, the hole marked, and the true picture."""
    marked = mark_hole(
        arrays.image[index], arrays.hole_mask[index], colour=_HOLE_COLOUR, opacity=_HOLE_OPACITY
    )
    hole = f"hole {100 * arrays.hole_ratio[index]:.0f} %"
    return [
        Tile(title="input", value=hole, picture=marked),
        Tile(title="true picture", value="", picture=arrays.target[index]),
    ]


def system(comparison: Comparison, entry: Entry) -> System:
    """Return the network of an entry, or the baseline.

    Raises:
        RayfillError: a bundle that cannot be used, or an unknown baseline.
    """
    patched = entry.kind == FINISH
    name = entry.name.removesuffix(PATCHED) if patched else entry.name
    if name in comparison.runs:
        (own,) = trained({name: comparison.runs[name].folder.bundle})
        return own.patched().opened() if patched else own.opened()
    if name not in BASELINES:
        raise RayfillError(unknown_name("baseline", name, BASELINES))
    return System(name=name, kind="baseline", source=name, model=BASELINES[name])


def composites(system: System, *, arrays: SplitArrays, removal: bool) -> UInt8Array:
    """Return the 8-bit pictures (N, H, W, 3) that a system is measured by.

    Args:
        system: network or baseline.
        arrays: samples with frozen holes.
        removal: let a joint network find the holes by itself, as ``removal_`` metrics do.
    """
    made = []
    with torch.inference_mode():
        for numpy_batch in evaluation_batches(arrays, batch_size=8):
            batch = to_device(numpy_batch, device=torch.device("cpu"))
            if removal and isinstance(system.model, JointModel):
                filled = system.remove(batch).composite
            else:
                prediction = system.fill(batch, batch.hole_mask)
                filled = composite(prediction, batch.image, batch.hole_mask)
            made += list(to_uint8(filled.float().clamp(0, 1).numpy()))
    return np.stack(made)


def render(sheet: Sheet) -> UInt8Array:
    """Return a sheet as one picture (H, W, 3): a row for each sample, a column for each system."""
    return draw_sheet(
        [
            SheetRow(
                heading=f"{sheet.kind}: {row.heading}",
                tiles=[
                    dataclasses.replace(tile, picture=fitted(tile.picture, side_px=TILE_PX))
                    for tile in row.tiles
                ],
            )
            for row in sheet.rows
        ]
    )


def _value(comparison: Comparison, name: str, metric: str, index: int) -> str:
    values = comparison.measured[name].values.get(metric)
    if values is None or np.isnan(values[index]):
        return "no value"
    return with_unit(float(values[index]), metric)


def _subset(arrays: SplitArrays, sample_id: Sequence[str]) -> SplitArrays:
    """Return some samples of a split, in the order asked for."""
    places = {name: index for index, name in enumerate(arrays.sample_id)}
    missing = [name for name in sample_id if name not in places]
    if missing:
        raise DatasetError(
            f"The test split has no sample {missing[0]!r}: it is not the one that was measured. "
            "Measure the runs again on this dataset, or restore the one they were measured on."
        )
    return arrays.take([places[name] for name in sample_id])
