"""Measuring several systems on one split, and comparing them sample by sample.

Values do not depend on where they are measured, nor scores on how samples are shared out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from rayfill.config.ranking import needs_lpips
from rayfill.config.run import EvalConfig
from rayfill.evaluation.finished_pictures import check_finished, read_finished
from rayfill.evaluation.leaderboard import COLUMNS, Entry, Leaderboard, protocol
from rayfill.evaluation.result import Evaluation
from rayfill.evaluation.samples import batch_size, in_order, load_samples, shards, without
from rayfill.evaluation.systems import System, open_systems
from rayfill.evaluation.work import Conditions, Work
from rayfill.metrics import FidMetric, LpipsMetric, ResidualObjectScore, lpips_available
from rayfill.metrics.aggregate import WITHOUT_TRUTH, Measured
from rayfill.models.batch import to_device
from rayfill_data.checks import Checked, Count
from rayfill_data.errors import ConfigError, DatasetError, RayfillError, unknown_name
from rayfill_data.prepared.batches import evaluation_batches
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays
from rayfill_data.progress import show_progress

_NO_TRUTH = (
    "These pictures have no truth to compare with: measured is how well what was filled goes with "
    "what surrounds it (coherence; sharpness next to the ring around the hole), not whether it is "
    "right. A picture of the right texture without sense scores well."
)


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
    allow_broken: bool = False
    """Leave systems out that answer with values that are not finite, and say so."""
    num_workers: Count | None = None
    """Parts measured at a time. 1: all in this process. More: on Ray. None: in this process, and on
    all of a Ray cluster once the first parts say that more than a minute is left; if one is
    connected, more than ten seconds."""
    with_patches: bool = False
    """Measure every network a second time, with patches of the photograph over its answer."""
    against: str | None = None
    """The system that all are compared with; None is the first."""
    rank_by: str | None = None
    """Metric by which systems are ranked; None: PSNR in the hole, without truth coherence."""
    columns: tuple[str, ...] = ()
    """Metrics to show instead of the usual ones."""
    fid: FidMetric | None = None
    """Also measure FID with this network."""
    residual_object: ResidualObjectScore | None = None
    """Also measure what its segmenter still sees of the objects."""

    def ranked_by(self, *, truth: bool) -> str:
        """Return the metric by which systems are ranked, on pictures with truth or without."""
        return self.rank_by or ("hole_psnr" if truth else "coherence")

    def relations(self) -> Iterator[str]:
        """Yield one sentence for every unknown metric."""
        for metric in (self.rank_by, *self.columns):
            if metric is not None and metric not in COLUMNS:
                yield unknown_name("metric", metric, COLUMNS)


def evaluate(
    references: Sequence[str | System],
    *,
    data: str | PreparedDataset,
    split: str = "test",
    lpips: EvalConfig | LpipsMetric | None = None,
    tracking_uri: str | None = None,
    **options: Any,
) -> Evaluation:
    """Return what systems score on the same samples, and how sure their differences are.

    Args:
        references: What to measure, as :mod:`rayfill.runs.references` says, or opened already.
        data: A prepared dataset, or its folder or URI; its samples may have several sizes.
        split: One with frozen holes: ``val`` or ``test``.
        lpips: Which LPIPS network, or the metric itself; None measures none.
        tracking_uri: MLflow store of registry and runs; None as for training.
        **options: Of :class:`EvaluateOptions`.

    Raises:
        ConfigError: references that name nothing, and options that cannot be used.
        DatasetError: a split without samples or frozen holes, or pictures that do not fit it.
        NotFiniteError: a system that answers with values that are not finite, naming the samples.
        RayfillError: too few samples for an FID.
    """
    asked = _options(options)
    systems = _opened(references, tracking_uri=tracking_uri, with_patches=asked.with_patches)
    dataset = PreparedDataset.open(data) if isinstance(data, str) else data
    truth = dataset.has_truth
    network, note = _lpips(lpips, truth=truth)
    _check(systems, options=asked, lpips=network, truth=truth)
    parts = load_samples(dataset, split=split)
    systems = _with_pictures(systems, parts=parts)
    finished = {system.name: system.finished for system in systems if system.finished}
    missing, amiss = check_finished(finished, allow_missing=asked.allow_missing)
    parts = without(parts, missing)
    measured, refused = _measure(systems, parts=parts, options=asked, lpips=network, truth=truth)
    conditions = _conditions(dataset, split=split, options=asked, lpips=network, parts=parts)
    notes = [note, *amiss, *refused.values()]
    samples = in_order(parts)
    return Evaluation(
        board=_board(systems, measured, options=asked, conditions=conditions, notes=notes),
        measured=measured,
        sample_id=samples.sample_id,
        hole_ratio=samples.hole_ratio,
        against=asked.against if asked.against in measured else next(iter(measured)),
        refused=refused,
        left_out={name: one.missing for name, one in finished.items() if one.missing},
        sources={system.name: system.described() for system in systems},
    )


def _opened(
    references: Sequence[str | System], *, tracking_uri: str | None, with_patches: bool
) -> list[System]:
    systems = open_systems(references, tracking_uri=tracking_uri)
    patched = [system.patched() for system in systems if system.kind == "model"]
    return systems + patched if with_patches else systems


def _options(given: Mapping[str, Any]) -> EvaluateOptions:
    known = [field.name for field in dataclasses.fields(EvaluateOptions)]
    if unknown := [key for key in given if key not in known]:
        raise ConfigError([unknown_name("option", key, known) for key in unknown])
    return EvaluateOptions(**given)


def _lpips(
    asked: EvalConfig | LpipsMetric | None, *, truth: bool
) -> tuple[LpipsMetric | None, str]:
    """Return the LPIPS metric, if any, and a note on what is not measured, which may be empty."""
    if not truth:
        return None, _NO_TRUTH
    return lpips_if_available(asked) if isinstance(asked, EvalConfig) else (asked, "")


def lpips_if_available(config: EvalConfig) -> tuple[LpipsMetric | None, str]:
    """Return the LPIPS metric, or None and why it is left out of the table."""
    found = lpips_available(config.lpips_network, weights_path=config.lpips_weights_path)
    if not found.ok:
        return None, f"LPIPS is not measured: {found.reason}. {found.how_to_get}"
    return LpipsMetric(config.lpips_network, weights_path=config.lpips_weights_path), ""


def _measure(
    systems: Sequence[System],
    *,
    parts: Sequence[SplitArrays],
    options: EvaluateOptions,
    lpips: LpipsMetric | None,
    truth: bool,
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Return what systems scored, in the split's order, and why others are refused."""
    _check_count(sum(map(len, parts)), fid=options.fid)
    at_a_time = options.batch_size or batch_size(parts)
    work = Work(
        systems=systems,
        shards=[shard for part in parts for shard in shards(part, batch_size=at_a_time)],
        conditions=Conditions(
            batch_size=at_a_time,
            expand_px=options.expand_px,
            raw=options.raw,
            truth=truth,
            lpips=lpips,
            fid=options.fid,
            residual_object=options.residual_object,
        ),
    )
    with show_progress("evaluate") as progress:
        found, refused = work.run(
            num_workers=options.num_workers, allow_broken=options.allow_broken, progress=progress
        )
    samples = in_order(parts)
    measured = {
        name: dataclasses.replace(
            one,
            values={metric: values[samples.order] for metric, values in one.values.items()},
            source_id=samples.source_id,
        )
        for name, one in found.items()
    }
    return measured, refused


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
            if system.name in measured
        ],
        rank_by=options.ranked_by(truth="psnr" in conditions),
        protocol=conditions,
        notes=[note for note in notes if note],
        columns=options.columns,
        deviations=True,
    )


