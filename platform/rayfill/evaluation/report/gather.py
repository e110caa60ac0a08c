"""Everything a comparison needs, read from the folders of runs, or measured where it is missing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rayfill.config.ranking import best_of
from rayfill.config.run import EvalConfig, RunConfig, flatten, from_dict
from rayfill.evaluation.evaluate import evaluate, lpips_if_available
from rayfill.evaluation.leaderboard import (
    COLUMNS,
    FINISH,
    Entry,
    Leaderboard,
    ReportRow,
    protocol,
)
from rayfill.evaluation.report.contents import Comparison, Run
from rayfill.evaluation.report.found import Asked, FoundRun, Unranked
from rayfill.evaluation.report.results import (
    Results,
    journalled_run,
    read_config,
    read_results,
    why_no_metrics,
)
from rayfill.evaluation.systems import PATCHED, trained
from rayfill.metrics import LpipsMetric
from rayfill.metrics.aggregate import Measured
from rayfill.runs.sweep_folder import WINNER, SweepFolder
from rayfill_data.errors import ConfigError, RayfillError, unknown_name
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays

#: What must be equal for two numbers to stand in one ranking.
PROTOCOL_KEYS = (
    "dataset_hash", "split", "size", "masks", "measured_on", "psnr", "ssim", "hole_metrics",
    "lpips",
)  # fmt: skip
_NOT_MEASURED = "not measured"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _System:
    """One system as it is found, with the protocol of its numbers."""

    entry: Entry
    measured: Measured
    sample_id: tuple[str, ...]
    hole_ratio: NDArray[np.floating]
    protocol: Mapping[str, str]
    rank_by: str
    dataset: str
    run: Run | None = None
    """None for a baseline, and for a run with patches over its answers."""


def gather(
    asked: Asked, *, title: str = "", rank_by: str | None = None, apart: bool = False
) -> list[Comparison]:
    """Return the comparison of what was asked for, or one for each protocol.

    A sweep's own measurements are used where it wrote them down; other runs are measured on the
    test split of the dataset they were trained on.

    Args:
        asked: the runs.
        title: of the report; empty takes the sweep's or says how many runs there are.
        rank_by: metric to rank by; None is the one that the runs were selected by.
        apart: make a comparison for each protocol instead of refusing several.

    Raises:
        ConfigError: an unknown metric, or runs measured under several protocols, with what differs.
        RayfillError: no run can be ranked, with the reason of each.
    """
    if rank_by is not None and rank_by not in COLUMNS:
        raise ConfigError([unknown_name("metric", rank_by, COLUMNS)])
    systems, unranked = _Gathering(asked, rank_by=rank_by).run()
    if not systems:
        reasons = "".join(f"\n  {run.name}: {run.reason}" for run in unranked)
        raise RayfillError(f"None of these runs has metrics on a test split:{reasons}")
    groups = _by_protocol(systems)
    if len(groups) > 1 and not apart:
        raise ConfigError([_what_differs(groups)])
    return [
        _comparison(
            group,
            asked=asked,
            title=title or _title(asked, group),
            unranked=unranked if number == 0 else (),
        )
        for number, group in enumerate(groups)
    ]


class _Gathering:
    """Reads each sweep and measures on each dataset once."""

    def __init__(self, asked: Asked, *, rank_by: str | None) -> None:
        self._asked = asked
        self._rank_by = rank_by
        self._sweeps: dict[SweepFolder, Results | None] = {}
        self._lpips: dict[EvalConfig, LpipsMetric | None] = {}
        self._unranked = list(asked.unranked)

    def run(self) -> tuple[list[_System], list[Unranked]]:
        systems = []
        for found in self._asked.runs:
            try:
                systems.append(self._system(found))
            except RayfillError as error:
                self._unranked.append(Unranked(name=found.label, reason=str(error)))
        for sweep in self._asked.whole:
            systems += self._baselines(sweep, beside=systems)
        return systems, self._unranked

    def _system(self, found: FoundRun) -> _System:
        history = found.folder.history()
        config = read_config(found)
        recorded = self._recorded(found.sweep) if found.sweep else None
        run = Run(
            name=found.label,
            params={key: str(value) for key, value in flatten(config).items()},
            history=history,
            folder=found.folder,
            run_id=found.run_id or journalled_run(found),
        )
        if recorded and found.name in recorded.measured:
            entry = next(e for e in recorded.board.entries if e.name == found.name)
            return _System(
                entry=dataclasses.replace(
                    entry,
                    name=found.label,
                    # The sweep's own is of the metric that it was ranked by.
                    val_score=_best_validation(run, self._rank_by)
                    if self._rank_by
                    else entry.val_score,
                ),
                measured=recorded.measured[found.name],
                sample_id=recorded.sample_id[found.name],
                hole_ratio=recorded.hole_ratio[found.name],
                protocol=recorded.board.protocol,
                rank_by=self._rank_by or recorded.board.rank_by,
                dataset=str(config["data"]["uri"]),
                run=run,
            )
        if found.folder.bundle_config() is None:
            raise RayfillError(why_no_metrics(found))
        return self._measure(found, run=run, config=from_dict(RunConfig, config))

    def _measure(self, found: FoundRun, *, run: Run, config: RunConfig) -> _System:
        if config.train.stage == "segmentation":
            raise RayfillError("it finds objects and fills nothing, so it has no pictures to rank.")
        dataset = PreparedDataset.open(config.data.uri)
        if config.eval not in self._lpips:  # asking takes seconds without a connection
            self._lpips[config.eval] = lpips_if_available(config.eval)[0]
        lpips = self._lpips[config.eval]
        network = lpips.network if lpips else None
        evaluation = evaluate(trained({run.name: run.folder.bundle}), data=dataset, lpips=lpips)
        measured = evaluation.measured[run.name]
        rank_by = self._rank_by or config.eval.select_metric
        kind = "winner" if found.name.startswith(WINNER) else "trial"
        return _System(
            entry=Entry(
                name=run.name,
                kind=kind if found.sweep else "run",
                table=measured.table,
                epochs=f"{len(run.history)}/{config.train.epochs}",
                val_score=_best_validation(run, rank_by),
            ),
            measured=measured,
            sample_id=evaluation.sample_id,
            hole_ratio=evaluation.hole_ratio,
            protocol=protocol(dataset, split="test", lpips_network=network),
            rank_by=rank_by,
            dataset=config.data.uri,
            run=run,
        )

    def _baselines(self, sweep: SweepFolder, *, beside: Sequence[_System]) -> list[_System]:
        """Return a sweep's baselines, each once for the same samples and holes, and its finish."""
        recorded = self._recorded(sweep)
        own = [s for s in beside if s.run and s.run.folder.parent == sweep.uri]
        if recorded is None or not own:
            return []
        known = {(s.entry.name, s.protocol["dataset_hash"]) for s in beside}
        # Runs of several sweeps may be shown under other names than their sweep gave them.
        shown = {s.run.folder.name + PATCHED: s.entry.name + PATCHED for s in own if s.run}
        return [
            dataclasses.replace(
                own[0],
                entry=dataclasses.replace(entry, name=shown.get(entry.name, entry.name)),
                measured=recorded.measured[entry.name],
                sample_id=recorded.sample_id[entry.name],
                hole_ratio=recorded.hole_ratio[entry.name],
                run=None,
            )
            for entry in recorded.board.entries
            if (entry.kind == "baseline" or (entry.kind == FINISH and entry.name in shown))
            and entry.name in recorded.measured
            and (entry.name, recorded.board.protocol["dataset_hash"]) not in known
        ]

    def _recorded(self, sweep: SweepFolder) -> Results | None:
        if sweep not in self._sweeps:
            self._sweeps[sweep] = read_results(sweep)
        return self._sweeps[sweep]


