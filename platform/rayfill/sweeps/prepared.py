"""A sweep settled and checked before anything is started: made once, and passed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from rayfill.config.run import RunConfig, replace
from rayfill.runs.datasets import check_data
from rayfill.runs.places import resolve_paths
from rayfill.runs.run_page import comparing, differing_keys
from rayfill.sweeps.draft import Draft, draft_runs, draft_search, earlier_observations, read_earlier
from rayfill.sweeps.plan import Plan, open_plan, plan_to_resume
from rayfill.sweeps.space import varied_keys
from rayfill.sweeps.spec import Sweep
from rayfill.sweeps.starts import find_starts, with_start
from rayfill.sweeps.tune import scheduler_problems
from rayfill.training.validation import check_select_metric
from rayfill_data.checks import check_all, problems
from rayfill_data.errors import ConfigError
from rayfill_data.prepared.reader import PreparedDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a sweep will run, every part of it checked."""

    sweep: Sweep
    base: RunConfig
    """What all runs share, with absolute locations."""
    draft: Draft
    phases: Sequence[RunConfig]
    """Runs before the trials, in their order."""
    starts: Mapping[str, str]
    """Where the weights lie that runs start from, by what names them."""

    @property
    def examples(self) -> list[RunConfig]:
        """The phases, and runs like those that will be trained after them."""
        return [*self.phases, *self.draft.examples]

    def placed(self, settle: Callable[[RunConfig], RunConfig]) -> Prepared:
        """Return the same with every run settled on a cluster."""
        return dataclasses.replace(
            self,
            base=settle(self.base),
            draft=self.draft.changed(settle),
            phases=[with_start(settle(run), self.starts) for run in self.phases],
        )

    def open_plan(self, dataset: PreparedDataset) -> tuple[Plan, list[str]]:
        """Write the plan down, or read back the one to resume; return it and what to note."""
        plan = Plan(
            name=self.base.name,
            storage=str(self.base.storage),
            trials=list(self.draft.trials),
            search=self.draft.search,
            started_from=dict(self.starts),
        )
        notes = list(self.draft.notes)
        if earlier := self.sweep.options.warm_from:
            observations, note = earlier_observations(
                earlier,
                space=self.draft.space,
                base=self.base,
                dataset_hash=dataset.content_hash,
            )
            plan = dataclasses.replace(plan, observations=observations)
            notes.append(note)
        return open_plan(plan, resume=self.sweep.resume), notes


def prepare(sweep: Sweep) -> Prepared:
    """Return a sweep settled and checked; nothing is started or written.

    Raises:
        ConfigError: the problems of every part, all at once.
        RayfillError: data, weights to start from, or a sweep to resume, that are not there.
    """
    base = comparing(resolve_paths(sweep.base), varied_keys(sweep.space))
    found = [*sweep.problems(), *problems(base)]
    if sweep.scheduler is not None:
        found += scheduler_problems(sweep.scheduler, options=sweep.options)
    phases: list[RunConfig] = []
    draft = None
    try:
        phases = _phases(sweep, base)
        draft = _draft(sweep, base)
    except ConfigError as error:
        found += error.problems
    if found or draft is None:
        raise ConfigError(dict.fromkeys(found))
    if sweep.options.warm_from:
        read_earlier(sweep.options.warm_from, storage=str(base.storage))
    check_data(base)
    check_select_metric([*phases, *draft.examples, *_winners(sweep, draft.examples)])
    known: Mapping[str, str] = {}
    if sweep.resume:
        known = plan_to_resume(base.name, storage=str(base.storage)).started_from
    # Where there are phases, trials start from the last one.
    starts = find_starts(phases[:1] or draft.examples, known=known)
    return Prepared(sweep=sweep, base=base, draft=draft, phases=phases, starts=starts)


def _winners(sweep: Sweep, examples: Sequence[RunConfig]) -> list[RunConfig]:
    """Return how runs would be trained on as winners, if one will be."""
    return [replace(run, sweep.winner_changes) for run in examples] if sweep.winner.epochs else []


def _phases(sweep: Sweep, base: RunConfig) -> list[RunConfig]:
    """Return the runs before the trials, or raise every problem of every one at once."""
    runs = [
        replace(base, {**phase.changes, "name": f"phase{number}-{phase.name}"})
        for number, phase in enumerate(sweep.phases, start=1)
    ]
    return list(check_all(runs))


def _draft(sweep: Sweep, base: RunConfig) -> Draft:
    if sweep.runs:
        differing = differing_keys(sweep.runs)
        draft = draft_runs([comparing(resolve_paths(run), differing) for run in sweep.runs])
    else:
        draft = draft_search(base, sweep.space, options=sweep.options, searcher=sweep.searcher)
    ranked = sorted({run.eval.ranked_by for run in draft.examples})
    if len(ranked) > 1:
        raise ConfigError(
            [
                f"Trials are ranked by {' and '.join(ranked)}, which cannot be compared: give all "
                "of them one eval.select_metric and eval.lpips_network."
            ]
        )
    return draft
