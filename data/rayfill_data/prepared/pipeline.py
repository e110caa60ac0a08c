"""Prepare a dataset: a source's tasks are rendered by Ray Data and written as Parquet."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayfill_data.codec import encode_png
from rayfill_data.contract import ROW_SCHEMA, SCHEMA_VERSION, SPLITS, Manifest
from rayfill_data.errors import ConfigError, DatasetError, ImageError, RayfillError, redact_uri
from rayfill_data.extension import full_name
from rayfill_data.masks.hole import hole_ratio
from rayfill_data.prepared.reader import read_manifest
from rayfill_data.prepared.writer import DatasetWriter, check_replaceable, open_writer
from rayfill_data.progress import ProgressCallback, show_progress
from rayfill_data.sources import SourceSpec, find_source
from rayfill_data.sources.spec import SourcePlan, Task

#: Rows that travel from workers to the driver; a task that failed has a reason and no image.
_RESULT_SCHEMA = pa.schema(
    [pa.field(field.name, field.type) for field in ROW_SCHEMA]
    + [pa.field("path", pa.string()), pa.field("reason", pa.string())]
)

#: Blocks of tasks: at least this many, so that every core has work and progress can be shown...
_MIN_BLOCKS = 8
#: ...and each at most this large.
_BLOCK_TASKS = 256

_EXAMPLES_SHOWN = 3


def prepare(
    source_name: str,
    *,
    out: str,
    options: Any,
    seed: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Prepare a dataset and return its manifest; one that is already there is left untouched.

    The same inputs, options and seed give byte-identical rows. Runs in the Ray cluster this process
    is connected to; without one, in the cluster RAY_ADDRESS names or one of its own.

    Args:
        source_name: as for :func:`rayfill_data.sources.find_source`.
        out: local path or URI of the dataset.
        options: of the source's options type.
        seed: of everything drawn at random.
        overwrite: replace an older dataset at `out`.
        progress: called with (done, total); None shows progress on stderr.

    Raises:
        ConfigError: an unknown source, or options of another source.
        DatasetError: `out` cannot be used, the source is empty, or too many files are unusable.
    """
    spec = _spec_of(source_name, options)
    plan = spec.plan(options, seed)
    identity: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": full_name("source", source_name),
        "options": _plain(asdict(options)),
        "seed": seed,
        "inputs_hash": plan.inputs_hash,
    }
    if not overwrite:
        found = read_manifest(out)
        if found is not None and _same(found, identity, spec):
            return found
    check_replaceable(out, overwrite=overwrite)
    with open_writer(out) as writer:
        for what, why in plan.rejected:
            writer.reject(what, "", why)
        with _connected_ray(), _reporting(progress, source_name) as report:
            sizes = _render_all(plan, spec, options, seed, writer, report)
        writer.close()
        return _finished(writer, plan, identity, sizes)


def _finished(
    writer: DatasetWriter, plan: SourcePlan, identity: dict[str, Any], sizes: set[tuple[int, int]]
) -> Manifest:
    """Write the manifest of what was written, if it is complete."""
    height, width = sizes.pop() if len(sizes) == 1 else (0, 0)
    manifest = Manifest(
        **identity,
        height=height,
        width=width,
        versions=_versions(),
        labels=plan.labels,
        **writer.facts(),
    )
    _check_complete(manifest, planned={task.split for task in plan.tasks})
    writer.write_manifest(manifest)
    return manifest


def _same(found: Manifest, identity: dict[str, Any], spec: SourceSpec) -> bool:
    """Tell whether a dataset is the one asked for; options it does not know had their defaults."""
    defaults = {
        field.name: field.default
        for field in fields(spec.options_type)
        if field.default is not MISSING
    }
    options = _plain(defaults) | _plain(found.options)
    return options == identity["options"] and all(
        getattr(found, key) == value for key, value in identity.items() if key != "options"
    )


def _spec_of(source_name: str, options: Any) -> SourceSpec:
    """Look a source up and see that the options are its own."""
    spec = find_source(source_name)
    if not isinstance(options, spec.options_type):
        raise ConfigError(
            [
                f"Source {source_name!r} got {type(options).__name__}; it takes "
                f"{spec.options_type.__name__}."
            ]
        )
    return spec


def _located(spec: SourceSpec, options: Any) -> Any:
    """Return the options with absolute paths: a worker may run in another folder."""
    paths = {name: getattr(options, name) for name in spec.locations}
    absolute = {
        name: str(Path(path).expanduser().absolute())
        for name, path in paths.items()
        if path is not None and "://" not in path
    }
    return replace(options, **absolute)


