"""Measuring several systems on one split, and comparing them sample by sample."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rayfill.evaluation.finished_pictures import FinishedPictures, check_finished, read_finished
from rayfill.evaluation.leaderboard import COLUMNS, Entry, Leaderboard
from rayfill.evaluation.measure import Measured, MeasureOptions, merged, protocol
from rayfill.evaluation.result import Evaluation, differences_from
from rayfill.evaluation.systems import System
from rayfill.evaluation.work import Measurable, Work
from rayfill.metrics import FidMetric, LpipsMetric, ResidualObjectScore
from rayfill.models.batch import to_device
from rayfill_data.checks import Checked, Count
from rayfill_data.errors import ConfigError, DatasetError, RayfillError, redact_uri, unknown_name
from rayfill_data.prepared.batches import evaluation_batches
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays
from rayfill_data.progress import ProgressCallback, show_progress
from rayfill_data.sources.files import some

#: A batch where nobody says how many samples: 32 of 256x256 pixels, 8 of 512x512.
_BATCH_SAMPLES = 32
_BATCH_PIXELS = _BATCH_SAMPLES * 256 * 256

#: Shards of a split for each core: enough that no core waits long for the last one.
_SHARDS_PER_CORE = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Checked):
    """How systems are measured and compared."""

    batch_size: Count | None = None
    """Samples at a time; None: 32, and fewer where they have more than 256x256 pixels."""
    expand_px: int = 0
    """Give holes grown by so many pixels, or shrunk if below 0."""
    raw: bool = False
    """Measure pictures as systems answer, known pixels included, instead of composites."""
    allow_missing: bool = False
    """Where finished pictures are missing or cannot be used, measure all systems on the samples
    that all have."""
    num_workers: Count | None = None
    """Parts measured at a time. 1: all in this process. More: on Ray. None: in this process, and on
    all of a Ray cluster once the first parts say that more than a minute is left."""
    against: str | None = None
    """The system that all are compared with; None is the first."""
    rank_by: str = "hole_psnr"
    """Metric by which systems are ranked."""
    columns: tuple[str, ...] = ()
    """Metrics to show instead of the usual ones."""
    residual_object: ResidualObjectScore | None = None
    """Also measure what its segmenter still sees of the objects."""

    def relations(self) -> Iterator[str]:
        """Yield one sentence for every unknown metric."""
        for metric in (self.rank_by, *self.columns):
            if metric not in COLUMNS:
                yield unknown_name("metric", metric, COLUMNS)


def evaluate_systems(
    systems: Sequence[System],
    *,
    dataset: PreparedDataset,
    split: str = "test",
    options: EvaluateOptions = EvaluateOptions(),
    lpips: LpipsMetric | None = None,
    fid: FidMetric | None = None,
    notes: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Return what systems score on a split, and how sure their differences are.

    All are measured on the same samples. Values do not depend on where they are measured: they are
    those of :func:`rayfill.evaluation.measure.evaluate` with batches of the same size.

    Args:
        systems: What :func:`rayfill.evaluation.systems.open_systems` returned.
        dataset: A prepared dataset; its samples may have several sizes.
        split: One with frozen holes.
        options: How.
        lpips: Also measure LPIPS with this network.
        fid: Also measure FID with this network.
        notes: What the table is to say besides, a sentence each.
        progress: Called with samples done and in all; None shows progress on stderr.

    Raises:
        ConfigError: no systems, one to compare with that is none of them, or a metric to rank by
            that is not measured.
        DatasetError: a split without samples or frozen holes, or finished pictures that do not fit
            it, everything listed at once.
        RayfillError: a system that answers with values that are not finite, naming the sample; too
            few samples for an FID.
    """
    _check(systems, options=options, lpips=lpips, fid=fid)
    whole = dataset.load_by_size(split)
    _check_holes(whole, dataset=dataset, split=split)
    finished = _read_finished(systems, parts=whole)
    missing, amiss = check_finished(finished, allow_missing=options.allow_missing)
    parts = _without(whole, missing)
    _check_count(sum(map(len, parts)), fid=fid)
    batch_size = options.batch_size or _batch_size(parts)
    shards = [shard for part in parts for shard in _shards(part, batch_size=batch_size)]
    work = Work(
        systems=[_measurable(system, finished=finished) for system in systems],
        shards=shards,
        options=MeasureOptions(
            batch_size=batch_size,
            expand_px=options.expand_px,
            raw=options.raw,
            residual_object=options.residual_object,
        ),
        lpips=lpips,
        fid=fid,
    )
    measured, sample_id, hole_ratio = _measure(
        work, num_workers=options.num_workers, progress=progress
    )
    conditions = _conditions(dataset, split=split, options=options, lpips=lpips, fid=fid)
    if options.residual_object is not None:
        conditions["residual_object"] = _seen_before(options.residual_object, parts)
    if missing:
        conditions["samples"] = (
            f"{len(sample_id)} of {dataset.counts[split]}, those that all systems have"
        )
    against = options.against or systems[0].name
    return Evaluation(
        board=_board(
            systems, measured, options=options, conditions=conditions, notes=[*notes, *amiss]
        ),
        measured=measured,
        sample_id=sample_id,
        hole_ratio=hole_ratio,
        differences=list(differences_from(against, measured=measured)),
        left_out={name: one.missing for name, one in finished.items() if one.missing},
        sources={
            s.name: {"kind": s.kind, "source": redact_uri(s.source), **s.facts} for s in systems
        },
    )


