"""The picture of an explanation."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medvlmoe import stamps
from medvlmoe.analysis.explain.explanation import Explanation
from medvlmoe.analysis.figures.style import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_LABELS_SHOWN = 8
_WARNING = (
    "Not for clinical use. Attention is not explanation: the maps show where numbers inside the model were large, not "
    "why it decided as it did. They can look convincing when it is wrong, and a finding outside them is not excluded. "
    "Weights of experts and gate say what was computed with, not what mattered. Grad-CAM is scaled to its own maximum."
)


def draw_explanation(
    found: Explanation, image_name: str, model_name: str, stamped: Sequence[str] = (), *, free_text: bool = False
) -> "Figure":
    """The image and its maps above; probabilities, experts and what the model read below.

    Args:
        found: the explanation.
        image_name: shown as the title.
        model_name: the checkpoint.
        stamped: stamps of the model.
        free_text: the text was written by the user and may name the label.
    """
    with house_style():
        figure = new_figure(height=6.5, width=8.6)
        grid = figure.add_gridspec(4, 1, height_ratios=[0.3, 3.05, 2.2, 0.95])
        head, above, below, words = (figure.add_subfigure(grid[row]) for row in range(4))
        head.text(0.01, 0.5, f"{image_name}, {model_name}", va="center", fontsize=7)
        warning = ["NOT FOR CLINICAL USE", *stamps.in_order(stamped)]
        head.text(0.99, 0.5, "   ".join(warning), va="center", ha="right", fontsize=8, weight="bold", color=VERMILION)
        left, middle, right = above.subplots(1, 3)
        _draw_image(left, found)
        _draw_map(middle, found, _above_uniform(found.attention), _attention_title(found))
        label = textwrap.shorten(_short(found.label), 24, placeholder="…")
        _draw_map(right, found, found.grad_cam, f"What raised “{label}” (Grad-CAM)")
        chances, experts, gate = below.subplots(1, 3, width_ratios=[1.15, 1.0, 0.9])
        _draw_probabilities(chances, found)
        _draw_experts(experts, found)
        _draw_gate(gate, found)
        _write(words, found, stamped, free_text)
    return figure


def _draw_image(axes: "Axes", found: Explanation) -> None:
    _show(axes, found.pixels)
    where = "" if found.slice_number is None else f", slice {found.slice_number} of {found.slices}"
    axes.set_title(f"The image, as the model sees it (square){where}", loc="left", fontsize=7)


def _draw_map(axes: "Axes", found: Explanation, heat: npt.NDArray[np.float32] | None, title: str) -> None:
    _show(axes, found.pixels)
    axes.set_title(title, loc="left", fontsize=7)
    if heat is None:
        axes.text(0.5, 0.04, "no map", transform=axes.transAxes, ha="center", color="white", fontsize=7,
                  bbox={"facecolor": BLACK, "alpha": 0.7, "linewidth": 0})  # fmt: skip
        return
    # Transparent where the map is low, so that the image stays readable.
    axes.imshow(heat, cmap="inferno", alpha=0.65 * heat, vmin=0, vmax=1, interpolation="bilinear")


def _above_uniform(attention: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
    """0 where there is no more attention than everywhere, 1 where it is highest, if that is at least twice as much."""
    if attention is None:
        return None
    return np.clip((attention - 1) / (max(float(attention.max()), 2.0) - 1), 0, 1)


def _attention_title(found: Explanation) -> str:
    if found.attention is None:
        return "Cross-attention: the model has none over places"
    return f"Where the text looked (attention, up to {found.attention.max():.1f} x even)"


def _show(axes: "Axes", pixels: npt.NDArray[np.uint8]) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_probabilities(axes: "Axes", found: Explanation) -> None:
    ranked = sorted(found.probability.items(), key=lambda item: -item[1])
    shown = ranked[:_LABELS_SHOWN]
    if found.label not in dict(shown):
        shown[-1] = (found.label, found.probability[found.label])
    places = range(len(shown) - 1, -1, -1)
    axes.barh(places, [value for _, value in shown], height=0.65,
              color=[VERMILION if name == found.label else GREY for name, _ in shown])  # fmt: skip
    for place, (_, value) in zip(places, shown, strict=True):
        axes.annotate(f"{value:.2f}", (value, place), xytext=(3, 0), textcoords="offset points", va="center")
    axes.set_yticks(list(places), [textwrap.shorten(_short(name), 26, placeholder="…") for name, _ in shown])
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.5, 1])
    axes.tick_params(axis="y", length=0)
    left = len(ranked) - len(shown)
    title = "Probability" + (f" ({left} labels are not shown)" if left else "")
    axes.set_title(title, loc="left", fontsize=7)


def _draw_experts(axes: "Axes", found: Explanation) -> None:
    weights = 100 * found.expert_weight_K
    axes.bar(range(len(weights)), weights, color=BLUE, width=0.7)
    for number, weight in enumerate(weights):
        if weight > 0:
            axes.annotate(f"{weight:.0f} %", (number, weight), xytext=(0, 2), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(weights)), [f"E{number}" for number in range(len(weights))])
    axes.set_ylim(0, 118)
    axes.set_yticks([0, 50, 100])
    axes.set_title("Experts that fired, by weight (%)", loc="left", fontsize=7)


def _draw_gate(axes: "Axes", found: Explanation) -> None:
    share = found.image_share
    if share is not None:
        axes.barh([3], [share], color=SKY, height=0.6)
        axes.barh([3], [1 - share], left=[share], color=ORANGE, height=0.6)
        axes.text(0.02, 3, f"image {100 * share:.0f} %", ha="left", va="center", color=BLACK)
        axes.text(0.98, 3, f"text {100 - 100 * share:.0f} %", ha="right", va="center", color=BLACK)
    rows = (("with all", found.probability[found.label]), ("patient text left out", found.without_text),
            ("image left out (grey)", found.without_image))  # fmt: skip
    axes.text(0, 2.05, f"{textwrap.shorten(_short(found.label), 30, placeholder='…')}, probability", fontsize=7)
    for place, (words, value) in zip((1.35, 0.7, 0.05), rows, strict=True):
        axes.text(0.04, place, words, va="center")
        axes.text(1, place, f"{value:.2f}", va="center", ha="right")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.4, 3.6)
    axes.axis("off")
    title = "The model has no gate" if share is None else "The gate's share of image and text"
    axes.set_title(title, loc="left", fontsize=7)


def _write(words: "SubFigure", found: Explanation, stamped: Sequence[str], free_text: bool) -> None:
    read = f"The model read: “{found.text}”" + (" (cut: longer than it reads)" if found.text_is_cut else "")
    if free_text:
        read += " This text was given by hand: if it names the finding, the prediction may only repeat it."
    lines = textwrap.wrap(read, 175)[:5]
    words.text(0.01, 0.98, "\n".join(lines), va="top", fontsize=6, linespacing=1.35)
    warning = [*textwrap.wrap(f"{_WARNING} {_resolution(found)}", 175), *stamps.lines(stamped)]
    words.text(0.01, 0.02, "\n".join(warning), va="bottom", fontsize=6, color=VERMILION, linespacing=1.35)


def _resolution(found: Explanation) -> str:
    places = " x ".join(map(str, found.places))
    return f"This model sees {places} places: no map is finer than that."


def _short(name: str) -> str:
    return name.rpartition("/")[2]
