"""What figure 3 shows is what its JSON says."""

import dataclasses
import json

import numpy as np
import pytest

from medvlmoe.analysis.figures.figure3 import RoutingPanel, draw_figure3, figure3_numbers, over_seeds, seeds_note
from medvlmoe.analysis.figures.style import save_figure
from medvlmoe.analysis.routing import RoutingTable
from medvlmoe.errors import ConfigError
from medvlmoe.stamps import PHANTOM


def table(seed: int, rows: int = 60) -> RoutingTable:
    generator = np.random.default_rng(seed)
    weight_NK = np.where(generator.random((rows, 4)) < 0.5, generator.random((rows, 4)), 0) + 0.01
    labels_NY = np.eye(6, dtype=np.float32)[np.arange(rows) % 6]
    return RoutingTable(
        weight_NK=weight_NK / weight_NK.sum(axis=1, keepdims=True),
        gate_N2=np.ones((rows, 2)),
        labels_NY=labels_NY,
        site_N=np.arange(rows) % 2,
        patient_N=np.arange(rows) // 2,
        labels=("Mass", "Nodule", "Edema", "Hernia", "diabetic_retinopathy/mild", "diabetic_retinopathy/none"),
        sites=("north", "south"),
        top_k=2,
        stamps=(PHANTOM,),
    )


@pytest.fixture(scope="module")
def panels() -> list[RoutingPanel]:
    return [RoutingPanel.of(name, table(seed), permutations=19) for seed, name in enumerate(("own", "neutral"))]


def test_what_is_drawn_is_what_is_written(panels):
    figure, numbers = draw_figure3(panels), figure3_numbers(panels)
    images = [axes for axes in figure.axes if axes.images]
    for number, panel in enumerate(numbers["panels"]):
        load, by_label, by_site, information = figure.axes[4 * number : 4 * number + 4]
        assert [by_label, by_site] == images[2 * number : 2 * number + 2]
        np.testing.assert_allclose([bar.get_height() for bar in load.patches], 100 * np.array(panel["overall"]))
        assert load.lines[0].get_ydata()[0] == pytest.approx(100 * panel["uniform_weight"]) == pytest.approx(25)
        for axes, found in ((by_label, panel["by_label"]), (by_site, panel["by_site"])):
            shares = 100 * np.array(found["weight"])
            np.testing.assert_allclose(axes.images[0].get_array(), shares)
            shown = [int(text.get_text()) for text in axes.texts if text.get_text().isdecimal()]
            assert shown == [round(share) for share in shares.flatten()]
        statistics = [panel["dependence"][name] for name in ("label", "label_within_site", "site", "site_within_label")]
        observed = [line.get_xdata()[0] for line in information.lines]
        np.testing.assert_allclose(observed, [one["observed"] for one in statistics])
        np.testing.assert_allclose(
            [bar.get_width() for bar in information.patches], [one["null_high"] for one in statistics]
        )
        assert [axes.get_text() for axes in by_site.get_xticklabels()] == [f"E{e}" for e in panel["experts"]]
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert [name.split("  (")[0].replace("DR: ", "diabetic_retinopathy/") for name in names] == numbers["panels"][0][
        "by_label"
    ]["rows"]


def test_every_panel_has_the_rows_of_the_first_and_its_own_matching(panels):
    numbers = figure3_numbers(panels)["panels"]
    assert numbers[0]["by_label"]["rows"] == numbers[1]["by_label"]["rows"]
    for panel, found in zip(panels, numbers, strict=True):
        assert sorted(found["experts"]) == [0, 1, 2, 3]
        place = panel.labels.names.index(found["by_label"]["rows"][0])
        np.testing.assert_allclose(found["by_label"]["weight"][0], panel.labels.weight_GK[place][found["experts"]])


def test_words_below_the_figure(panels):
    figure = draw_figure3(panels, note="Three rounds.")
    words = " ".join(figure.get_supxlabel().split())
    assert "own: diagonal" in words and "The paper says more than 35 %." in words and "Three rounds." in words
    assert "in noise too" in words and "PHANTOM: synthetic" in words
    assert figure.get_suptitle() == "PHANTOM"


def test_panels_of_other_labels_are_refused(panels):
    other = dataclasses.replace(
        table(0), labels=("A", "B", "C", "D", "diabetic_retinopathy/mild", "diabetic_retinopathy/none")
    )
    with pytest.raises(ConfigError, match="same labels"):
        draw_figure3([panels[0], RoutingPanel.of("other", other, permutations=1)])
    with pytest.raises(ConfigError, match="nothing to show"):
        draw_figure3([])


def test_files_are_whole_and_the_same_each_time(panels, tmp_path):
    for folder in ("once", "again"):
        written = save_figure(draw_figure3(panels), tmp_path / folder / "figure3", figure3_numbers(panels), dpi=60)
        assert [path.name for path in written] == ["figure3.svg", "figure3.png", "figure3.json"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "once" / path.name).read_bytes(), path.name
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "figure3.json",
        "figure3.png",
        "figure3.svg",
    ]
    assert json.loads((tmp_path / "again" / "figure3.json").read_text())["panels"][0]["stamps"] == ["PHANTOM"]
    assert b"<dc:date>" not in (tmp_path / "again" / "figure3.svg").read_bytes()


def test_other_seeds_are_told(panels):
    seeds = {0: [panels[0]], 3: [panels[1]]}
    found = over_seeds(seeds)
    assert found["3"]["neutral"]["site"]["p_value"] == panels[1].dependence["site"].p_value
    assert "not known" in seeds_note({0: panels}, 0)
    same = {0: [panels[0]], 1: [panels[0]]}
    excess = f"{100 * panels[0].dependence['site'].excess:.0f}"
    assert f"own, hospital: {excess} to {excess} %" in seeds_note(same, 0)
    assert "Seed 0 is shown. Over 2 seeds" in seeds_note(same, 0)
