"""The table a sweep ends with, from hand-made scores."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from rayfill.evaluation.leaderboard import Entry, Leaderboard, ReportRow
from rayfill.metrics import BUCKETS, MetricTable, Score
from rayfill_data.errors import ConfigError

METRICS = ("psnr", "ssim", "hole_psnr", "hole_ssim", "l1")
EMPTY = Score(mean=math.nan, std=math.nan, n=0, n_infinite=0)


def table(hole_psnr: float, *, bucket: str = "[10,20)", lpips: bool = False) -> MetricTable:
    """One sample's worth of scores, all in one bucket."""
    names = (*METRICS, "lpips") if lpips else METRICS
    scores = {name: Score(mean=0.5, std=0.1, n=4, n_infinite=0) for name in names}
    finite = math.isfinite(hole_psnr)
    scores["hole_psnr"] = Score(mean=hole_psnr, std=1.25, n=4, n_infinite=0) if finite else EMPTY
    empty = dict.fromkeys(names, EMPTY)
    return MetricTable(total=scores, buckets={b: scores if b == bucket else empty for b in BUCKETS})


def board(*entries: Entry, rank_by: str = "hole_psnr", **changes: object) -> Leaderboard:
    values = {"title": "a sweep", "protocol": {"split": "test"}, "rank_by": rank_by}
    return Leaderboard(entries=entries, **{**values, **changes})  # type: ignore[arg-type]


def shown(leaderboard: Leaderboard) -> str:
    stream = io.StringIO()
    leaderboard.show(Console(file=stream, width=130))
    return stream.getvalue()


THREE = board(
    Entry(name="weak", kind="trial", table=table(20.0), epochs="1/2", val_score=19.5),
    Entry(name="strong", kind="winner", table=table(25.5), epochs="12/12", val_score=24.0),
    Entry(name="telea", kind="baseline", table=table(22.0)),
    notes=("LPIPS is not measured",),
)


def test_the_best_comes_first() -> None:
    assert [entry.name for entry in THREE.ranked()] == ["strong", "telea", "weak"]


@pytest.mark.parametrize(("fill", "said"), [(25.4, False), (25.5, True), (26.0, True)])
def test_it_says_when_nothing_trained_beats_the_best_fill(fill: float, said: bool) -> None:
    entries = [
        Entry(name="weak", kind="trial", table=table(20.0)),
        Entry(name="strong", kind="winner", table=table(25.5)),
        Entry(name="telea", kind="baseline", table=table(22.0)),
        Entry(name="harmonic", kind="baseline", table=table(fill)),
    ]
    notes = [note for note in board(*entries).all_notes() if "without learning" in note]
    wanted = (
        "By PSNR hole nothing is better than the best fill without learning: "
        f"harmonic {fill:.2f}, strong 25.50."
    )
    assert notes == ([wanted] if said else [])
    alone = board(*entries[2:])
    assert not any("without learning" in note for note in alone.all_notes())


def test_entries_without_a_finite_score_come_last_in_their_order() -> None:
    entries = [
        Entry(name=name, kind="trial", table=table(score))
        for name, score in (("nan", math.nan), ("low", -3.0), ("inf", math.inf), ("high", 30.0))
    ]
    assert [e.name for e in board(*entries).ranked()] == ["high", "low", "nan", "inf"]


def test_markdown_is_a_table_per_part() -> None:
    text = THREE.markdown()
    lines = text.splitlines()
    assert lines[0] == "# a sweep"
    rows = [line for line in lines if line.startswith("|")]
    columns = {line.count("|") for line in rows[:5]}
    assert len(columns) == 1
    assert rows[2].startswith(
        "| 1 | strong | winner | 12/12 | 24.00 | 25.50 ±1.2 | 0.5000 ±0.100 |"
    )
    assert rows[3].startswith("| 2 | telea | baseline |  |  | 22.00")
    assert "- split: test" in lines
    assert lines[-1] == "- Note: LPIPS is not measured"


