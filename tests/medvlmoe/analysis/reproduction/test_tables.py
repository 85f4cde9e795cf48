"""The tables say what ``results.json`` says, and what the paper says against itself."""

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from medvlmoe.analysis.reproduction import paper_values
from medvlmoe.analysis.reproduction.anchors import ANCHORS, anchor_of
from medvlmoe.analysis.reproduction.compare import with_comparisons, with_intervals
from medvlmoe.analysis.reproduction.entries import entries_of
from medvlmoe.analysis.reproduction.figure2_cells import figure2_cells
from medvlmoe.analysis.reproduction.render import as_html, write_document
from medvlmoe.analysis.reproduction.results import CellResult, Results, read_results, write_results
from medvlmoe.analysis.reproduction.tables import table1, table2
from medvlmoe.analysis.table import t_interval
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError
from medvlmoe.model.ablations import FULL
from medvlmoe.training.predictions import Predictions, save_predictions

PROTOCOL = {
    "model": "tiny", "image_size": 32, "backbone": "test_resnet", "vision_weights": "random", "text_weights": "random",
    "augment": False, "seeds": [0, 1], "baseline_backbone": "shared", "text_at_test": "none", "epochs": 2,
    "batch_size": 32, "encoder_learning_rate": 1e-3, "head_learning_rate": 1e-3, "weight_decay": 0.05,
    "warmup_epochs": 1.0, "patience": 15, "precision": "float32", "pretraining_epochs": 5,
    "baseline_image_weights": "random", "baseline_text_weights": "random",
}  # fmt: skip
SPACE = LabelSpace.single("test", "multilabel", ["effusion", "oedema"])
PAIRS1 = [("nih", FULL), ("nih", "convirt"), ("retina", FULL), ("retina", "convirt")]
PAIRS2 = [("nih", FULL), ("nih", "single_ffn"), ("nih", "experts_8")]


def write_cell(root: Path, dataset: str, model: str, seed: int, stamps: list[str]) -> CellResult:
    labels = np.random.default_rng(5).random((40, 2)) < 0.4
    noise = np.random.default_rng([len(dataset), len(model), seed]).normal(size=(40, 2))
    scores = torch.from_numpy(noise + {FULL: 1.2, "convirt": 0.5}.get(model, 0.9) * labels)
    predictions = Predictions(
        scores_NY=scores, labels_NY=torch.from_numpy(labels).float(), patient_ids=[f"p{row // 2}" for row in range(40)],
        label_space=SPACE,
    )  # fmt: skip
    folder = root / "cells" / f"{dataset}-{model}-{seed}"
    save_predictions(folder / "predictions" / f"{dataset}.safetensors", predictions)
    areas = {
        name: float(
            np.mean([[a > b for b in scores[~labels[:, y], y].tolist()] for a in scores[labels[:, y], y].tolist()])
        )
        for y, name in enumerate(SPACE.labels)
    }
    entry = {
        "split": "test", "n": 40, "auc": sum(areas.values()) / 2, "auc_ci": [0.4, 0.9], "labels_averaged": 2,
        "accuracy": None, "quadratic_kappa": None, "per_label": areas, "loss": 0.5, "subset_auc": {}, "stamps": stamps,
        "text_only_auc": 0.55,
    }  # fmt: skip
    kind, policies = (
        ("chestxray14", {"split": "official", "text": "context"})
        if dataset == "nih"
        else ("retinamnist", {"size": "64"})
    )
    return CellResult(
        dataset=dataset, kind=kind, model=model, seed=seed, status="finished", folder=f"cells/{dataset}-{model}-{seed}",
        identity=f"{dataset}{model}{seed}", sites={dataset: entry}, policies=policies, stamps=stamps, seconds=1.0,
        cost={"parameters": 1000.0, "trainable": 1000.0, "active": 600.0, "flops": 5e6},
    )  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Results:
    cells = [
        write_cell(tmp_path, dataset, model, seed, ["SUBSET"] if dataset == "nih" else [])
        for dataset, model in (("nih", FULL), ("nih", "convirt"), ("nih", "single_ffn"), ("retina", FULL))
        for seed in (0, 1, 2)
    ]
    cells += [
        CellResult(dataset="retina", kind="retinamnist", model="convirt", seed=seed, status="failed",
                   reason="it is | broken & 50 % wrong_here") for seed in (0, 1, 2)
    ]  # fmt: skip
    cells += [
        CellResult(**{**vars(cell), "model": "experts_8"})
        for cell in cells
        if (cell.dataset, cell.model) == ("nih", FULL)
    ]
    made = Results(command="medvlmoe reproduce", preset="tiny", protocol=PROTOCOL, cells=cells, root=tmp_path)
    made = with_comparisons(with_intervals(made, [*PAIRS1, *PAIRS2]), {"table1": PAIRS1, "table2": PAIRS2})
    write_results(made)
    return read_results(tmp_path)