def _measure(
    work: Work, *, num_workers: int | None, progress: ProgressCallback | None
) -> tuple[dict[str, Measured], tuple[str, ...], NDArray[np.float32]]:
    """Do the work; return what systems scored, sample ids and hole ratios in the split's order."""
    with contextlib.ExitStack() as stack:
        report = progress or stack.enter_context(show_progress("evaluate"))
        found = work.run(num_workers=num_workers, progress=report)
    samples = [sample for shard in work.shards for sample in shard.sample_id]
    order = np.argsort(np.asarray(samples, dtype=np.str_), kind="stable")
    sample_id = tuple(samples[index] for index in order)
    measured = {
        name: _in_order(
            merged(parts, lpips=work.lpips, fid=work.fid, residual=work.options.residual_object),
            order,
        )
        for name, parts in found.items()
    }
    _refuse_nan(measured, sample_id=sample_id)
    return measured, sample_id, np.concatenate([s.hole_ratio for s in work.shards])[order]


def _measurable(system: System, *, finished: Mapping[str, FinishedPictures]) -> Measurable:
    return Measurable(
        name=system.name,
        model=system.model,
        finished=finished.get(system.name),
        wants_gpu=system.kind == "model",
    )


def _board(
    systems: Sequence[System],
    measured: Mapping[str, Measured],
    *,
    options: EvaluateOptions,
    conditions: Mapping[str, str],
    notes: Sequence[str],
) -> Leaderboard:
    return Leaderboard(
        title=f"Systems on {conditions['dataset']}, {conditions['split']}",
        entries=[
            Entry(name=system.name, kind=system.kind, table=measured[system.name].table)
            for system in systems
        ],
        rank_by=options.rank_by,
        protocol=conditions,
        notes=notes,
        columns=options.columns,
        deviations=True,
    )


def _check(
    systems: Sequence[System],
    *,
    options: EvaluateOptions,
    lpips: LpipsMetric | None,
    fid: FidMetric | None,
) -> None:
    """Refuse what would be noticed only after everything has been measured."""
    names = [system.name for system in systems]
    problems = []
    if not names:
        problems.append("No systems: name at least one to measure.")
    if len(set(names)) < len(names):
        problems.append(f"Systems must have names of their own; got {', '.join(names)}.")
    if options.against is not None and options.against not in names:
        problems.append(unknown_name("system to compare with", options.against, names))
    given = {"lpips": lpips, "fid": fid, "residual_object": options.residual_object}
    for metric, measured in given.items():
        if options.rank_by == metric and measured is None:
            problems.append(f"rank_by is {metric!r}, which is not measured here; rank by another.")
    if problems:
        raise ConfigError(problems)


def _check_holes(parts: Sequence[SplitArrays], *, dataset: PreparedDataset, split: str) -> None:
    """Refuse a split that cannot be measured on."""
    if not sum(map(len, parts)):
        raise DatasetError(
            f"{dataset.uri}: split {split!r} holds no samples. Name another --split, or prepare "
            "pictures for testing with `rayfill prepare test_set`."
        )
    unfrozen = [
        sample
        for part in parts
        for sample, frozen in zip(part.sample_id, part.has_mask, strict=True)
        if not frozen
    ]
    if unfrozen:
        raise DatasetError(
            f"{dataset.uri}: {len(unfrozen)} samples of split {split!r} have no hole mask "
            f"({some(unfrozen)}), and every system needs the same holes. Measure on val or test."
        )