class _Renderer:
    """Render a batch of tasks on a worker; runs in a Ray task."""

    def __init__(self, spec: SourceSpec, options: Any, seed: int) -> None:
        self.spec, self.options, self.seed = spec, options, seed

    def __call__(self, tasks: pa.Table) -> pa.Table:
        rows = [self._row(Task(**_tupled(task))) for task in tasks.to_pylist()]
        return pa.Table.from_pylist(rows, schema=_RESULT_SCHEMA)

    def _row(self, task: Task) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(_RESULT_SCHEMA.names)
        row |= {"sample_id": task.sample_id, "split": task.split, "path": task.path}
        try:
            sample = self.spec.render(task, self.options, self.seed)
        except (RayfillError, OSError) as error:
            return row | {"reason": _reason(error)}
        height, width = sample.image.shape[:2]
        row |= {"source_id": task.source_id, "height": height, "width": width}
        row["image"] = encode_png(sample.image)
        if sample.target is not None:
            row["target"] = encode_png(sample.target)
        if sample.hole_mask is not None:
            row["hole_mask"] = encode_png(sample.hole_mask)
            row["hole_ratio"] = hole_ratio(sample.hole_mask)
        if sample.labels is not None:
            row["labels"] = encode_png(sample.labels)
        if sample.target_labels is not None:
            row["target_labels"] = encode_png(sample.target_labels)
        return row


def _render_all(
    plan: SourcePlan,
    spec: SourceSpec,
    options: Any,
    seed: int,
    writer: DatasetWriter,
    report: ProgressCallback,
) -> set[tuple[int, int]]:
    """Run every task through Ray Data and hand the rows to the writer, in the plan's order.

    Returns:
        every (height, width) among the samples.
    """
    import ray.data

    total = len(plan.tasks)
    blocks = min(total, max(_MIN_BLOCKS, -(-total // _BLOCK_TASKS)))
    tasks = ray.data.from_items([asdict(task) for task in plan.tasks], override_num_blocks=blocks)
    tasks.context.execution_options.preserve_order = True
    tasks.context.enable_progress_bars = False
    rendered = tasks.map_batches(
        _Renderer(spec, _located(spec, options), seed).__call__,
        batch_size=None,
        batch_format="pyarrow",
    )
    done = rejected = 0
    listed: dict[tuple[str, str], None] = {}
    sizes: set[tuple[int, int]] = set()
    for batch in _results(rendered):
        for row in batch.to_pylist():
            path, reason = row.pop("path"), row.pop("reason")
            if reason is None:
                writer.add(row)
                sizes.add((row["height"], row["width"]))
                continue
            rejected += 1
            # Of a file that many samples were to be made of, one line says why there are none.
            if (path, reason) not in listed:
                listed[path, reason] = None
                writer.reject(path, row["split"], reason)
        done += len(batch)
        report(done, total)
    if rejected > (allowed := int(plan.max_rejected * total)):
        examples = " | ".join(": ".join(why) for why in itertools.islice(listed, _EXAMPLES_SHOWN))
        raise DatasetError(
            f"{rejected} of {total} samples cannot be made, {allowed} may be lost: {examples} "
            "Repair or remove these files, or raise --max-rejected (a share; 1 allows all) to go "
            "on without them and have them listed in rejected.jsonl."
        )
    return sizes


def _results(rendered: Any) -> Iterator[pa.Table]:
    """Execute a Ray dataset without its execution reports; ours are shown instead."""
    levels = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield from rendered.iter_batches(batch_size=None, batch_format="pyarrow")
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _check_complete(manifest: Manifest, *, planned: set[str]) -> None:
    """Refuse a dataset that lost every sample of a split it was to have."""
    if empty := [split for split in SPLITS if split in planned and not manifest.counts[split]]:
        raise DatasetError(
            f"No usable picture is left for {', '.join(empty)}: {manifest.rejected} were rejected. "
            "Add pictures, or repair the ones that cannot be read."
        )


def _reason(error: RayfillError | OSError) -> str:
    """Say why a file was rejected."""
    if isinstance(error, ImageError):
        return f"{error.code}: {error}"
    if isinstance(error, OSError):
        return f"unreadable: {error.strerror or type(error).__name__}."
    return str(error)


@contextmanager
def _connected_ray() -> Iterator[None]:
    """Use the Ray this process is connected to, or connect and disconnect again."""
    import ray

    if ray.is_initialized():
        yield
        return
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            "local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING
        )
    try:
        yield
    finally:
        ray.shutdown()


def _reporting(
    progress: ProgressCallback | None, source_name: str
) -> AbstractContextManager[ProgressCallback]:
    """Return the caller's progress callback, or one that shows progress itself."""
    return nullcontext(progress) if progress else show_progress(f"prepare {source_name}")


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a manifest has them: from JSON, and without credentials."""
    plain: dict[str, Any] = json.loads(redact_uri(json.dumps(options)))
    return plain


def _tupled(task: dict[str, Any]) -> dict[str, Any]:
    return task | {"donors": tuple(task["donors"])}


def _versions() -> dict[str, str]:
    """Return the versions of the libraries whose behaviour shows in the rows."""
    names = ("rayfill", "ray", "numpy", "opencv-python", "pillow", "pyarrow")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
