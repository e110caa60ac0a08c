"""Curves, means by hole ratio and differences as plots, the same bytes for the same numbers.

Colours are Okabe and Ito's, which colour-blind readers tell apart; line styles and markers do for
gray print. matplotlib's global state is not touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rayfill.evaluation.differences import photographs
from rayfill.evaluation.leaderboard import Entry
from rayfill.evaluation.report.contents import Comparison, Run, metric_name, unit
from rayfill.metrics import BUCKETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Lines of more systems than these cannot be told apart; the others are gray and have no label.
MOST_LABELLED = 8

#: Stands for the page's own text colour, see `_OF_PAGE`.
_INK = "#1b1b1c"
_GRAY, _FAINT = "#8a8f98", "#c9cdd3"
_GRID = "#e4e6e9"
_LONGEST_NAME = 34

#: Colours that a page may turn dark.
_OF_PAGE = {_INK: "currentColor", _FAINT: "var(--faint)", _GRID: "var(--line)"}

_LOOK: Any = {
    "axes.edgecolor": _GRAY,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",  # text stays text
    "text.color": _INK,
    "text.parse_math": False,  # a name may hold a $
    "xtick.color": _GRAY,
    "xtick.labelcolor": _INK,
    "ytick.color": _GRAY,
    "ytick.labelcolor": _INK,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """How one system is drawn in every plot."""

    colour: str
    line: Any = "-"
    marker: str = "o"


_STYLES = (
    Style(colour="#0072B2"),
    Style(colour="#D55E00", line="--", marker="s"),
    Style(colour="#009E73", line="-.", marker="^"),
    Style(colour="#CC79A7", line=":", marker="D"),
    Style(colour="#E69F00", line=(0, (5, 1)), marker="v"),
    Style(colour="#56B4E9", line="--", marker="P"),
    Style(colour=_INK, line="-.", marker="X"),
    Style(colour=_GRAY, line=":", marker="*"),
)

Draw = Callable[["Axes"], None]


def styles(comparison: Comparison) -> dict[str, Style]:
    """Return the styles of the systems that are told apart: the best runs and the best baseline."""
    ranked = comparison.board.ranked()
    runs = [entry.name for entry in ranked if entry.name in comparison.runs]
    others = [entry.name for entry in ranked if entry.name not in comparison.runs]
    first = {*runs[: MOST_LABELLED - min(1, len(others))], *others[:1]}
    rest = [entry.name for entry in ranked if entry.name not in first]
    first.update(rest[: MOST_LABELLED - len(first)])
    names = [entry.name for entry in ranked if entry.name in first]
    return dict(zip(names, _STYLES, strict=False))


def curves_png(comparison: Comparison) -> bytes | None:
    """Return validation metric and training loss by epoch, or None where no run has epochs."""
    if not _has_curves(comparison):
        return None
    with _look("curves"):
        figure = _figure(12.4, 3.6)
        left, right = figure.subplots(1, 2)
        draw_validation(left, comparison=comparison)
        draw_loss(right, comparison=comparison)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _has_curves(comparison: Comparison) -> bool:
    return any(run.history for run in comparison.runs.values())


def pages(comparison: Comparison) -> dict[str, str]:
    """Return the plots of the page as SVG by name, those that there is something to draw for."""
    drawn: dict[str, tuple[Draw, float]] = {}
    if comparison.leads:
        rows = len(comparison.leads)
        drawn["differences"] = (
            lambda axes: draw_differences(axes, comparison=comparison),
            1.1 + 0.23 * rows,
        )
    if comparison.best and comparison.by_hole_ratio(comparison.best.name):
        drawn["hole_ratio"] = (lambda axes: draw_hole_ratio(axes, comparison=comparison), 3.4)
    if _has_curves(comparison):
        drawn["validation"] = (lambda axes: draw_validation(axes, comparison=comparison), 3.2)
        drawn["loss"] = (lambda axes: draw_loss(axes, comparison=comparison), 3.2)
    return {name: _svg(draw, height_in=height, name=name) for name, (draw, height) in drawn.items()}


def draw_validation(axes: Axes, *, comparison: Comparison) -> None:
    """Draw the metric that runs are selected by, on the validation split, by epoch."""
    metric = comparison.board.rank_by
    _draw_lines(axes, comparison=comparison, key=f"val/{metric}")
    axes.set_title("On the validation split", loc="left")
    axes.set_ylabel(_label(metric))


def draw_loss(axes: Axes, *, comparison: Comparison) -> None:
    """Draw the training loss by epoch, of the runs whose loss has the best run's formula.

    Others have another unit. The scale is logarithmic where the values are far apart.
    """
    formula = _loss_of_best(comparison)
    same = [run.name for run in comparison.runs.values() if _formula(run) == formula]
    values = _draw_lines(axes, comparison=comparison, key="train/loss", only=same)
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    several = len(same) < len(comparison.runs)
    axes.set_title("Training loss" + f", runs with {_short(formula)}" * several, loc="left")
    axes.set_ylabel("loss")


def _loss_of_best(comparison: Comparison) -> str:
    ranked = comparison.board.ranked()
    return next(
        (_formula(comparison.runs[e.name]) for e in ranked if e.name in comparison.runs), ""
    )


def _formula(run: Run) -> str:
    return run.params.get("loss.terms", "")


def draw_hole_ratio(axes: Axes, *, comparison: Comparison) -> None:
    """Draw every system's mean by hole ratio, those told apart with 95 % intervals."""
    metric, chosen = comparison.sample_metric, styles(comparison)
    used: dict[int, int] = {}
    ends: list[tuple[float, float, str, Style]] = []
    step = min(0.1, 0.6 / max(1, len(chosen) - 1))
    for entry in _gray_first(comparison.board.ranked(), chosen):
        means = comparison.by_hole_ratio(entry.name)
        if not means:
            continue
        used |= {bucket: found.num_drawn for bucket, found in means.items()}
        y = [found.mean for found in means.values()]
        style = chosen.get(entry.name)
        if style is None:
            axes.plot(list(means), y, color=_FAINT, linewidth=0.8)
            continue
        offset = step * (list(chosen).index(entry.name) - (len(chosen) - 1) / 2)
        x = [bucket + offset for bucket in means]
        errors = [
            [found.mean - found.low for found in means.values()],
            [found.high - found.mean for found in means.values()],
        ]
        axes.plot(x, y, color=style.colour, linestyle=style.line, linewidth=0.9, alpha=0.45)
        axes.errorbar(
            x,
            y,
            yerr=errors,
            color=style.colour,
            linestyle="none",
            marker=style.marker,
            markersize=4.5,
            elinewidth=1.2,
        )
        ends.append((x[-1], y[-1], entry.name, style))
    axes.set_xticks(sorted(used), [f"{BUCKETS[b]}\n{used[b]}" for b in sorted(used)])
    drawn = "samples" if photographs(comparison.measured) is None else "photographs"
    axes.set_xlabel(f"hole ratio, percent, and number of {drawn}")
    axes.set_ylabel(_label(metric))
    axes.set_title(f"{metric_name(metric)} by hole ratio", loc="left")
    _label_ends(axes, ends)


