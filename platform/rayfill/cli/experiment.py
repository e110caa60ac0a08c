"""A result table of a report as an experiment: sizes to run it at, and the report's own numbers."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.config.run import BUNDLED_DATA, RunConfig, flatten, replace, to_dict
from rayfill.evaluation.leaderboard import ReportRow
from rayfill.runs.references import TABLE_BASELINES
from rayfill.sweeps.space import Variant, varied_keys
from rayfill.sweeps.spec import Sweep, SweepOptions, WinnerOptions
from rayfill.sweeps.sweep import SweepResult, run_sweep
from rayfill_data.errors import ConfigError, unknown_name

#: What every experiment can be run at: minutes anywhere; an hour or so on a laptop; as the report.
SCALES = ("smoke", "small", "paper")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """One size of an experiment."""

    space: Mapping[str, Sequence[Any]]
    """What is varied: values by dotted config key."""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted config keys that differ from the experiment's base."""
    data: str = ""
    """The command that prepares the dataset; empty where the bundled photographs serve."""
    phases: Sequence[Variant] = ()
    """Runs trained one after the other before the trials, which start from the last; left out where
    ``--train.init-from`` names a bundle to start from."""
    winner: WinnerOptions = WinnerOptions(epochs=0)
    """The second phase: how the best trial is trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is particular to a table."""

    base: RunConfig
    """What all trials share; its name is the experiment's."""
    scales: Mapping[str, Scale]
    """A size for each of :data:`SCALES`."""
    report: Sequence[ReportRow] = ()
    """The report's own numbers, shown below ours and never ranked."""
    differences: Sequence[str] = ()
    """How its protocol differs from ours, a sentence each."""
    columns: Sequence[str] = ()
    """Metrics to show instead of the usual ones."""
    baselines: Sequence[str] = TABLE_BASELINES
    winner_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted config keys that the second phase changes."""

    def config(self, scale: str) -> RunConfig:
        """Return the trials' shared configuration at a scale.

        Results are recorded and registered under the experiment's own name, so that no
        demonstration takes the place of the champion that people serve.
        """
        own = {"tracking.experiment": self.base.name, "tracking.model_name": self.base.name}
        return replace(self.base, own | dict(self.scales[scale].changes))

    def command(self, *, description: str | None) -> Callable[[Sequence[str]], int]:
        """Return the experiment as a command: its script's ``main(args) -> exit status``."""

        def main(args: Sequence[str]) -> int:
            run_experiment(self, args, description=description)
            return 0

        return main


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arguments:
    """Size, flags of every trial, and whether to go on with an interrupted run."""

    scale: str = "smoke"
    """smoke: minutes on two CPU cores; small: about an hour or two; paper: as the report has it."""
    resume: bool = False
    """Go on with the newest run of this experiment; give the flags it was started with."""
    also: tuple[str, ...] = ()
    """Further systems to measure beside: whatever `rayfill evaluate` takes, such as
    `lama=FOLDER_OF_PICTURES` or `models:/rayfill@champion`."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = RunConfig()


def run_experiment(
    experiment: Experiment, args: Sequence[str], *, description: str | None
) -> SweepResult:
    """Run an experiment as its command line says and print its table beside the report's.

    Args:
        experiment: What to run.
        args: The command line.
        description: Shown by ``--help``.

    Raises:
        ConfigError: everything that cannot be used, before anything starts.
    """
    name = asked_scale(args, default="smoke")
    default = _Arguments(scale=name, config=experiment.config(name))
    given = parse_flags(
        _Arguments,
        args,
        default=default,
        description=description,
    )
    scale = experiment.scales[name]
    _check(given.config, default=default.config, scale=scale, name=name)
    sweep = Sweep(
        base=given.config,
        space=scale.space,
        # A bundle to start from stands in for what the phases would make.
        phases=() if given.config.train.init_from else scale.phases,
        options=SweepOptions(scheduler="none"),  # a table needs every trial to its end
        winner=scale.winner,
        winner_changes=experiment.winner_changes,
        baselines=experiment.baselines,
        also=given.also,
        compare_trials=True,
        report=experiment.report,
        columns=experiment.columns,
        notes=[f"Scale {name}. {' '.join(experiment.differences)}".strip()],
        resume=given.resume,
    )
    return run_sweep(sweep, console=make_console())


def asked_scale(args: Sequence[str], *, default: str) -> str:
    """Return the scale that a command line names: what the other flags' defaults depend on.

    Raises:
        ConfigError: none of :data:`SCALES`.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--scale", default=default)
    scale = str(first.parse_known_args(args)[0].scale)
    if scale not in SCALES:
        raise ConfigError([unknown_name("scale", scale, SCALES)])
    return scale


def _check(config: RunConfig, *, default: RunConfig, scale: Scale, name: str) -> None:
    """Refuse flags that would change nothing, and a scale without its dataset."""
    now, before = flatten(to_dict(config)), flatten(to_dict(default))
    varied = {*varied_keys(scale.space)}
    problems = [
        f"{key} is {now[key]!r}, but this experiment varies it at scale {name}. Leave the flag out."
        for key in sorted(varied & now.keys())
        if now[key] != before.get(key)
    ]
    if scale.data and config.data.uri == BUNDLED_DATA:
        problems.append(
            f"Scale {name} needs its own dataset. Prepare it once, and name it with --data.uri: "
            f"{scale.data}"
        )
    if problems:
        raise ConfigError(problems)
