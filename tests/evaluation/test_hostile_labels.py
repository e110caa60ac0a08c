"""Names that hold markup, in every table of an evaluation, as a reader or a program sees them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rayfill.evaluation.leaderboard import Entry, Leaderboard, ReportRow
from rayfill.evaluation.mask_sizes import MaskSizes
from rayfill.evaluation.report import console
from rayfill.evaluation.report.contents import Comparison, Run
from rayfill.evaluation.report.markdown import markdown
from rayfill.evaluation.result import Evaluation
from rayfill.metrics import BUCKETS, MetricTable, Score
from rayfill.metrics.aggregate import Measured
from rayfill.sweeps.page import describe_sweep

Rows = list[list[str]]
Markdown = Callable[[str], list[Rows]]
Console = Callable[[Callable[[Any], object]], Rows]

LABEL = "a|b [red]x[/red]"
OTHER = "*b* `|` [bold]:cat:"
NAMES = {LABEL, OTHER}


def table(mean: float) -> MetricTable:
    names = ("hole_psnr", "hole_ssim", "psnr", "ssim", "l1")
    scores = {name: Score(mean=mean, std=1.0, n=4, n_infinite=0) for name in names}
    return MetricTable(total=scores, buckets=dict.fromkeys(BUCKETS, scores))


def measured(mean: float) -> Measured:
    values = np.linspace(-1, 1, 20) + mean
    return Measured(table=table(mean), values={"hole_psnr": values, "psnr": values})


MEASURED = {LABEL: measured(24.0), OTHER: measured(22.0)}
BOARD = Leaderboard(
    title=LABEL,
    entries=[Entry(name=name, kind="run", table=one.table) for name, one in MEASURED.items()],
    rank_by="hole_psnr",
    protocol={"split": "test"},
    report=[ReportRow(name=OTHER, values={"psnr": 20.0})],
)
DEVIATIONS = Leaderboard(**{**vars(BOARD), "deviations": True})
SAMPLES = tuple(f"s{number}" for number in range(20))
EVALUATION = Evaluation(
    board=BOARD,
    measured=MEASURED,
    sample_id=SAMPLES,
    hole_ratio=np.full(20, 0.15, np.float32),
    against=LABEL,
    left_out={},
    sources={},
)
COMPARISON = Comparison(
    board=BOARD,
    runs={name: Run(name=name, params={LABEL: name}) for name in MEASURED},
    measured=MEASURED,
    sample_id=SAMPLES,
    hole_ratio=np.full(20, 0.15),
    dataset="",
)


def column(rows: Rows, number: int) -> set[str]:
    return {row[number] for row in rows}


def test_a_leaderboard(console_rows: Console, markdown_tables: Markdown) -> None:
    for board in (BOARD, DEVIATIONS):
        rows = console_rows(board.show)
        assert [row[1] for row in rows[:3]] == [LABEL, OTHER, OTHER]
        assert column(rows[3:], 2 if board.deviations else 0) - {"n"} == NAMES
        whole, by_ratio = markdown_tables(board.markdown())
        assert [row[1] for row in whole] == ["system", LABEL, OTHER, OTHER]
        assert {len(row) for row in whole} == {len(whole[0])}
        assert column(by_ratio[1:], 2 if board.deviations else 0) - {"n"} == NAMES
        assert board.markdown().startswith("# a\\|b [red]x[/red]\n")


def test_the_differences_of_an_evaluation(console_rows: Console, markdown_tables: Markdown) -> None:
    rows = console_rows(EVALUATION.show)
    assert [row[0] for row in rows[-3:]] == [OTHER, OTHER, LABEL]
    found = markdown_tables(EVALUATION.markdown())[-1]
    assert [row[0] for row in found] == ["system", OTHER, OTHER, LABEL]
    assert found[-1] == [LABEL, "all", "0", "", "itself"]


def test_the_csv_of_an_evaluation() -> None:
    rows = list(csv.DictReader(io.StringIO(EVALUATION.csv(), newline="")))
    assert {row["system"] for row in rows} == NAMES
    assert {row["mean"] for row in rows if row["system"] == LABEL} == {"24.0"}


def test_sizes_of_masks(console_rows: Console, markdown_tables: Markdown) -> None:
    sizes = MaskSizes(expansions_px=(0,), tables={name: [table(20.0)] for name in MEASURED})
    assert column(console_rows(lambda c: c.print(sizes.table())), 0) == NAMES
    assert column(markdown_tables(sizes.table().markdown())[0], 0) == {"system", *NAMES}


def test_a_comparison(console_rows: Console, markdown_tables: Markdown) -> None:
    rows = console_rows(lambda c: console.show(COMPARISON, console=c))
    leads, changed = rows[-3:-2], rows[-2:]
    assert leads[0][0] == OTHER
    assert changed == [[LABEL, LABEL], [OTHER, OTHER]]
    whole, changed = markdown_tables(markdown(COMPARISON))
    assert [row[1] for row in whole] == ["system", LABEL, OTHER, OTHER]
    assert changed == [["run", LABEL], [LABEL, LABEL], [OTHER, OTHER]]


def test_the_page_of_a_sweep(markdown_tables: Markdown) -> None:
    text = describe_sweep("night", space={"model.name": LABEL}, run_dir="/runs", board=BOARD)
    whole, varied = markdown_tables(text)
    assert [row[3] for row in whole] == ["system", f"{LABEL} (run)", f"{OTHER} (run)"]
    assert varied == [["varied", "values"], ["model.name", LABEL]]
    empty = Leaderboard(**{**vars(BOARD), "entries": [Entry(name="x", kind="trial", table=NONE)]})
    whole, _ = markdown_tables(describe_sweep("n", space={"k": "v"}, run_dir="/", board=empty))
    assert whole[1] == ["1", "", "", "x"]


NONE = table(math.nan)