def test_results_survive_their_file(results: Results, tmp_path: Path) -> None:
    assert read_results(tmp_path) == results
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a file of results"):
        read_results(tmp_path)


def test_the_csv_has_the_numbers_of_the_json(results: Results) -> None:
    paths = {path.suffix: path for path in write_document(table1(results, PAIRS1), results.root)}
    rows = {(row["dataset"], row["model"]): row for row in csv.DictReader(io.StringIO(paths[".csv"].read_text()))}
    assert list(rows) == PAIRS1
    for (dataset, model), row in rows.items():
        areas = [100 * cell.sites[dataset]["auc"] for cell in results.finished(dataset, model)]
        if not areas:
            assert row["auc"] == "" and "seed 0: it is | broken" in row["failed"]
            continue
        mean, half = t_interval(areas)
        assert float(row["auc"]) == pytest.approx(mean) and float(row["t_half_width"]) == pytest.approx(half)
        paper = paper_values.TABLE1[model]["chestxray14" if dataset == "nih" else "retinamnist"]
        assert float(row["paper"]) == paper.auc
        assert float(row["ours_minus_paper"]) == pytest.approx(mean - paper.auc)
        assert [float(row["patients_low"]), float(row["patients_high"])] == pytest.approx(
            [100 * bound for bound in results.intervals[dataset][model]]
        )
    test = results.comparisons[0]
    assert (test.dataset, test.second, test.family) == ("nih", "convirt", 1)
    difference = float(rows["nih", FULL]["auc"]) - float(rows["nih", "convirt"]["auc"])
    assert float(rows["nih", "convirt"]["medvlmoe_minus_it"]) == pytest.approx(difference)
    assert float(rows["nih", "convirt"]["p_holm"]) == pytest.approx(test.p_adjusted)


def test_what_is_read_is_rounded_from_the_same_numbers(results: Results) -> None:
    """Markdown, LaTeX and HTML show each mean and half-width to one decimal."""
    document = table1(results, PAIRS1)
    texts = {path.suffix: path.read_text() for path in write_document(document, results.root)}
    for record in document.records:
        if record["auc"] is None:
            continue
        mean, half = f"{record['auc']:.1f}", f"{record['t_half_width']:.1f}"
        assert f"{mean} ± {half} (n = 3)" in texts[".md"]
        assert f"{mean} ± {half} (n = 3)" in texts[".html"]
        assert f"{mean} $\\pm$ {half} (n = 3)" in texts[".tex"]
        delta = f"{record['ours_minus_paper']:+.1f}".replace("-", "−")
        assert delta in texts[".md"] and delta in texts[".html"]
    for text in texts.values():
        assert "SUBSET" in text
    assert "broken \\& 50 \\% wrong\\_here" in texts[".tex"]
    assert "it is | broken &amp; 50 % wrong_here" in texts[".html"]
    for line in texts[".md"].splitlines():
        if line.startswith("| MedVLMoE"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 11), "a row as long as its header"


def test_latex_rows_are_as_long_as_their_header(results: Results) -> None:
    text = next(p for p in write_document(table2(results, PAIRS2), results.root) if p.suffix == ".tex").read_text()
    for block in text.split(r"\begin{tabular}")[1:]:
        lines = [line for line in block.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}")


def test_ablations_stand_with_their_loss_and_cost(results: Results) -> None:
    document = table2(results, PAIRS2)
    full, ffn, same = document.sheets[0].rows
    assert ffn[document.sheets[0].header.index("paper's loss")] == "−3.2"
    assert same[3] == "the same runs" and full[3] == "-"
    test = next(c for c in results.comparisons if c.table == "table2")
    assert ffn[3].startswith(f"{-100 * test.test['difference']:+.1f}".replace("-", "−"))
    assert ffn[document.sheets[0].header.index("parameters") :][:3] == ["1 k", "600", "5 M"]
    half = document.sheets[0].header.index("over seeds")
    assert ffn[half] == f"± {100 * test.test['seeds_half_width']:.1f} (n = 3)" and same[half] == full[half] == "-"
    losses = [
        100 * (results.finished("nih", "single_ffn")[n].sites["nih"]["auc"] - c.sites["nih"]["auc"])
        for n, c in enumerate(results.finished("nih", FULL))
    ]
    assert 100 * test.test["seeds_half_width"] == pytest.approx(t_interval(losses)[1])


