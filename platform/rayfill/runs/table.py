"""A table as a value: shown on the console, in Markdown and as CSV, whatever its cells hold."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table
    from rich.console import JustifyMethod

Cell = str | int | float

#: What Markdown would not show as it is; an underscore inside a word is no emphasis.
_MARKUP = re.compile(r"[\\`*~|]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")


@dataclasses.dataclass(frozen=True)
class Column:
    """What stands above cells, and how they are shown."""

    title: str
    _: dataclasses.KW_ONLY
    right: bool = False
    """Whether cells end below each other, as numbers should."""
    format: str = ""
    """Format specification of its numbers, such as ``.4g``."""
    code: bool = False
    """Whether Markdown shows its cells as code."""
    styles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Rich's style on the console by the cell's text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells; a number that is NaN is shown as an empty cell."""

    columns: Sequence[Column | str]
    """Those of which nothing but the title is given are of text."""
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    """Stands above it on the console."""
    row_styles: Sequence[str] = ()
    """Rich's style of every row on the console; none where empty."""
    sections: Collection[int] = ()
    """Rows that the console draws a line below."""

    def header(self) -> list[str]:
        """Return the columns' titles."""
        return [column.title for column in self._columns()]

    def _columns(self) -> list[Column]:
        return [Column(one) if isinstance(one, str) else one for one in self.columns]

    def cells(self) -> list[list[str]]:
        """Return the rows as text."""
        return [
            [_text(cell, column) for cell, column in zip(row, self._columns(), strict=True)]
            for row in self.rows
        ]

    def __rich__(self) -> rich.table.Table:
        """Return what the console prints, every character of a cell as it is."""
        import rich.table
        from rich.text import Text

        table = rich.table.Table(title=Text(self.title, "table.title") if self.title else None)
        columns = self._columns()
        for column in columns:
            justify: JustifyMethod = "right" if column.right else "left"
            # A narrow console folds cells: a number that is cut off is another number.
            table.add_column(Text(column.title), justify=justify, overflow="fold")
        for number, row in enumerate(self.cells()):
            cells = zip(row, columns, strict=True)
            table.add_row(
                *(Text(cell, column.styles.get(cell, "")) for cell, column in cells),
                style=self.row_styles[number] if self.row_styles else None,
                end_section=number in self.sections,
            )
        return table

    def markdown(self) -> str:
        """Return it as a Markdown table, without its title."""
        rows = [
            map(plain, self.header()),
            ["---:" if column.right else "---" for column in self._columns()],
            *(map(_markdown, row, self._columns()) for row in self.cells()),
        ]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def csv(self) -> str:
        """Return it as CSV, without its title: numbers with all their digits."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.header())
        writer.writerows([["" if cell != cell else cell for cell in row] for row in self.rows])
        return stream.getvalue()


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: names may hold anything."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def _markdown(cell: str, column: Column) -> str:
    return "`{}`".format(cell.replace("|", "\\|")) if column.code else plain(cell)


def _text(cell: Cell, column: Column) -> str:
    if isinstance(cell, str):
        return cell
    return "" if cell != cell else format(cell, column.format)
