"""Figure 3: which experts the samples of each label, and of each site, are sent to (reading A18).

Shape suffixes: K experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medvlmoe import stamps
from medvlmoe.analysis.figures.style import (
    BLACK,
    BLUE,
    GREY,
    SMALL,
    WIDTH,
    house_style,
    new_figure,
    write_stamps,
)
from medvlmoe.analysis.routing.dependence import Dependence, measure_dependence
from medvlmoe.analysis.routing.order import column_order, hungarian_order
from medvlmoe.analysis.routing.shares import Shares, label_shares, overall_share, site_shares
from medvlmoe.analysis.routing.table import RoutingTable
from medvlmoe.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.145  # inches: a row of a heatmap
_NO_BREAK = "\u00a0"
# Pale orange below uniform, ever darker purple above it: what goes to an expert stands out, what does not is quiet.
_COLOURS = ("#F5C27A", "#FFFFFF", "#9E9AC8", "#54278F", "#2D004B")
_STOPS = (0.0, 0.5, 0.7, 0.9, 1.0)
_WORDS = {
    "label": "disease",
    "label_within_site": "disease,\nhospital known",
    "site": "hospital",
    "site_within_label": "hospital,\ndisease known",
}


@dataclass(frozen=True, kw_only=True)
class RoutingPanel:
    """The routing of one model, ready to be drawn.

    Attributes:
        title: of the panel.
        labels: shares by label.
        sites: shares by site.
        overall_K: share of each expert over all samples.
        dependence: statistics and their nulls, by name.
        uniform_weight: an expert's share if routing were uniform.
        uniform_samples: share of samples an expert would then see.
        samples: how many.
        patients: how many.
        stamps: of the model and its data.
    """

    title: str
    labels: Shares
    sites: Shares
    overall_K: npt.NDArray[np.float64]
    dependence: dict[str, Dependence]
    uniform_weight: float
    uniform_samples: float
    samples: int
    patients: int
    stamps: tuple[str, ...] = ()

    @classmethod
    def of(cls, title: str, table: RoutingTable, *, permutations: int = 999, seed: int = 0) -> "RoutingPanel":
        """Everything that the panel shows of a routing table."""
        return cls(
            title=title,
            labels=label_shares(table),
            sites=site_shares(table),
            overall_K=overall_share(table),
            dependence=measure_dependence(table, permutations=permutations, seed=seed),
            uniform_weight=table.uniform_weight,
            uniform_samples=table.uniform_samples,
            samples=len(table),
            patients=len(np.unique(table.patient_N)),
            stamps=table.stamps,
        )


def draw_figure3(panels: Sequence[RoutingPanel], note: str = "") -> "Figure":
    """A column for each panel: load of the experts, labels x experts, sites x experts, information against chance.

    The rows stand in the Hungarian order of the first panel, so that panels can be compared row by row; the experts of
    each panel in its own (experts of two models have nothing to do with each other).

    Args:
        panels: the model with its own prompts first, then its control with one neutral prompt.
        note: a sentence below the figure.

    Raises:
        ConfigError: no panel, or panels of other labels or sites.
    """
    rows = _rows(panels)
    top = max(3 * panels[0].uniform_weight, *(_largest(panel) for panel in panels))
    highest = max(1.2 * panels[0].uniform_weight, *(float(panel.overall_K.max()) for panel in panels))
    stamped = stamps.in_order(stamp for panel in panels for stamp in panel.stamps)
    every_site = list(range(len(panels[0].sites.names)))
    heights = [0.42, _ROW * len(rows), _ROW * len(panels[0].sites.names), 1.15]
    with house_style():
        figure = new_figure(height=sum(heights) + 1.75, width=WIDTH if len(panels) > 1 else 4.6)
        grid = figure.add_gridspec(4, len(panels), height_ratios=heights)
        maps = []
        for column, panel in enumerate(panels):
            experts = column_order(panel.labels.weight_GK, rows)
            axes = [figure.add_subplot(grid[row, column]) for row in range(4)]
            _draw_load(axes[0], panel, experts, highest, named=column == 0)
            image = _draw_map(axes[1], panel.labels, rows, experts, panel.uniform_weight, top)
            _draw_map(axes[2], panel.sites, every_site, experts, panel.uniform_weight, top)
            if column == 0:
                _name_rows(axes[1], panel.labels, rows, "label")
                _name_rows(axes[2], panel.sites, every_site, "site")
            axes[2].set_xticks(range(len(experts)), [f"E{expert}" for expert in experts])
            axes[2].set_xlabel("expert")
            maps += axes[1:3]
            _draw_information(axes[3], panel, max(map(_longest, panels)), named=column == 0)
        _colour_bar(figure, image, maps, panels[0].uniform_weight, top)
        write_stamps(figure, stamped, "\n".join(filter(None, [_diagonals(panels), _READING, note])))
    return figure


def figure3_numbers(panels: Sequence[RoutingPanel], note: str = "") -> dict[str, Any]:
    """What :func:`draw_figure3` draws, as JSON values, in the order in which it is drawn."""
    rows = _rows(panels)
    found = []
    for panel in panels:
        experts = column_order(panel.labels.weight_GK, rows)
        found.append(
            {
                "title": panel.title,
                "experts": experts,
                "overall": panel.overall_K[experts].tolist(),
                "uniform_weight": panel.uniform_weight,
                "uniform_samples": panel.uniform_samples,
                "samples": panel.samples,
                "patients": panel.patients,
                "by_label": _share_numbers(panel.labels, rows, experts),
                "by_site": _share_numbers(panel.sites, list(range(len(panel.sites.names))), experts),
                "dependence": {name: {**asdict(one), "excess": one.excess} for name, one in panel.dependence.items()},
                "stamps": list(panel.stamps),
            }
        )
    return {"note": note, "panels": found}


def over_seeds(panels: Mapping[int, Sequence[RoutingPanel]]) -> dict[str, Any]:
    """The statistics of every seed, as JSON values: seed -> title of the panel -> statistic."""
    return {
        str(seed): {
            panel.title: {
                name: {"observed": one.observed, "excess": one.excess, "p_value": one.p_value}
                for name, one in panel.dependence.items()
            }
            for panel in found
        }
        for seed, found in sorted(panels.items())
    }


def seeds_note(panels: Mapping[int, Sequence[RoutingPanel]], shown: int) -> str:
    """Which seed is shown, and how far the others agree on what the figure asks: disease or hospital."""
    if len(panels) == 1:
        return f"One seed ({shown}): whether the experts of another divide the work alike is not known."
    words = []
    for title in dict.fromkeys(panel.title for found in panels.values() for panel in found):
        own = [panel for found in panels.values() for panel in found if panel.title == title]
        for name, meaning in (("label_within_site", "disease, hospital known"), ("site", "hospital")):
            excess = [100 * panel.dependence[name].excess for panel in own]
            beyond = sum(panel.dependence[name].p_value < 0.05 for panel in own)
            spread = f"{min(excess):.0f} to {max(excess):.0f} %"
            words.append(f"{title}, {meaning}: {spread} (p < 0.05 in {beyond} of {len(own)})")
    return f"Seed {shown} is shown. Over {len(panels)} seeds: {'; '.join(words)}."


_READING = (
    "Cells: mean share of the routing weight (%) over the test images with the label, or of the site; white is "
    "uniform. Rows and columns are ordered to show a diagonal (Hungarian method), which exists in noise too. "
    "Information: what the disease, or the hospital, tells of the expert; in per cent of the most possible, beyond "
    "chance. Grey: 95 % of what chance gives when each patient has another patient's routing (one of the same "
    "hospital, or with the same labels, where that is known)."
)


def _largest(panel: RoutingPanel) -> float:
    return max(float(panel.labels.weight_GK.max()), float(panel.sites.weight_GK.max()))


def _share_numbers(shares: Shares, rows: list[int], experts: list[int]) -> dict[str, Any]:
    return {
        "rows": [shares.names[row] for row in rows],
        "weight": shares.weight_GK[rows][:, experts].tolist(),
        "samples": shares.samples_GK[rows][:, experts].tolist(),
        "images": shares.count_G[rows].tolist(),
        "patients": shares.patient_count_G[rows].tolist(),
    }


def _rows(panels: Sequence[RoutingPanel]) -> list[int]:
    if not panels:
        raise ConfigError("figure 3 has nothing to show: no joint run is finished")
    first = panels[0]
    for panel in panels[1:]:
        if panel.labels.names != first.labels.names or panel.sites.names != first.sites.names:
            raise ConfigError("figure 3 compares models on the same labels and sites; these differ")
    if not first.labels.names:
        raise ConfigError("figure 3 has nothing to show: no label has a positive test image")
    return hungarian_order(first.labels.weight_GK)[0]


def _draw_load(axes: "Axes", panel: RoutingPanel, experts: list[int], highest: float, *, named: bool) -> None:
    axes.bar(range(len(experts)), 100 * panel.overall_K[experts], width=0.8, color="#BFBFBF")
    axes.axhline(100 * panel.uniform_weight, color=BLACK, linewidth=0.7, linestyle=(0, (4, 2)))
    axes.set_xlim(-0.5, len(experts) - 0.5)
    axes.set_ylim(0, 110 * highest)
    axes.set_xticks([])
    ticks = [0.0, 100 * panel.uniform_weight]
    axes.set_yticks(ticks, ["0", f"load if uniform: {ticks[1]:.3g} %"] if named else [])
    axes.set_title(f"{panel.title}\n{panel.samples:,} test images of {panel.patients:,} patients", loc="left")


def _draw_map(axes: "Axes", shares: Shares, rows: list[int], experts: list[int], uniform: float, top: float) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    share = 100 * shares.weight_GK[rows][:, experts]
    norm = TwoSlopeNorm(vmin=0, vcenter=100 * uniform, vmax=100 * top)
    image = axes.imshow(
        share,
        cmap=LinearSegmentedColormap.from_list("shares", list(zip(_STOPS, _COLOURS, strict=True))),
        norm=norm,
        aspect="auto",
        interpolation="nearest",
    )
    for row in range(share.shape[0]):
        for column in range(share.shape[1]):
            dark = float(norm(share[row, column])) > 0.75
            axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=SMALL,
                      color="white" if dark else BLACK)  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return image


def _name_rows(axes: "Axes", shares: Shares, rows: list[int], kind: str) -> None:
    names = [f"{_shown(shares.names[row])}  ({shares.patient_count_G[row]:,})" for row in rows]
    axes.set_yticks(range(len(names)), names)
    axes.annotate(f"{kind} (patients)", (0, 1), xycoords="axes fraction", xytext=(-3.5, 3), ha="right",
                  textcoords="offset points", fontsize=SMALL, color="#555555")  # fmt: skip


def _draw_information(axes: "Axes", panel: RoutingPanel, longest: float, *, named: bool) -> None:
    statistics = [panel.dependence[name] for name in _WORDS]
    places = range(len(statistics) - 1, -1, -1)
    axes.barh(places, [one.null_high for one in statistics], height=0.62, color="#D9D9D9", zorder=1)
    for place, one in zip(places, statistics, strict=True):
        beyond = one.p_value < 0.05
        axes.plot([one.observed], [place], marker="o", markersize=4, color=BLUE if beyond else GREY, zorder=3,
                  markerfacecolor=BLUE if beyond else "white")  # fmt: skip
        axes.annotate(f"{_per_cent(one.excess)} ({_p_value(one)})", (max(one.observed, one.null_high), place),
                      xytext=(6, 0), textcoords="offset points", va="center", fontsize=SMALL)  # fmt: skip
    axes.set_xlim(0, max(1.75 * longest, 1e-3))
    axes.set_ylim(-0.6, len(statistics) - 0.4)
    axes.set_yticks(list(places), list(_WORDS.values()) if named else [])
    axes.set_xlabel("information about the expert (bits)")
    axes.tick_params(axis="y", length=0)


def _longest(panel: RoutingPanel) -> float:
    return max(max(panel.dependence[name].observed, panel.dependence[name].null_high) for name in _WORDS)


def _colour_bar(figure: "Figure", image: Any, maps: list["Axes"], uniform: float, top: float) -> None:
    bar = figure.colorbar(image, ax=maps, fraction=0.03, pad=0.01, aspect=45)
    bar.set_ticks([0.0, 100 * uniform, 100 * top], labels=["0", f"{100 * uniform:.3g}\nuniform", f"{100 * top:.0f} %"])
    bar.outline.set_linewidth(0.4)


def _diagonals(panels: Sequence[RoutingPanel]) -> str:
    parts = []
    for panel in panels:
        one = panel.dependence["diagonal"]
        parts.append(
            f"{panel.title}: diagonal {100 * one.observed:.0f} % "
            f"(by chance {100 * one.null_mean:.0f} %, up to {100 * one.null_high:.0f} %; {_p_value(one)})"
        )
    return ". ".join(parts) + ". The paper says more than 35 %."


def _per_cent(share: float) -> str:
    return f"{round(100 * share)} %".replace("-", "−")


def _p_value(one: Dependence) -> str:
    smallest = 1 / (1 + one.permutations)
    words = f"p ≤ {smallest:.3g}" if one.p_value <= smallest else f"p = {one.p_value:.2g}"
    return words.replace(" ", _NO_BREAK)


def _shown(name: str) -> str:
    block, slash, label = name.partition("/")
    return f"{_SHORT.get(block, block.replace('_', ' '))}: {label}" if slash else name


_SHORT = {"colorectal_tissue": "tissue", "diabetic_retinopathy": "DR"}