def _check_count(count: int, *, fid: FidMetric | None) -> None:
    if not count:
        raise DatasetError(
            "No sample is left that all systems have a picture of. Give pictures of the same "
            "samples, each of its sample's size."
        )
    if fid is not None and count < fid.min_samples:
        raise RayfillError(
            f"FID of {count} pictures; at least {fid.min_samples} are needed for a value that "
            "means something. Measure a larger split, or leave --fid out."
        )


def _read_finished(
    systems: Sequence[System], *, parts: Sequence[SplitArrays]
) -> dict[str, FinishedPictures]:
    """Return the pictures of every system that is a folder of them."""
    sizes = {
        sample: (int(part.image.shape[1]), int(part.image.shape[2]))
        for part in parts
        for sample in part.sample_id
    }
    sizes = dict(sorted(sizes.items()))
    return {
        system.name: read_finished(system.source, sizes=sizes)
        for system in systems
        if system.kind == "pictures"
    }


def _without(parts: Sequence[SplitArrays], missing: set[str]) -> list[SplitArrays]:
    """Return the parts without some samples, and no empty ones."""
    if not missing:
        return list(parts)
    kept = [
        part.take([row for row, sample in enumerate(part.sample_id) if sample not in missing])
        for part in parts
    ]
    return [part for part in kept if len(part)]


def _batch_size(parts: Sequence[SplitArrays]) -> int:
    largest = max(part.hole_mask[0].size for part in parts)
    return int(max(1, min(_BATCH_SAMPLES, _BATCH_PIXELS // largest)))


def _shards(part: SplitArrays, *, batch_size: int) -> list[SplitArrays]:
    """Cut a part into shards of whole batches."""
    batches = -(-len(part) // batch_size)
    wanted = _SHARDS_PER_CORE * (os.cpu_count() or 1)
    step = -(-batches // wanted) * batch_size
    return [
        part.take(range(start, min(start + step, len(part)))) for start in range(0, len(part), step)
    ]


def _in_order(measured: Measured, order: NDArray[np.intp]) -> Measured:
    values = {metric: of_samples[order] for metric, of_samples in measured.values.items()}
    return Measured(table=measured.table, values=values)


def _refuse_nan(measured: Mapping[str, Measured], *, sample_id: Sequence[str]) -> None:
    """Refuse values that are none where every sample has one."""
    for name, found in measured.items():
        for metric, values in found.values.items():
            if metric.startswith("hole_"):
                continue  # samples without a hole have none
            bad = [
                sample for sample, value in zip(sample_id, values, strict=True) if value != value
            ]
            if bad:
                raise RayfillError(
                    f"System {name!r} has no finite {metric} for {some(bad)}. Use another version "
                    "of it, or leave it out."
                )


def _seen_before(score: ResidualObjectScore, parts: Sequence[SplitArrays]) -> str:
    """Return how the residual-object score was measured, and what it is with nothing removed."""
    score.to("cpu").reset()
    for part in parts:
        for batch in evaluation_batches(part, batch_size=_batch_size([part])):
            photos = to_device(batch, device=torch.device("cpu"))
            score.update(photos.image, photos.object_mask)
    before = score.compute()["residual_object"]
    return (
        f"share of the object's pixels taken for {score.label_name!r} by {score.source}; "
        f"{before.mean:.4f} in the photos before removal (n = {before.n})"
    )


def _conditions(
    dataset: PreparedDataset,
    *,
    split: str,
    options: EvaluateOptions,
    lpips: LpipsMetric | None,
    fid: FidMetric | None,
) -> dict[str, str]:
    """Return what the table was measured under."""
    found = protocol(dataset, split=split, lpips_network=lpips.network if lpips else None)
    found["measured_on"] = (
        "8-bit pictures as systems answer, known pixels included, RGB, no crop"
        if options.raw
        else "8-bit composites: every system's hole in the known pixels as given; RGB, no crop"
    )
    if options.expand_px:
        found["masks"] += f", changed by {options.expand_px:+d} px for systems and composites"
    if fid is not None:
        found["fid"] = "Inception of 2015-12-05, composites against targets"
    return found
