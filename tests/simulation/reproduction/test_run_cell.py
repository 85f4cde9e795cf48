"""A cell goes on where it stopped, and is never touched again when it is finished."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import medvlmoe.training.fit as fit_module
from client import resident
from medvlmoe.configuration import compose
from medvlmoe.files import read_json
from medvlmoe.training.predictions import load_predictions
from simulation.reproduction.cell import Cell
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.plan import make_plan
from simulation.reproduction.run_cell import run_cell

QUICK = ["preset=tiny", "seeds=1", "training.epochs=3", "training.precision=float32", "training.bootstrap_resamples=20",
         "datasets=[retinamnist]"]  # fmt: skip


@pytest.fixture(autouse=True)
def forget() -> None:
    resident.forget()


def cells(root: Path, phantoms: Path, *more: str) -> list[Cell]:
    arguments = [*QUICK, f"data.root={phantoms}", f"output.root={root}", f"data.cache={phantoms}/cache", *more]
    return make_plan(compose(ReproductionConfig, arguments, config_name="reproduce"), ["table1"], arguments).cells


def scores(cell: Cell) -> torch.Tensor:
    return load_predictions(cell.folder / "predictions" / f"{cell.dataset}.safetensors").scores_NY


class Killed(BaseException):
    """As no handler expects it."""


def test_an_interrupted_cell_ends_with_the_same_bits(
    tmp_path: Path, phantom_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cells(tmp_path / "whole", phantom_root)[0]
    run_cell(whole)
    cut = cells(tmp_path / "cut", phantom_root)[0]
    assert cut.identity == whole.identity and cut.folder != whole.folder
    keep = fit_module._Keeper.save
    epochs = []

    def save_and_die(keeper, stopping, history):
        keep(keeper, stopping, history)
        epochs.append(len(history))
        if len(epochs) == 2:
            raise Killed

    monkeypatch.setattr(fit_module._Keeper, "save", save_and_die)
    with pytest.raises(Killed):
        run_cell(cut)
    assert cut.summary() is None and (cut.folder / "checkpoints").exists()
    run_cell(cut)
    assert epochs == [1, 2, 3], "the second run began with the third epoch"
    assert torch.equal(scores(cut), scores(whole))
    first, second = whole.summary(), cut.summary()
    assert first["sites"] == second["sites"] and first["cell"] == second["cell"] and first["cost"] == second["cost"]


def test_a_finished_cell_is_read_and_not_touched(tmp_path: Path, phantom_root: Path) -> None:
    cell = cells(tmp_path, phantom_root)[0]
    summary = run_cell(cell)
    assert cell.weights.exists(), "the whole model's weights are kept for figures"
    kept = {path.name for path in cell.weights.parent.iterdir()}
    assert kept == {"final.safetensors", "model_card.json", "model_card.md"}, "nothing is kept to resume"
    before = {path: path.stat().st_mtime_ns for path in cell.folder.rglob("*")}
    assert run_cell(cell) == summary
    assert {path: path.stat().st_mtime_ns for path in cell.folder.rglob("*")} == before
    other = cells(tmp_path, phantom_root, "training.epochs=2")[0]
    assert other.folder != cell.folder and other.summary() is None


def test_every_model_of_a_grid_has_a_card_kept_or_not(tmp_path: Path, phantom_root: Path) -> None:
    for keep in (True, False):
        more = ["models=[gloria]", "baseline.pretraining.epochs=1", f"keep_models={str(keep).lower()}"]
        whole, gloria = cells(tmp_path / str(keep), phantom_root, *more)
        assert (whole.model, gloria.model) == ("medvlmoe", "gloria_shared")
        summary = run_cell(gloria)
        names = {path.name for path in gloria.weights.parent.iterdir()}
        assert names == {"model_card.json", "model_card.md", *(["final.safetensors"] if keep else [])}
        card, numbers = (read(gloria.weights.with_name(f"model_card.{ending}")) for ending in ("md", "json"))
        assert numbers["sites"]["retinamnist"]["summary"]["auc"] == summary["sites"]["retinamnist"]["auc"]
        assert numbers["model"]["parameters"] == summary["cost"]["parameters"]
        assert f"# Model card: retinamnist/gloria_shared/seed0-{gloria.identity[:12]}\n" in card
        assert "| model | GLoRIA, a comparison model (Huang et al. 2021, ICCV): " in card
        assert "| reads at test time | the image alone, as published; the text encoder is not used |" in card
        assert "| stage A | contrastive, 1 epoch on the training images below with captions" in card
        assert "no hospital is new" not in card and "experts" not in card and "PHANTOM" in card
        assert ("not kept (a grid keeps all with `keep_models=true`)" in card) is not keep


def read(path: Path) -> Any:
    return read_json(path) if path.suffix == ".json" else path.read_text()


def test_a_summary_of_another_identity_or_a_torn_folder_does_not_count(tmp_path: Path, phantom_root: Path) -> None:
    cell = cells(tmp_path, phantom_root)[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / ".run.json.17.tmp").write_text("{")  # killed before anything was there
    run_cell(cell)
    assert replace(cell, identity="0" * 64).summary() is None
    summary = read_json(cell.folder / "summary.json")
    assert summary["cell"]["identity"] == cell.identity and summary["sites"]["retinamnist"]["n"] > 0
    (cell.folder / "summary.json").write_text("{ torn")
    assert cell.summary() is None