@functools.lru_cache(maxsize=2)
def load_test(uri: str) -> tuple[PreparedDataset, SplitArrays]:
    """Return a dataset and its test split, the last two of them from memory.

    Raises:
        DatasetError: it is not there, or damaged.
    """
    dataset = PreparedDataset.open(uri)
    return dataset, dataset.load("test")


def arrays_of(comparison: Comparison) -> tuple[SplitArrays | None, str]:
    """Return the test split that pictures are drawn from, or None and why there are none."""
    try:
        dataset, arrays = load_test(comparison.dataset)
    except RayfillError as error:
        return None, str(error)
    if dataset.content_hash != comparison.board.protocol.get("dataset_hash"):
        return None, f"{comparison.dataset} is not the dataset any more that was measured on."
    return arrays, ""


def _best_validation(run: Run, metric: str) -> float:
    """Return the best finite value of a metric on the validation split, or NaN."""
    key = f"val/{metric}"
    return best_of((entry[key] for entry in run.history if key in entry), metric=metric)


def _by_protocol(systems: Sequence[_System]) -> list[list[_System]]:
    groups: list[list[_System]] = []
    for system in systems:
        for group in groups:
            if not _differences(group[0], system):
                group.append(system)
                break
        else:
            groups.append([system])
    return groups


