"""``rayfill compare``: runs side by side, on the console and as a page."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.evaluation.report.found import RunFinder
from rayfill.runs import places
from rayfill.runs.store import Store
from rayfill_data.checks import Bounds, Checked
from rayfill_data.extension import allow_modules

if TYPE_CHECKING:
    from rich.console import Console

    from rayfill.evaluation.report.contents import Comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareArgs(Checked):
    """Compare runs on their test split: ranking, intervals, pictures, curves, what differs.

    Writes report.html (one file that needs nothing beside it), report.md, curves.png and
    contact_sheet_{best,median,worst}.png.
    """

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of sweeps and runs, MLflow run ids, folders of runs and sweeps, NAME@ALIAS,
    models:/NAME/VERSION, runs:/ID, sweep:NAME; of several sweeps of a name, the newest.
    LABEL=VALUE says what the tables call a run."""
    experiment: str | None = None
    """Every run of this MLflow experiment."""
    sweep: str | None = None
    """The newest sweep of this name."""
    rank_by: str | None = None
    """Metric to rank by, such as psnr or lpips; None is the one that the runs were selected by."""
    out: str | None = None
    """Folder or URI for the report; None is `report` in the sweep's folder, or below the home
    folder for runs of several."""
    apart: bool = False
    """Report runs of different protocols separately instead of refusing them."""
    samples: Annotated[int, Bounds(ge=1, le=50)] = 4
    """Samples of each contact sheet."""
    title: str = ""
    """Of the report; empty names the sweep."""
    log: bool = True
    """Also keep the report in MLflow: with the sweep's run, or with the run that has none."""
    storage: str | None = None
    """Where runs are kept; None as for training."""
    tracking_uri: str | None = None
    """MLflow store; None as for training."""
    allow_modules: str = ""
    """Modules, separated by commas, that a model's own network may be imported from; also the
    environment variable RAYFILL_ALLOW_MODULES."""

    def relations(self) -> Iterator[str]:
        """Yield the sentence for nothing to compare."""
        if not (self.runs or self.experiment or self.sweep):
            yield (
                "Nothing to compare was named: give runs, --sweep NAME or --experiment NAME; "
                "`rayfill ui` lists what there is."
            )


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = parse_flags(CompareArgs, args, prog="rayfill compare")
    allow_modules(asked.allow_modules)
    store = Store(places.tracking_uri(asked.tracking_uri))
    finder = RunFinder(storage=places.storage(asked.storage), store=store)
    found = finder.find(asked.runs, experiment=asked.experiment, sweep=asked.sweep)
    # Late: what names nothing is refused before torch is imported.
    from rayfill.evaluation.report.gather import gather

    console = make_console()
    comparisons = gather(found, title=asked.title, rank_by=asked.rank_by, apart=asked.apart)
    for number, comparison in enumerate(comparisons, start=1):
        part = f"{number}-{_slug(comparison)}" if len(comparisons) > 1 else ""
        _report(comparison, asked=asked, part=part, console=console, tracking_uri=store.uri)
    return 0


def _report(
    comparison: Comparison, *, asked: CompareArgs, part: str, console: Console, tracking_uri: str
) -> None:
    """Show one comparison, write its report and keep it in MLflow."""
    from rayfill.evaluation.report.console import show
    from rayfill.evaluation.report.gather import arrays_of
    from rayfill.evaluation.report.write import (
        default_folder,
        log_report,
        report_files,
        write_report,
    )

    show(comparison, console=console)
    arrays, why_not = arrays_of(comparison)
    if why_not:
        console.print(f"No pictures: {why_not}", highlight=False, markup=False, soft_wrap=True)
    files = report_files(comparison, arrays=arrays, samples=asked.samples)
    out = (asked.out or default_folder(comparison)).rstrip("/")
    page = write_report(files, out=f"{out}/{part}" if part else out)
    console.print(f"Report: {page}", highlight=False, markup=False, soft_wrap=True)
    if asked.log:
        said = log_report(files, comparison=comparison, tracking_uri=tracking_uri)
        console.print(said, highlight=False, markup=False, soft_wrap=True)


def _slug(comparison: Comparison) -> str:
    protocol = comparison.board.protocol
    name = f"{protocol.get('dataset', '')}-{protocol.get('dataset_hash', '')[:8]}"
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