def test_only_the_very_same_runs_are_called_so(results: Results) -> None:
    """An ablation whose AUC happens to be the full model's is another model all the same."""
    other = [CellResult(**{**vars(c), "identity": f"other{c.seed}"}) if c.model == "experts_8" else c
             for c in results.cells]  # fmt: skip
    without_tests = Results(**{**vars(results), "cells": other, "comparisons": []})
    assert table2(without_tests, PAIRS2).sheets[0].rows[2][3] == "-"


def test_policies_are_those_of_the_finished_runs(results: Results) -> None:
    """What the images were paired with is known of a finished run only."""
    finished = [c for c in results.cells if (c.dataset, c.model) == ("nih", "convirt")]
    policies = {**finished[0].policies, "pretraining_text": "captions"}
    paired = [CellResult(**{**vars(cell), "policies": policies}) for cell in finished[1:]]
    failed = CellResult(dataset="nih", kind="chestxray14", model="convirt", seed=0, status="failed", reason="killed")
    others = [c for c in results.cells if c not in finished]
    mixed = Results(**{**vars(results), "cells": [failed, *paired, *others]})
    sheet = next(s for s in table1(mixed, PAIRS1).sheets if s.title.startswith("nih"))
    assert any("captions" in note for note in sheet.notes)


def test_nothing_is_compared_with_a_target(results: Results) -> None:
    """A number that equals the paper's gets no other mark than one that does not."""
    document = table1(results, PAIRS1)
    assert not re.search(r"reproduced|matches|confirmed|✓", as_html(document))


def test_the_papers_deltas_are_computed() -> None:
    deltas = [paper_values.delta_to("clip_med", kind) for kind in paper_values.BENCHMARKS]
    assert deltas == [6.2, 5.6, 6.3, 5.8, 6.3]
    every = {paper_values.delta_to(m, k) for m in paper_values.TABLE1 for k in paper_values.BENCHMARKS}
    assert 3.7 not in every
    best = {kind: paper_values.best_baseline(kind) for kind in paper_values.BENCHMARKS}
    assert best == {"chestxray14": "biovil", "chexpert": "clip_med", "mimic_cxr": "biovil", "pathmnist": "clip_med",
                    "retinamnist": "clip_med"}  # fmt: skip
    full = paper_values.TABLE2[FULL].auc
    losses = [round(value.auc - full, 1) for name, value in paper_values.TABLE2.items() if name != FULL]
    assert losses == [-3.2, -4.6, -6.1, -7.8]


def test_footnotes_stand_where_their_numbers_do(results: Results) -> None:
    document = table1(results, PAIRS1)
    header = document.sheets[0].header
    number = re.search(r"\[(\d+)\]", header[2])
    assert number and "above every published result" in document.footnotes[int(number[1]) - 1]
    assert any("3.7 is nowhere" in note for note in document.footnotes)
    assert not any("PathMNIST alone" in note or "ResNet-18 at 28 px" in note for note in document.footnotes), (
        "not shown"
    )


def test_an_anchor_is_the_models_own_or_the_data_sets() -> None:
    assert anchor_of("chestxray14", "convirt").auc == 81.3
    assert anchor_of("chestxray14", "clip_med").system == "MRM, MaCo"
    assert anchor_of("pathmnist", FULL, 224).auc == 99.79 and anchor_of("pathmnist", FULL, 64).auc == 98.24
    assert anchor_of("manifest", FULL) is None
    assert all(anchor.source and 50 < anchor.auc < 100 for anchor in ANCHORS)


def test_figure_2_has_the_numbers_of_table_1(results: Results) -> None:
    entries = entries_of(results, "table1", PAIRS1)
    cells = figure2_cells(entries)
    assert [cell.dataset for cell in cells] == ["ChestX-ray14"] * 2 + ["RetinaMNIST"] * 2
    for entry, cell in zip(entries, cells, strict=True):
        if entry.auc is None:
            assert cell.auc is None
            continue
        assert 100 * cell.auc == pytest.approx(entry.auc)
        assert 50 * (cell.high - cell.low) == pytest.approx(entry.half_width)
        assert 100 * cell.paper == pytest.approx(entry.paper.auc)


def test_one_seed_has_no_t_interval(results: Results) -> None:
    one = Results(**{**vars(results), "cells": [cell for cell in results.cells if cell.seed == 0]})
    entry = entries_of(one, "table1", PAIRS1)[0]
    assert entry.half_width is None and math.isfinite(entry.auc)
    assert figure2_cells([entry])[0].interval == "95 % bootstrap over patients, one seed"
    assert "± " not in table1(one, PAIRS1).sheets[0].rows[0][1]