def draw_differences(axes: Axes, *, comparison: Comparison) -> None:
    """Draw how much better the best is than each other system, with 95 % intervals."""
    from matplotlib.ticker import MaxNLocator

    metric, best = comparison.sample_metric, comparison.best
    assert best is not None
    leads = {name: own[metric] for name, own in comparison.leads.items() if metric in own}
    axes.axvline(0, color=_INK, linewidth=0.8)
    for row, found in enumerate(leads.values()):
        colour = _STYLES[0].colour if found.significant else _GRAY
        axes.plot([found.low, found.high], [row, row], color=colour, linewidth=1.6)
        axes.plot(
            [found.mean],
            [row],
            color=colour,
            marker="o",
            markersize=5,
            markerfacecolor=colour if found.significant else "none",
        )
    axes.set_yticks(range(len(leads)), [_short(name) for name in leads])
    axes.set_ylim(len(leads) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{_label(metric)}: how much better; hollow: may be chance")
    counted = dict.fromkeys(found.counted for found in leads.values())
    axes.set_title(", ".join([f"Lead of {_short(best.name)}", *counted]), loc="left")


def _draw_lines(
    axes: Axes, *, comparison: Comparison, key: str, only: Collection[str] | None = None
) -> list[float]:
    """Draw one metric of every run, or of ``only`` some, by epoch; return its finite values."""
    from matplotlib.ticker import MaxNLocator

    chosen, values = styles(comparison), []
    ends: list[tuple[float, float, str, Style]] = []
    wanted = comparison.runs if only is None else only
    entries = [entry for entry in comparison.board.ranked() if entry.name in wanted]
    for entry in _gray_first(entries, chosen):
        epochs, points = _series(comparison.runs[entry.name], key)
        if not points:
            continue
        values += points
        style = chosen.get(entry.name)
        if style is None:
            alone = "." if len(points) == 1 else ""
            axes.plot(epochs, points, color=_FAINT, linewidth=0.8, marker=alone)
            continue
        axes.plot(
            epochs,
            points,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=3.5,
            linewidth=1.2,
        )
        ends.append((epochs[-1], points[-1], entry.name, style))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label_ends(axes, ends)
    return values


def _series(run: Run, key: str) -> tuple[list[float], list[float]]:
    """Return the epochs at which a metric was finite, and its values."""
    found = [(e["epoch"], e[key]) for e in run.history if math.isfinite(e.get(key, math.nan))]
    return [epoch for epoch, _ in found], [value for _, value in found]


def _gray_first(entries: Sequence[Entry], chosen: dict[str, Style]) -> list[Entry]:
    """Return the entries in drawing order: gray lines below coloured ones, the best on top."""
    last = [entry for entry in entries if entry.name in chosen]
    return [*(entry for entry in entries if entry.name not in chosen), *reversed(last)]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Style]]) -> None:
    """Write each line's name beside the plot, at the height of its end or as near as there is room.

    ``ends`` are x and y of the line's end, its name and its style.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[1])
    heights = _apart([(end[1] - low) / (high - low) for end in ordered], gap=0.085)
    for (x, y, name, style), height in zip(ordered, heights, strict=True):
        axes.annotate(
            _short(name),
            xy=(x, y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            color=style.colour,
            fontsize=8,
            va="center",
            arrowprops={
                "arrowstyle": "-", "color": style.colour, "linewidth": 0.5, "alpha": 0.6,
                "shrinkA": 2, "shrinkB": 2, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def _apart(heights: Sequence[float], *, gap: float) -> list[float]:
    """Return heights at least ``gap`` apart, in order, moved as little as a pass each way does."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    top = max(1.0, gap * (len(placed) - 1))
    for index in reversed(range(len(placed))):
        ceiling = top if index == len(placed) - 1 else placed[index + 1] - gap
        placed[index] = min(placed[index], ceiling)
    return placed


