"""Figure 2 shows the entries of Table 1."""

import pytest

from medvlmoe.analysis.figures.figure2 import OVER_PATIENTS, OVER_SEEDS, draw_figure2
from medvlmoe.analysis.reproduction.entries import Entry
from medvlmoe.analysis.reproduction.figure2_cells import figure2_cells
from medvlmoe.analysis.reproduction.paper_values import PaperValue


def entry(dataset: str, kind: str, **more) -> Entry:
    facts = {"auc": 70.0, "half_width": 3.0, "seeds": [0, 1, 2], "images": 40} | more
    return Entry(dataset=dataset, kind=kind, model="medvlmoe", title="MedVLMoE", **facts)


def test_numbers_are_those_of_the_table():
    (cell,) = figure2_cells([entry("chestxray14", "chestxray14", paper=PaperValue(89.3, 0.4), stamps=["SUBSET"])])
    assert (cell.dataset, cell.auc, cell.interval, cell.seeds) == ("ChestX-ray14", 0.7, OVER_SEEDS, 3)
    assert (cell.low, cell.high) == pytest.approx((0.67, 0.73))
    assert (cell.paper, cell.paper_half_width) == pytest.approx((0.893, 0.004))
    assert cell.stamps == ("SUBSET",)


def test_one_seed_has_the_interval_over_patients():
    (cell,) = figure2_cells([entry("covid", "manifest", half_width=None, seeds=[0], patients=(55.0, 80.0))])
    assert (cell.dataset, cell.low, cell.high, cell.interval) == ("covid", 0.55, 0.8, OVER_PATIENTS)


def test_two_hospitals_of_one_benchmark_keep_their_names():
    cells = figure2_cells([entry("nih_a", "chestxray14"), entry("nih_b", "chestxray14"), entry("path", "pathmnist")])
    assert [cell.dataset for cell in cells] == ["nih_a", "nih_b", "PathMNIST"]
    draw_figure2(cells)