def test_only_buckets_with_samples_are_shown_and_counted() -> None:
    text = THREE.markdown()
    assert "| system | [10,20) |" in text
    assert "| n | 4 |" in text
    assert "| strong | 25.50 / 0.500 |" in text


def test_a_sample_filled_perfectly_is_counted_in_its_bucket() -> None:
    perfect = table(30.0, bucket="[0,10)")
    scores = perfect.buckets["[0,10)"] | {
        "hole_psnr": Score(mean=math.nan, std=math.nan, n=0, n_infinite=3)
    }
    only_infinite = MetricTable(total=perfect.total, buckets=perfect.buckets | {"[0,10)": scores})
    text = board(Entry(name="exact", kind="baseline", table=only_infinite)).markdown()
    assert "| n | 3 |" in text
    assert "| exact | / 0.500 |" in text


def test_a_score_that_is_no_number_is_an_empty_cell() -> None:
    text = board(Entry(name="odd", kind="trial", table=table(math.nan))).markdown()
    assert "nan" not in text
    assert "| 1 | odd | trial |  |  |  | 0.5000" in text


def test_lpips_is_a_column_only_where_every_system_has_it() -> None:
    with_it = Entry(name="a", kind="trial", table=table(1.0, lpips=True))
    without = Entry(name="b", kind="trial", table=table(2.0))
    assert "LPIPS ↓" in board(with_it).markdown()
    assert "LPIPS" not in board(with_it, without).markdown()


def test_the_dictionary_is_strict_json_even_of_scores_that_are_none() -> None:
    entries = (
        *THREE.entries,
        Entry(name="nan", kind="trial", table=table(math.nan), val_score=math.inf),
    )
    text = json.dumps(board(*entries).to_dict(), allow_nan=False)
    read = json.loads(text)
    assert [entry["name"] for entry in read["entries"]] == ["strong", "telea", "weak", "nan"]
    assert read["entries"][0]["metrics"]["total"]["hole_psnr"] == {
        "mean": 25.5, "std": 1.25, "n": 4, "n_infinite": 0,
    }  # fmt: skip
    assert read["entries"][3]["val_score"] is None
    assert read["entries"][3]["metrics"]["total"]["hole_psnr"]["mean"] is None
    assert set(read["entries"][0]["metrics"]["buckets"]) == set(BUCKETS)


def test_the_console_shows_the_same_numbers() -> None:
    text = shown(THREE)
    for expected in (
        "strong",
        "telea",
        "25.50 ±1.2",
        "25.50 / 0.500",
        "split: test",
        "Note: LPIPS",
    ):
        assert expected in text


@pytest.mark.parametrize("note", ["01 failed: [/storage/x] is full", "[red]not a colour[/red]"])
def test_notes_are_printed_as_they_are(note: str) -> None:
    """An error's text may look like Rich's markup, which would swallow it or raise."""
    text = shown(board(*THREE.entries, notes=(note,), protocol={"dataset": note}))
    assert f"Note: {note}" in text
    assert f"dataset: {note}" in text


def rows_of(leaderboard: Leaderboard) -> list[dict[str, str]]:
    """The rows of the first Markdown table, by column."""
    lines = [
        line.strip("|").split("|") for line in leaderboard.markdown().split("\n\n")[1].split("\n")
    ]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def with_dice(dice: float, ceiling: float) -> MetricTable:
    """Pooled metrics have no deviation."""
    made = table(20.0)
    pooled = {"dice": dice, "dice_ceiling": ceiling}
    scores = {k: Score(mean=v, std=math.nan, n=4, n_infinite=0) for k, v in pooled.items()}
    return made._replace(total={**made.total, **scores})


