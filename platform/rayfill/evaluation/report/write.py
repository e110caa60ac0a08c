"""A report as a set of files: the page, the summary, the plots and the contact sheets."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rayfill.evaluation.report import html, plots
from rayfill.evaluation.report.contents import Comparison
from rayfill.evaluation.report.markdown import markdown
from rayfill.evaluation.report.sheets import draw_sheets, render
from rayfill.runs import places
from rayfill.runs.store import Store
from rayfill.runs.sweep_folder import SweepFolder
from rayfill_data.codec import encode_png
from rayfill_data.errors import RayfillError, redact_uri
from rayfill_data.storage import write_file

if TYPE_CHECKING:
    from rayfill_data.prepared.reader import SplitArrays

PAGE, SUMMARY = "report.html", "report.md"

logger = logging.getLogger(__name__)


def report_files(
    comparison: Comparison, *, arrays: SplitArrays | None, samples: int = 4
) -> dict[str, bytes]:
    """Return the files of a report by name, the same bytes for the same comparison.

    Args:
        comparison: what is reported.
        arrays: the test split that pictures are drawn from; None leaves them out.
        samples: of each contact sheet.
    """
    sheets = []
    if arrays is not None:
        try:
            sheets = draw_sheets(comparison, arrays=arrays, count=samples)
        except RayfillError as error:  # a bundle that is gone costs the pictures, not the tables
            logger.warning("The report has no pictures: %s", error)
    files = {
        PAGE: redact_uri(html.page(comparison, sheets=sheets)).encode(),
        SUMMARY: redact_uri(markdown(comparison, page=PAGE)).encode(),
    }
    drawn = plots.curves_png(comparison)
    if drawn:
        files["curves.png"] = drawn
    for sheet in sheets:
        files[f"contact_sheet_{sheet.kind}.png"] = encode_png(render(sheet))
    return files


def write_report(files: Mapping[str, bytes], *, out: str) -> str:
    """Write a report into a folder or URI and return where its page is, without credentials."""
    for name, content in files.items():
        write_file(f"{out}/{name}", content)
    return redact_uri(f"{out}/{PAGE}")


def default_folder(comparison: Comparison) -> str:
    """Return where a report goes unasked: into its sweep's folder, or below the home folder."""
    parents = {run.folder.parent for run in comparison.runs.values()}
    single = next(iter(parents)) if len(parents) == 1 else ""
    if single and SweepFolder(single).exists():
        return f"{single}/report"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", comparison.board.title).strip("._") or "report"
    return str(places.home() / "reports" / name[:80])


def log_report(files: Mapping[str, bytes], *, comparison: Comparison, tracking_uri: str) -> str:
    """Keep page and summary with the MLflow runs that they are about; return what was done.

    A report about runs of a sweep goes to the sweep's run, once; a run without one gets its own.
    What MLflow does not take now, `rayfill replay` sends.
    """
    from rayfill.runs.tracking import Tracker

    known = {run.run_id for run in comparison.runs.values() if run.run_id}
    if not known:
        return "MLflow knows none of these runs, so the report is not kept there."
    targets = sorted(Store(tracking_uri).parents_of(known))
    unsent = 0
    for run_id in targets:
        # A journal of its own: that of the run may be open in the process that trains it.
        folder = places.home() / "tracking" / ".reports" / run_id
        tracker = Tracker(folder, tracking_uri=tracking_uri, run_id=run_id)
        for name in (PAGE, SUMMARY):
            tracker.text(files[name].decode(), name)
        left = tracker.close()
        unsent += left
        if not left:
            shutil.rmtree(folder, ignore_errors=True)
    if unsent:
        return "MLflow did not take the report yet; `rayfill replay` sends it."
    return f"In MLflow: {PAGE} of run {', '.join(targets)}."