def _label(metric: str) -> str:
    return f"{metric_name(metric)}{', ' if unit(metric) else ''}{unit(metric)}"


def _short(name: str) -> str:
    """Return a name with its middle left out where it is too long to stand in a plot."""
    name = " ".join(name.split())
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _svg(draw: Draw, *, height_in: float, name: str) -> str:
    """Return a plot as an SVG element for a page, in the page's own ink and typeface."""
    with _look(name):
        figure = _figure(5.6, height_in)
        draw(figure.subplots())
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue().decode()
    element = text[text.index("<svg") :]
    for colour, of_page in _OF_PAGE.items():
        element = element.replace(colour, of_page)
    # Several plots stand in one page: their ids must differ, but for those in texts.
    tag = re.compile(r"<[^<>]*>")
    own = re.compile(r"""(\bid="|href="#|url\(#)""")
    return tag.sub(lambda found: own.sub(rf"\g<1>{name}-", found[0]), element)


@contextlib.contextmanager
def _look(salt: str) -> Iterator[None]:
    """Draw in our style whatever the machine's own says, with ids that do not change."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        # A name may hold characters that the typeface lacks; they are shown as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_LOOK | {"svg.hashsalt": f"rayfill-{salt}"})
        yield


def _figure(width_in: float, height_in: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
