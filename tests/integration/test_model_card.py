"""Model cards of whole runs: beside each model, with the numbers of the run's other files."""

import json

import pytest

from medvlmoe.command_line import run
from medvlmoe.files import read_json
from medvlmoe.training.evaluation import evaluate_scores
from medvlmoe.training.predictions import load_predictions


@pytest.fixture(scope="module")
def runs(phantom_root, tmp_path_factory):
    """A federated run of two phantom hospitals, with each alone beside it."""
    root = tmp_path_factory.mktemp("cards")
    sites = ("data.sites={chestxray14:{kind:chestxray14,root:chestxray14,validation_fraction:0.2},"
             "retinamnist:{kind:retinamnist,root:medmnist}}")  # fmt: skip
    arguments = ["simulate", "model=tiny", "federation.rounds=2", "training.bootstrap_resamples=10", "data=none",
                 f"data.root={phantom_root}", sites, f"output.root={root}", "output.name=run",
                 "compare=[local,centralized]", "training.precision=float32"]  # fmt: skip
    assert run(arguments) == 0
    return root / "run"


def models(folder):
    return {
        "federated": folder / "checkpoints",
        "centralized": folder / "compare" / "centralized" / "checkpoints",
        "local": folder / "compare" / "local" / "checkpoints" / "chestxray14",
    }


def test_every_trained_model_has_its_card(runs):
    for mode, folder in models(runs).items():
        assert (folder / "final.safetensors").exists()
        card, numbers = (folder / "model_card.md").read_text(), read_json(folder / "model_card.json")
        assert numbers["mode"] == mode
        for heading in ("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
                        "Quantitative analyses", "Ethical considerations", "Caveats and recommendations"):  # fmt: skip
            assert f"## {heading}\n" in card
        assert "**PHANTOM**" in card and "Not told" not in card.split("## Quantitative")[0]
        assert sorted(numbers["sites"]) == (["chestxray14"] if mode == "local" else ["chestxray14", "retinamnist"])


@pytest.mark.parametrize("mode", ["federated", "centralized", "local"])
def test_numbers_are_those_of_summary_and_predictions(runs, mode):
    folder = models(runs)[mode]
    run_folder = folder.parent if mode != "local" else folder.parent.parent
    assert run(["card", f"run={run_folder}", "min_patients=2"]) == 0  # the sites are too small for the usual minimum
    card, numbers = (folder / "model_card.md").read_text(), read_json(folder / "model_card.json")
    summary = read_json(run_folder / "summary.json")
    for site, entry in numbers["sites"].items():
        own = summary["sites"][site]
        low, high = own["auc_ci"]
        assert entry["summary"]["auc"] == own["auc"]
        shown = f"| {site} | {own['n']} | {own['auc']:.3f} [{low:.3f}, {high:.3f}] | {own['labels_averaged']} |"
        assert shown in card
        predictions = load_predictions(run_folder / "predictions" / f"{site}.safetensors")
        again = evaluate_scores(predictions.scores_NY, predictions.labels_NY, predictions.patient_ids,
                                predictions.label_space, resamples=0, seed=0)  # fmt: skip
        assert again.auc == pytest.approx(own["auc"], abs=1e-9)
        found = entry["predictions"]
        assert found["images"] == own["n"] == len(predictions.patient_ids)
        assert found["patients"] == len(set(predictions.patient_ids))
        assert f"### {site}: {found['images']} images of {found['patients']} patients" in card
        for one in found["calibration"]:
            assert f"Brier {one['brier']:.3f}, ECE {one['ece']:.3f}" in card
    assert run(["card", f"run={run_folder}"]) == 0
    facts = read_json(run_folder / "data.json")["chestxray14"]["splits"]
    assert facts["test"]["images"] == summary["sites"]["chestxray14"]["n"]
    assert f"| chestxray14 | {facts['train']['images']} ({facts['train']['patients']}) |" in card


def test_no_patient_is_named(runs):
    for folder in models(runs).values():
        text = (folder / "model_card.md").read_text() + (folder / "model_card.json").read_text()
        for site in ("chestxray14", "retinamnist"):
            path = runs / "predictions" / f"{site}.safetensors"
            assert not any(f'"{patient}"' in text for patient in load_predictions(path).patient_ids)


def test_the_command_writes_it_again(runs, capsys):
    card = runs / "checkpoints" / "model_card.md"
    before = card.read_bytes()
    card.unlink()
    assert run(["card", f"run={runs}"]) == 0
    assert card.read_bytes() == before
    assert str(card) in capsys.readouterr().out
    assert run(["card", f"run={runs}", "min_patients=1000"]) == 0
    assert "fewer than 1000 patients" in card.read_text()
    assert json.loads(card.with_suffix(".json").read_text())["sites"]["retinamnist"]["predictions"] == {
        "suppressed": True
    }
    assert run(["card", f"run={runs}"]) == 0


def test_a_server_without_patients_says_so(runs, tmp_path):
    """What a server of a real federation has: no predictions, no facts of the data."""
    folder = tmp_path / "networked"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("summary.json", "config.json", "rounds.jsonl", "checkpoints/final.safetensors"):
        (folder / name).write_bytes((runs / name).read_bytes())
    assert run(["card", f"run={folder}"]) == 0
    card = (folder / "checkpoints" / "model_card.md").read_text()
    assert "the server has no records of patients" in card
    assert "training images, as reported" in card
    assert "Reliability" not in card and "| sex:" not in card


def test_a_hostile_name_stays_a_cell(runs, tmp_path):
    folder = tmp_path / "networked"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "rounds.jsonl", "checkpoints/final.safetensors"):
        (folder / name).write_bytes((runs / name).read_bytes())
    summary = read_json(runs / "summary.json")
    hostile = "a|b\n# Model card: <script>../../x"
    summary["sites"] = {hostile: summary["sites"]["retinamnist"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert run(["card", f"run={folder}"]) == 0
    card = (folder / "checkpoints" / "model_card.md").read_text()
    assert card.count("\n# ") == 0 and "<script>" not in card and "| a\\|b # Model card: &lt;script>" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which run"),
        (["run=nothere"], "no summary.json"),
        (["run=there", "min_patients=1"], "min_patients=1"),
        (["run=there", "colour=red"], "colour"),
    ],
)
def test_mistakes_are_one_line(runs, capsys, arguments, message):
    capsys.readouterr()
    assert run(["card", *(argument.replace("run=there", f"run={runs}") for argument in arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
