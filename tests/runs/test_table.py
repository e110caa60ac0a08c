"""Tables hold any text: read back by csv, by markdown-it, and from the console."""

from __future__ import annotations

import csv
import io
import math
import string
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from rayfill.runs.table import Column, Table

LABELS = [
    "a|b [red]x[/red]",
    "[/]",
    "[10,20)",
    "-1.23 [-2.0, -0.5]",
    "hole_psnr",
    "_a_ __b__ a_b_ *c* **d** ~e~ ~~f~~",
    "`code` ``two`` `",
    "[text](address) [ref][other] [ref]: x ![picture](address) [^1]",
    "<b>bold</b> <https://x.de> &amp; &lt; &copy; R&D",
    ":cat: :warning:",
    "C:\\new\\ \\| \\\\| a\\",
    "| --- | --- |",
    '"a", "b"; c',
    "ö ü 中文 ±",
    string.punctuation,
    string.punctuation[::-1],
    *(f"{one}{two}x{two}{one}" for one in string.punctuation for two in "|\\`*_["),
]


def table(*rows: list[Any]) -> Table:
    columns = [Column(label) for label in LABELS[:3]]
    return Table(title="[red]title[/red] :cat:", columns=columns, rows=rows)


HOSTILE = table(*([label, "", label] for label in LABELS))


def test_markdown_shows_every_character(
    markdown_tables: Callable[[str], list[list[list[str]]]],
) -> None:
    (read,) = markdown_tables(HOSTILE.markdown())
    assert read == [LABELS[:3], *([label, "", label] for label in LABELS)]


def test_code_in_markdown_holds_bars(
    markdown_tables: Callable[[str], list[list[list[str]]]],
) -> None:
    code = Table(columns=[Column("key", code=True)], rows=[["a|b_c*d*"]])
    assert "`" in code.markdown()
    assert markdown_tables(code.markdown()) == [[["key"], ["a|b_c*d*"]]]


def test_lines_become_one_in_markdown(
    markdown_tables: Callable[[str], list[list[list[str]]]],
) -> None:
    (read,) = markdown_tables(table(["a\nb\r\n| c |", "d\u2028e", "f\x0bg"]).markdown())
    assert read[1] == ["a b | c |", "d e", "f g"]


def test_csv_holds_every_character_and_every_digit() -> None:
    rows = [[label, 1 / 3, math.nan] for label in [*LABELS, "a\nb"]]
    header, *read = csv.reader(io.StringIO(table(*rows).csv(), newline=""))
    assert header == LABELS[:3]
    assert [row[0] for row in read] == [row[0] for row in rows]
    assert {(float(row[1]), row[2]) for row in read} == {(1 / 3, "")}


def test_the_console_shows_every_character(
    console_rows: Callable[..., list[list[str]]],
) -> None:
    read = console_rows(lambda console: console.print(HOSTILE))
    assert read == [[label, "", label] for label in LABELS]
    out = io.StringIO()
    Console(file=out, width=1000).print(HOSTILE)
    title, _, header, *_ = out.getvalue().splitlines()
    assert title.strip() == "[red]title[/red] :cat:"
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == LABELS[:3]


def test_numbers_are_shown_by_their_format_and_nan_is_empty() -> None:
    columns = [Column("n", format=","), Column("x", format="+.2f", right=True)]
    made = Table(columns=columns, rows=[[12345, 0.126], ["", math.nan], [0, -math.inf]])
    assert made.cells() == [["12,345", "+0.13"], ["", ""], ["0", "-inf"]]
    assert made.markdown().splitlines()[1] == "| --- | ---: |"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_console_cuts_nothing_off(width: int) -> None:
    cells = ["17-attention_unet-log_mse", "winner", "12/12", *["0.5000 ±0.100"] * 4]
    out = io.StringIO()
    columns = [Column(str(n), right=n > 1) for n in range(len(cells))]
    Console(file=out, width=width).print(Table(columns=columns, rows=[cells]))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("│")]
    folded = zip(*(line.strip("│").split("│") for line in lines), strict=True)
    found = ["".join("".join(parts).split()) for parts in folded]
    assert found == [cell.replace(" ", "") for cell in cells]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        table(["a"]).markdown()