def _differences(one: _System, other: _System) -> dict[str, tuple[str, str]]:
    """Return where two protocols differ; LPIPS that one of them lacks is an empty cell at most."""
    found = {}
    for key in PROTOCOL_KEYS:
        values = one.protocol.get(key), other.protocol.get(key)
        absent = any(value is None or value.startswith(_NOT_MEASURED) for value in values)
        if values[0] != values[1] and not (key == "lpips" and absent):
            found[key] = (str(values[0]), str(values[1]))
    if not found and one.sample_id != other.sample_id:
        found["samples"] = (f"{len(one.sample_id)}", f"{len(other.sample_id)} others")
    if not found and one.rank_by != other.rank_by:
        found["eval.select_metric"] = (one.rank_by, other.rank_by)
    return found


def _what_differs(groups: Sequence[Sequence[_System]]) -> str:
    first = groups[0][0]
    lines = []
    for group in groups[1:]:
        differing = "; ".join(
            f"{key} {a!r} and {b!r}" for key, (a, b) in _differences(first, group[0]).items()
        )
        lines.append(f"{first.entry.name} and {group[0].entry.name}: {differing}")
    return (
        f"These runs were measured under {len(groups)} protocols and cannot stand in one ranking "
        f"({' | '.join(lines)}). Name runs of one protocol, give --apart for a table each, or "
        "--rank-by where only the selection metric differs."
    )


def _title(asked: Asked, systems: Sequence[_System]) -> str:
    runs = [system for system in systems if system.run]
    if asked.title:
        return asked.title
    return f"{len(runs)} runs on {runs[0].protocol.get('dataset', 'a dataset')}" if runs else ""


def _comparison(
    systems: Sequence[_System], *, asked: Asked, title: str, unranked: Sequence[Unranked]
) -> Comparison:
    first = systems[0]
    network = {s.protocol.get("lpips", "") for s in systems}
    named = sorted(name for name in network if not name.startswith(_NOT_MEASURED))
    notes, report, columns = _of_whole_sweep(asked)
    return Comparison(
        board=Leaderboard(
            title=title,
            entries=[system.entry for system in systems],
            rank_by=first.rank_by,
            protocol={**first.protocol, **({"lpips": named[0]} if named and named[0] else {})},
            notes=[*asked.notes, *notes],
            report=report,
            columns=columns,
        ),
        runs={s.run.name: s.run for s in systems if s.run},
        measured={s.entry.name: s.measured for s in systems},
        sample_id=first.sample_id,
        hole_ratio=first.hole_ratio,
        dataset=first.dataset,
        unranked=unranked,
    )


def _of_whole_sweep(
    asked: Asked,
) -> tuple[Sequence[str], Sequence[ReportRow], Sequence[str]]:
    """Return notes, numbers of reports and columns of the sweep, if one whole sweep is all."""
    sweeps = {run.sweep for run in asked.runs}
    if len(asked.whole) != 1 or sweeps != set(asked.whole):
        return (), (), ()
    recorded = read_results(asked.whole[0])
    if recorded is None:
        return (), (), ()
    return recorded.board.notes, recorded.board.report, recorded.board.columns