def test_dice_beside_its_ceiling_and_l1_are_columns_where_asked_for() -> None:
    entry = Entry(name="a", kind="trial", table=with_dice(0.5837, 0.6077))
    assert not {"Dice ↑", "Dice ceiling", "L1 ↓"} & set(rows_of(board(entry))[0])
    (row,) = rows_of(board(entry, columns=("l1", "dice_ceiling", "dice")))
    assert list(row)[5:] == ["L1 ↓", "Dice ↑", "Dice ceiling"]  # and none of the usual ones
    assert (row["Dice ↑"], row["Dice ceiling"]) == ("0.5837", "0.6077")
    assert row["L1 ↓"] == "0.5000 ±0.100"
    text = shown(board(entry, columns=("dice", "dice_ceiling")))
    assert "0.5837" in text
    assert "0.6077" in text


def test_a_column_that_was_asked_for_has_empty_cells_and_is_left_out_where_nobody_has_it() -> None:
    entries = (
        Entry(name="a", kind="trial", table=with_dice(0.58, 0.6)),
        Entry(name="b", kind="trial", table=table(1.0)),
    )
    second, first = rows_of(board(*entries, columns=("dice", "growth_px")))
    assert sorted([first["Dice ↑"], second["Dice ↑"]]) == ["", "0.5800"]
    assert "growth, px" not in first


def test_buckets_show_what_is_ranked() -> None:
    entry = Entry(name="a", kind="trial", table=table(25.0))
    assert "inside the hole by hole ratio" in board(entry).markdown()
    whole = board(entry, rank_by="psnr").markdown()
    assert "of the picture by hole ratio" in whole
    assert "| a | 0.50 / 0.500 |" in whole


REPORT = ReportRow(
    name="P3", values={"psnr": 30.456, "ssim": 0.91, "lpips": 0.0215}, note="at 178 px"
)


def test_numbers_of_a_report_stand_below_unranked_and_as_printed() -> None:
    rows = rows_of(board(*THREE.entries, report=(REPORT,)))
    assert [row["#"] for row in rows] == ["1", "2", "3", ""]
    last = rows[-1]
    assert (last["system"], last["kind"], last["val"]) == ("P3", "report", "")
    assert (last["PSNR ↑"], last["SSIM ↑"], last["PSNR hole ↑"]) == ("30.456", "0.91", "")
    # Ours is not measured here, but the report's number is not hidden for that.
    assert [row["LPIPS ↓"] for row in rows] == ["", "", "", "0.0215"]


def test_a_report_is_in_every_form_with_its_note_and_in_no_ranking() -> None:
    made = board(*THREE.entries, report=(REPORT,), notes=("ours",))
    assert [entry.name for entry in made.ranked()] == ["strong", "telea", "weak"]
    assert made.markdown().splitlines()[-2:] == ["- Note: ours", "- Note: P3: at 178 px"]
    assert "| P3 |" not in made.markdown().split("PSNR / SSIM inside")[1]
    text = shown(made)
    assert "30.456" in text
    assert "Note: P3: at 178 px" in text
    read = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert read["report"] == [{"name": "P3", "values": dict(REPORT.values), "note": "at 178 px"}]
    assert len(read["entries"]) == 3


def test_metrics_without_a_column_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        board(columns=("dise",), report=(ReportRow(name="x", values={"mse": 4e-4}),))
    assert len(caught.value.problems) == 2
    assert "Did you mean 'dice'" in str(caught.value)


def test_what_was_written_down_reads_back_as_the_same_tables() -> None:
    rows = [ReportRow(name="P9", values={"hole_psnr": 30.1}, note="elsewhere")]
    whole = board(*THREE.entries, columns=("psnr", "l1"), notes=("a",), report=rows)
    nan = board(Entry(name="nan", kind="trial", table=table(math.nan)))
    for written in (whole, nan):
        read = Leaderboard.from_dict(json.loads(json.dumps(written.to_dict(), allow_nan=False)))
        assert read.markdown() == written.markdown()
    with pytest.raises(KeyError):
        Leaderboard.from_dict({"title": "of something else"})
