"""What figure 2 shows is what its JSON says."""

import numpy as np
import pytest

from medvlmoe.analysis.figures.figure2 import OVER_PATIENTS, Figure2Cell, draw_figure2, figure2_numbers
from medvlmoe.errors import ConfigError
from medvlmoe.stamps import LEAKY, PHANTOM

CELLS = [
    Figure2Cell(dataset="CXR", model="ours", auc=0.71, low=0.66, high=0.78, seeds=3, images=50, paper=0.893,
                paper_half_width=0.004, stamps=(PHANTOM,)),
    Figure2Cell(dataset="CXR", model="other", auc=0.64, low=0.6, high=0.7, seeds=3, images=50, paper=0.8),
    Figure2Cell(dataset="Retina", model="ours", auc=0.55, seeds=1, images=20, stamps=(PHANTOM, LEAKY)),
    Figure2Cell(dataset="Retina", model="other", auc=None, paper=0.832),
]  # fmt: skip


def drawn(figure) -> list[tuple[float, float | None, float | None]]:
    """Height of each marker with the ends of its bar, in the order drawn."""
    found = []
    for container in figure.axes[0].containers:
        line, _, bars = container.lines
        ends = [None, None] if not bars else [float(end) for end in bars[0].get_segments()[0][:, 1]]
        found.append((float(line.get_ydata()[0]), *ends))
    return found


def test_markers_and_bars_are_the_numbers():
    expected = []
    for row in (figure2_numbers(CELLS)["cells"][place] for place in (0, 2, 1, 3)):  # model by model
        if row["paper"] is not None:
            half = row["paper_half_width"]
            value = 100 * row["paper"]
            expected.append((value, *((None, None) if half is None else (value - 100 * half, value + 100 * half))))
        if row["auc"] is not None:
            ends = [None if row[end] is None else 100 * row[end] for end in ("low", "high")]
            expected.append((100 * row["auc"], *ends))
    found = drawn(draw_figure2(CELLS))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert [value is None for value in one] == [value is None for value in other]
        np.testing.assert_allclose([v for v in one if v is not None], [v for v in other if v is not None])


def test_stamps_missing_cells_and_intervals_are_told():
    figure = draw_figure2(CELLS, note="Small data.")
    assert figure.get_suptitle() == "LEAKY  PHANTOM"
    below = figure.get_supxlabel()
    assert "t-interval over seeds (n = 3)" in below and "Small data." in below and "synthetic" in below
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "CXR\nn = 50\nPHANTOM",
        "Retina\nn = 20\nLEAKY\nPHANTOM",
    ]
    assert [text.get_text() for text in figure.axes[0].texts].count("n/a") == 1


def test_the_kind_of_interval_is_told():
    cell = Figure2Cell(dataset="CXR", model="ours", auc=0.7, low=0.6, high=0.8, interval=OVER_PATIENTS, seeds=1)
    assert "over patients" in draw_figure2([cell]).get_supxlabel()
    assert "No intervals" in draw_figure2([CELLS[2]]).get_supxlabel()


def test_a_wide_interval_does_not_squash_the_others():
    wide = Figure2Cell(dataset="CXR", model="ours", auc=0.6, low=-0.1, high=1.3, seeds=2)
    axes = draw_figure2([wide, CELLS[1]]).axes[0]
    assert axes.get_ylim() == (40, 101)
    assert sorted((line.get_marker(), line.get_ydata()[0]) for line in axes.lines if line.get_marker() in "v^") == [
        ("^", 101),
        ("v", 40),
    ]


def test_nothing_and_twice_are_refused():
    with pytest.raises(ConfigError, match="nothing to show"):
        draw_figure2([])
    with pytest.raises(ConfigError, match="ours on CXR twice"):
        draw_figure2([CELLS[0], CELLS[0]])
