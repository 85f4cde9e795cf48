"""The ablations travel: whole rounds on two phantom sites with other routing, other text, and without experts."""

import json
from pathlib import Path

import pytest

from medvlmoe.command_line import run
from medvlmoe.files import read_json_lines

SITES = ["~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist"]
QUICK = ["model=tiny", "training.bootstrap_resamples=10", "training.precision=float32", "federation.rounds=1"]


def simulate(output: Path, data: Path, *more: str) -> Path:
    arguments = [*QUICK, *SITES, f"data.root={data}", f"data.cache={data}/cache", f"output.root={output}"]
    assert run(["simulate", *arguments, "output.name=run", *more]) == 0
    return output / "run"


def test_a_dynamic_number_of_experts_and_a_shared_one_are_merged_by_use(tmp_path: Path, phantom_root: Path) -> None:
    folder = simulate(
        tmp_path, phantom_root, "model.moe.top_p=0.5", "model.moe.top_k=3", "model.moe.shared_experts=1",
        "model.moe.entropy_alpha=0.001",
    )  # fmt: skip
    (line,) = read_json_lines(folder / "rounds.jsonl")
    examples = sum(site["examples"] for site in line["sites"].values())
    sent = sum(line["expert_samples"])
    assert examples <= sent <= 3 * examples and sent != 2 * examples, "from one to three experts a sample"
    assert line["bytes_by_group"]["shared_expert"] == line["bytes_by_group"]["expert.0"]
    for entry in read_json_lines(folder / "ledger.jsonl"):
        samples = {name: site["samples"] for name, site in entry["sites"].items()}
        for name, site in entry["sites"].items():
            assert site["share"] == pytest.approx(samples[name] / max(1, sum(samples.values())))


@pytest.mark.parametrize(
    ("overrides", "groups"),
    [
        (["model.variant=vision_only"], {"vision", "head"}),
        (
            ["model.text.encoder=null_token", "model.fusion.kind=concat", "model.moe.experts=1", "model.moe.top_k=1"],
            {"vision", "text", "fusion", "router", "expert.0", "head"},
        ),
    ],
)
def test_models_with_parts_missing_make_a_round_and_can_be_evaluated(
    overrides: list[str], groups: set[str], tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = simulate(tmp_path, phantom_root, *overrides)
    (line,) = read_json_lines(folder / "rounds.jsonl")
    assert set(line["bytes_by_group"]) == groups
    assert {site["outcome"] for site in line["sites"].values()} == {"merged"}
    summary = json.loads((folder / "summary.json").read_text())
    capsys.readouterr()
    checkpoint = folder / "checkpoints" / "final.safetensors"
    assert run(["evaluate", f"checkpoint={checkpoint}", *QUICK[1:3], *SITES, f"data.root={phantom_root}",
                f"output.root={tmp_path}"]) == 0  # fmt: skip
    assert f"{summary['sites']['retinamnist']['auc']:.3f}" in capsys.readouterr().out


@pytest.mark.long
def test_upcycling_starts_a_federation_from_a_trained_single_network(tmp_path: Path, phantom_root: Path) -> None:
    dense = simulate(tmp_path / "dense", phantom_root, "model.moe.experts=1", "model.moe.top_k=1")
    start = dense / "checkpoints" / "final.safetensors"
    first = json.loads((dense / "summary.json").read_text())
    sparse = simulate(
        tmp_path / "sparse", phantom_root, f"model.moe.upcycle_from={start}", "model.moe.upcycle_noise=0",
        "training.encoder_learning_rate=0", "training.head_learning_rate=0",
    )  # fmt: skip
    second = json.loads((sparse / "summary.json").read_text())
    for site in first["sites"]:
        assert second["sites"][site]["auc"] == pytest.approx(first["sites"][site]["auc"], abs=0.02)