def _check(
    systems: Sequence[System],
    *,
    options: EvaluateOptions,
    lpips: LpipsMetric | None,
    truth: bool,
) -> None:
    """Refuse what would be noticed only after everything has been measured."""
    names = [system.name for system in systems]
    problems = []
    if not names:
        problems.append("No systems: name at least one to measure.")
    if options.against is not None and options.against not in names:
        problems.append(unknown_name("system to compare with", options.against, names))
    if options.fid is not None and not truth:
        problems.append("FID compares with true pictures, which this dataset has none of.")
    given = {"fid": options.fid, "residual_object": options.residual_object}
    absent = [metric for metric, measured in given.items() if measured is None]
    absent += [metric for metric in COLUMNS if needs_lpips(metric) and lpips is None]
    without = {*WITHOUT_TRUTH, "residual_object"}
    absent += ["ring_sharpness"] if truth else [m for m in COLUMNS if m not in without]
    if (rank_by := options.ranked_by(truth=truth)) in absent:
        problems.append(f"rank_by is {rank_by!r}, which is not measured here; rank by another.")
    if problems:
        raise ConfigError(problems)


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


def _with_pictures(systems: Sequence[System], *, parts: Sequence[SplitArrays]) -> list[System]:
    """Return the systems, those that are folders of finished pictures with all of these."""
    sizes = {
        sample: (int(part.image.shape[1]), int(part.image.shape[2]))
        for part in parts
        for sample in part.sample_id
    }
    sizes = dict(sorted(sizes.items()))
    return [
        dataclasses.replace(system, finished=read_finished(system.source, sizes=sizes))
        if system.kind == "pictures"
        else system
        for system in systems
    ]


def _seen_before(score: ResidualObjectScore, parts: Sequence[SplitArrays]) -> str:
    """Return how the residual-object score was measured, and what it is with nothing removed."""
    score.to("cpu").reset()
    for part in parts:
        for batch in evaluation_batches(part, batch_size=batch_size([part])):
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
    parts: Sequence[SplitArrays],
) -> dict[str, str]:
    """Return what the table was measured under."""
    found = protocol(
        dataset,
        split=split,
        lpips_network=lpips.network if lpips else None,
        truth=dataset.has_truth,
    )
    found["measured_on"] = (
        "8-bit pictures as systems answer, known pixels included, RGB, no crop"
        if options.raw
        else "8-bit composites: every system's hole in the known pixels as given; RGB, no crop"
    )
    if options.expand_px:
        found["masks"] += f", changed by {options.expand_px:+d} px for systems and composites"
    if options.fid is not None:
        found["fid"] = "Inception of 2015-12-05, composites against targets"
    if options.residual_object is not None:
        found["residual_object"] = _seen_before(options.residual_object, parts)
    count, every = sum(map(len, parts)), dataset.counts[split]
    if count < every:
        found["samples"] = f"{count} of {every}, those that all systems have"
    return found
