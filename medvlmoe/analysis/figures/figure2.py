"""Figure 2: test AUC of every model on every data set, ours and the paper's (reading A17: AUC only, all of them)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from medvlmoe import stamps
from medvlmoe.analysis.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    VERMILION,
    house_style,
    new_figure,
    write_stamps,
)
from medvlmoe.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (SKY, "v"), (VERMILION, "P"), (GREY, "X"))
_GROUP, _WIDEST_STEP = 0.8, 0.2  # of the distance between two data sets
_FURTHEST = 15.0  # points below the lowest value: wider intervals end in an arrow at the edge
OVER_SEEDS, OVER_PATIENTS = "95 % t-interval over seeds", "95 % bootstrap over patients, one seed"


@dataclass(frozen=True, kw_only=True)
class Figure2Cell:
    """One model on one data set. Areas are shares, not per cent.

    Attributes:
        dataset: name as it is shown.
        model: name as it is shown.
        auc: mean over the seeds; ``None`` where the model was not run or no label has both classes.
        low: lower end of the interval; ``None`` without one.
        high: upper end.
        interval: what the interval is over.
        seeds: how many runs the mean is of.
        images: test images.
        paper: the paper's value.
        paper_half_width: half of its interval.
        stamps: of our result.
    """

    dataset: str
    model: str
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = OVER_SEEDS
    seeds: int = 0
    images: int | None = None
    paper: float | None = None
    paper_half_width: float | None = None
    stamps: tuple[str, ...] = ()


def draw_figure2(cells: Sequence[Figure2Cell], note: str = "") -> "Figure":
    """A group for each data set, in it a place for each model: ours filled with its interval, the paper's open.

    Args:
        cells: in the order of data sets and of models to show; a pair that is missing was not run.
        note: a sentence below the figure.

    Raises:
        ConfigError: there is nothing to draw, or a pair is there twice.
    """
    datasets, models = _names(cells)
    stamped = stamps.in_order(stamp for cell in cells for stamp in cell.stamps)
    with house_style():
        figure = new_figure(height=3.5)
        axes = figure.add_subplot()
        low, high = _range(cells)
        axes.set_ylim(low, high)
        axes.set_xlim(-0.55, len(datasets) - 0.45)
        axes.axhline(50, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate("chance", (len(datasets) - 0.46, 50), ha="right", va="bottom", fontsize=SMALL, color=GREY)
        for place in range(1, len(datasets)):
            axes.axvline(place - 0.5, color="#DDDDDD", linewidth=0.6, zorder=0)
        step = min(_GROUP / len(models), _WIDEST_STEP)
        by_name = {(cell.dataset, cell.model): cell for cell in cells}
        for number, model in enumerate(models):
            for place, dataset in enumerate(datasets):
                x = place + (number + 0.5 - len(models) / 2) * step
                _draw_cell(axes, by_name.get((dataset, model)), x, step, *_LOOKS[number % len(_LOOKS)])
        axes.set_xticks(range(len(datasets)), [_tick(dataset, cells) for dataset in datasets])
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("Test AUC (%), mean over labels")
        axes.grid(axis="y", color="#EEEEEE", linewidth=0.5)
        axes.set_axisbelow(True)
        _legend(figure, models, any(cell.paper is not None for cell in cells))
        write_stamps(figure, stamped, " ".join(part for part in (_intervals(cells), note) if part))
    return figure


def figure2_numbers(cells: Sequence[Figure2Cell], note: str = "") -> dict[str, Any]:
    """What :func:`draw_figure2` draws, as JSON values."""
    datasets, models = _names(cells)
    rows = [{**asdict(cell), "stamps": list(cell.stamps)} for cell in cells]
    return {"datasets": datasets, "models": models, "note": note, "cells": rows}


def _names(cells: Sequence[Figure2Cell]) -> tuple[list[str], list[str]]:
    if not cells:
        raise ConfigError("figure 2 has nothing to show: no cell is finished")
    pairs = [(cell.dataset, cell.model) for cell in cells]
    twice = next((pair for pair in pairs if pairs.count(pair) > 1), None)
    if twice is not None:
        raise ConfigError(f"figure 2 has {twice[1]} on {twice[0]} twice")
    return list(dict.fromkeys(pair[0] for pair in pairs)), list(dict.fromkeys(pair[1] for pair in pairs))


def _draw_cell(axes: "Axes", cell: Figure2Cell | None, x: float, step: float, colour: str, marker: str) -> None:
    if cell is not None and cell.paper is not None:
        half = None if cell.paper_half_width is None else 100 * cell.paper_half_width
        axes.errorbar(x + 0.24 * step, 100 * cell.paper, yerr=half, fmt=marker, markersize=3.4, color=colour,
                      markerfacecolor="white", markeredgewidth=0.7, elinewidth=0.6, alpha=0.75, zorder=2)  # fmt: skip
    if cell is None or cell.auc is None:
        axes.annotate("n/a", (x, axes.get_ylim()[0]), xytext=(0, 3), textcoords="offset points", ha="center",
                      va="bottom", fontsize=SMALL, rotation=90, color=GREY)  # fmt: skip
        return
    ends = None
    if cell.low is not None and cell.high is not None:
        ends = [[100 * (cell.auc - cell.low)], [100 * (cell.high - cell.auc)]]
    x -= 0.16 * step
    low, high = axes.get_ylim()
    for end, edge, arrow, beyond in ((cell.low, low, "v", -1), (cell.high, high, "^", 1)):
        if end is not None and beyond * (100 * end - edge) > 0:
            axes.plot([x], [edge], marker=arrow, color=colour, markersize=3.5, clip_on=False, zorder=4)
    axes.errorbar(x, 100 * cell.auc, yerr=ends, fmt=marker, markersize=4.2, color=colour,
                  markeredgecolor="white", markeredgewidth=0.3, elinewidth=1.0, capsize=1.8, capthick=0.8,
                  zorder=3)  # fmt: skip


def _range(cells: Sequence[Figure2Cell]) -> tuple[float, float]:
    """Ends of the axis: all values, and their intervals unless these reach far below every value."""
    values = [100 * value for cell in cells for value in (cell.auc, cell.paper) if value is not None] or [50.0]
    ends = [100 * end for cell in cells for end in (cell.low, cell.high) if end is not None]
    lowest = max(min([*values, *ends]), min(values) - _FURTHEST)
    return max(0.0, min(48.0, 5 * ((lowest - 2) // 5))), min(101.0, max(70.0, max([*values, *ends]) + 3))


def _tick(dataset: str, cells: Sequence[Figure2Cell]) -> str:
    own = [cell for cell in cells if cell.dataset == dataset]
    images = {cell.images for cell in own if cell.images is not None}
    lines = [dataset]
    if images:
        lines.append("n = " + "/".join(f"{count:,}" for count in sorted(images)))
    lines += stamps.in_order(stamp for cell in own for stamp in cell.stamps)
    return "\n".join(lines)


def _legend(figure: "Figure", models: Sequence[str], with_paper: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_LOOKS[n % len(_LOOKS)][0], marker=_LOOKS[n % len(_LOOKS)][1], linewidth=0, markersize=4.2)
        for n in range(len(models))
    ]
    labels = list(models)
    if with_paper:
        handles.append(Line2D([], [], color=BLACK, marker="o", linewidth=0, markersize=3.4, markerfacecolor="white"))
        labels.append("open: the paper")
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, handletextpad=0.2,
                  columnspacing=1.2)  # fmt: skip


def _intervals(cells: Sequence[Figure2Cell]) -> str:
    """What the bars are."""
    drawn = [cell for cell in cells if cell.low is not None and cell.high is not None]
    kinds = list(dict.fromkeys(cell.interval for cell in drawn))
    if not kinds:
        return "No intervals: one seed and no bootstrap."
    seeds = sorted({cell.seeds for cell in drawn if cell.interval == OVER_SEEDS})
    words = [kind + (f" (n = {'/'.join(map(str, seeds))})" if kind == OVER_SEEDS else "") for kind in kinds]
    return f"Bars: {'; '.join(words)}."
