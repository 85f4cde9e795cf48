"""A comparison model through the whole command: what it reads, what the result says, stop and resume."""

from pathlib import Path

import pytest

from medvlmoe.command_line import run as command
from medvlmoe.files import read_json

MIMIC = "data.sites={mimic_cxr:{kind:mimic_cxr,root:mimic_cxr}}"


def run(phantom_root: Path, tmp_path: Path, *overrides: str) -> dict:
    arguments = ["simulate", "mode=baseline", "baseline/encoders=tiny", "model=tiny", "data=none", MIMIC,
                 f"data.root={phantom_root}", f"output.root={tmp_path}", "output.name=run", "federation.rounds=1",
                 "baseline.pretraining.epochs=1", "data.leak_audit.action=skip", "training.bootstrap_resamples=0",
                 *overrides]  # fmt: skip
    assert command(arguments) == 0
    return read_json(tmp_path / "run" / "summary.json")


def test_reports_are_a_target_of_the_first_stage_only(phantom_root: Path, tmp_path: Path) -> None:
    summary = run(phantom_root, tmp_path, "baseline=gloria")
    assert summary["mode"] == "baseline" and summary["baseline"]["name"] == "gloria"
    assert summary["baseline"]["pretraining_text"] == {"mimic_cxr": "report"}
    assert summary["stamps"] == ["PHANTOM"]  # no prediction reads a report, so nothing is LEAKY
    assert (tmp_path / "run" / "checkpoints" / "mimic_cxr" / "pretraining.safetensors").exists()


def test_captions_where_there_are_no_reports_and_none_without_a_stage(phantom_root: Path, tmp_path: Path) -> None:
    summary = run(phantom_root, tmp_path, "baseline=clip_med", "baseline.pretraining.text=captions")
    assert summary["baseline"]["pretraining_text"] == {"mimic_cxr": "captions"}
    summary = run(phantom_root, tmp_path, "baseline=biobert_vqa", "output.overwrite=true")
    assert summary["baseline"]["pretraining_text"] is None


def test_pretraining_changes_the_result(phantom_root: Path, tmp_path: Path) -> None:
    trained = run(
        phantom_root, tmp_path, "baseline=convirt", "baseline.fine_tune=linear", "baseline.pretraining.epochs=2"
    )
    without = run(phantom_root, tmp_path, "baseline=convirt", "baseline.fine_tune=linear",
                  "baseline.pretraining.epochs=0", "output.overwrite=true")  # fmt: skip
    assert trained["sites"]["mimic_cxr"]["per_label"] != without["sites"]["mimic_cxr"]["per_label"]


def test_a_resumed_run_ends_the_same(phantom_root: Path, tmp_path: Path) -> None:
    whole = run(phantom_root, tmp_path, "baseline=biovil", "federation.rounds=2")
    again = run(phantom_root, tmp_path, "baseline=biovil", "federation.rounds=2", "resume=true")
    assert whole["sites"] == again["sites"]


def test_a_trained_model_can_be_tested_again_but_not_explained(
    phantom_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what the file must hold for it: normalisation, statistics of batches, and what the model reads."""
    summary = run(phantom_root, tmp_path, "baseline=gloria")
    checkpoint = tmp_path / "run" / "checkpoints" / "mimic_cxr" / "final.safetensors"
    capsys.readouterr()
    assert command(["evaluate", f"checkpoint={checkpoint}", "data=none", MIMIC, f"data.root={phantom_root}",
                    f"output.root={tmp_path}", "training.bootstrap_resamples=0"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert f"{summary['sites']['mimic_cxr']['auc']:.3f}" in shown and "LEAKY" not in shown
    image = next((phantom_root / "mimic_cxr").rglob("*.jpg"))
    assert command(["explain", f"checkpoint={checkpoint}", f"image={image}", "block=findings"]) == 2
    assert "the model has no experts" in capsys.readouterr().err


def test_the_card_says_what_a_comparison_model_is(phantom_root: Path, tmp_path: Path) -> None:
    run(phantom_root, tmp_path, "baseline=biobert_vqa", "baseline.text_at_test=concat", "baseline.fine_tune=linear")
    card = (tmp_path / "run" / "checkpoints" / "mimic_cxr" / "model_card.md").read_text()
    assert "| reads at test time | image and the question 'Which findings are present?', followed by the text |" in card
    assert "| stage A | none: the method has no contrastive stage |" in card
    assert "| stage B | on the labels, head and fusion: both encoders are frozen |" in card
    assert "Trained and tested at one hospital" in card and "Not the published model" in card
    run(phantom_root, tmp_path, "baseline=clip_med", "baseline.pretraining.epochs=0", "output.overwrite=true")
    card = (tmp_path / "run" / "checkpoints" / "mimic_cxr" / "model_card.md").read_text()
    assert "| stage A | none: the contrastive stage was left out (baseline.pretraining.epochs=0) |" in card
    run(phantom_root, tmp_path, "baseline=biovil", "output.overwrite=true")
    card = (tmp_path / "run" / "checkpoints" / "mimic_cxr" / "model_card.md").read_text()
    assert "with the reports of the same records" in card


def test_a_site_without_reports(phantom_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = command(["simulate", "mode=baseline", "baseline/encoders=tiny", "model=tiny", "data=none",
                 "data.sites={retina:{kind:retinamnist,root:medmnist}}", f"data.root={phantom_root}",
                 f"output.root={tmp_path}", "baseline.pretraining.text=report"])  # fmt: skip
    assert code == 2 and "text=report" in capsys.readouterr().err
