"""Whole runs on phantom data with the tiny model, through the command line's own functions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medvlmoe.command_line import run
from medvlmoe.configuration import compose
from medvlmoe.files import load_tensors, read_json_lines
from medvlmoe.model import build_model
from medvlmoe.model.groups import parameter_group
from strategies.run_config import RunConfig

TWO_SITES = ["~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist"]
QUICK = ["model=tiny", "training.bootstrap_resamples=50", "training.precision=float32"]


def simulate(output: Path, data: Path, *more: str) -> dict:
    arguments = ["simulate", *QUICK, f"data.root={data}", f"output.root={output}", "output.name=run", *more]
    assert run(arguments) == 0
    return json.loads((output / "run" / "summary.json").read_text())


def final(output: Path) -> dict[str, torch.Tensor]:
    return load_tensors(output / "run" / "checkpoints" / "final.safetensors")[0]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_five_sites_leave_a_whole_record(tmp_path: Path, phantom_root: Path) -> None:
    summary = simulate(tmp_path, phantom_root, "federation.rounds=2", "compare=[local]")
    sites = {"chestxray14", "chexpert", "mimic_cxr", "pathmnist", "retinamnist"}
    assert summary["mode"] == "federated" and summary["rounds"] == 2 and set(summary["sites"]) == sites
    assert set(summary["compare"]["local"]["sites"]) == sites
    for site in summary["sites"].values():
        assert site["split"] == "test" and site["n"] > 0
        assert site["auc_ci"][0] <= site["auc"] <= site["auc_ci"][1]
    for results in (summary["sites"], summary["compare"]["local"]["sites"]):
        for site in sites:
            competition = results[site]["subset_auc"].get("chexpert competition 5")
            assert (competition is not None) == (site in ("chexpert", "mimic_cxr"))
            assert competition is None or (0 <= competition["auc"] <= 1 and competition["labels_averaged"] == 5)
    rounds = list(read_json_lines(tmp_path / "run" / "rounds.jsonl"))
    assert [line["round"] for line in rounds] == [1, 2]
    for line in rounds:
        examples = sum(site["examples"] for site in line["sites"].values())
        assert {site["outcome"] for site in line["sites"].values()} == {"merged"}
        assert sum(line["expert_samples"]) == 2 * examples, "every training image goes to two experts"
    ledger = list(read_json_lines(tmp_path / "run" / "ledger.jsonl"))
    for line in ledger:
        shares = [site["share"] for site in line["sites"].values()]
        assert sum(shares) == pytest.approx(1.0 if line["samples"] else 0.0)
        assert (line["moved_in"] == line["round"]) == (line["samples"] > 0)
    tensors = final(tmp_path)
    floats = sum(t.numel() * 4 for name, t in tensors.items() if t.is_floating_point())
    assert sum(rounds[0]["bytes_by_group"].values()) == floats
    assert set(rounds[0]["bytes_by_group"]) == {parameter_group(name) for name in tensors}


def test_same_seed_same_bits_other_seed_other_bits(tmp_path: Path, phantom_root: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate(tmp_path / name, phantom_root, *TWO_SITES, "federation.rounds=1", f"seed={seed}")
    assert equal(final(tmp_path / "a"), final(tmp_path / "b"))
    assert not equal(final(tmp_path / "a"), final(tmp_path / "c"))


def test_evaluate_repeats_the_test_metrics_of_the_run(
    tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = simulate(tmp_path, phantom_root, *TWO_SITES, "federation.rounds=1")
    capsys.readouterr()
    checkpoint = tmp_path / "run" / "checkpoints" / "final.safetensors"
    arguments = [*QUICK, *TWO_SITES, f"data.root={phantom_root}", f"output.root={tmp_path}", f"checkpoint={checkpoint}"]
    assert run(["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    for name, site in summary["sites"].items():
        row = next(line for line in printed.splitlines() if name in line)
        assert f"{site['auc']:.3f}" in row and f" {site['n']} " in row


def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, phantom_root: Path) -> None:
    more = [*TWO_SITES, "federation.rounds=4"]
    simulate(tmp_path / "whole", phantom_root, *more)
    output = tmp_path / "killed"
    arguments = [*QUICK, f"data.root={phantom_root}", f"output.root={output}", "output.name=run", *more, "resume=true"]
    rounds = output / "run" / "rounds.jsonl"
    for kill_after_lines in (1, 2):
        process = subprocess.Popen(
            [sys.executable, "-m", "medvlmoe", "simulate", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": torch_threads()},
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(read_json_lines(rounds))) < kill_after_lines:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(["simulate", *arguments]) == 0
    assert equal(final(tmp_path / "whole"), final(output))
    assert [line["round"] for line in read_json_lines(rounds)] == [1, 2, 3, 4]


def torch_threads() -> str:
    # Sums over threads round differently for another number of threads.
    return str(torch.get_num_threads())


def test_a_federation_of_one_site_is_the_centralized_run(tmp_path: Path, phantom_root: Path) -> None:
    one_site = [*TWO_SITES, "~data.sites.retinamnist", "federation.rounds=3", "training.epochs=3"]
    federated = simulate(tmp_path / "federated", phantom_root, *one_site)
    centralized = simulate(tmp_path / "centralized", phantom_root, *one_site, "mode=centralized")
    assert equal(final(tmp_path / "federated"), final(tmp_path / "centralized"))
    for name, site in federated["sites"].items():
        assert site == {key: centralized["sites"][name][key] for key in site}


def test_without_optimizer_state_the_federation_is_another_run(tmp_path: Path, phantom_root: Path) -> None:
    one_site = [*TWO_SITES, "~data.sites.retinamnist", "federation.rounds=2", "federation.select=last"]
    simulate(tmp_path / "kept", phantom_root, *one_site)
    simulate(tmp_path / "fresh", phantom_root, *one_site, "federation.keep_optimizer_state=false")
    assert not equal(final(tmp_path / "kept"), final(tmp_path / "fresh"))


@pytest.mark.parametrize("codec", ["float16", "bfloat16"])
def test_a_half_size_codec_stays_close(tmp_path: Path, phantom_root: Path, codec: str) -> None:
    more = [*TWO_SITES, "federation.rounds=1", "federation.select=last"]
    simulate(tmp_path / "full", phantom_root, *more)
    simulate(tmp_path / "half", phantom_root, *more, f"strategy.codec={codec}")
    full, half = final(tmp_path / "full"), final(tmp_path / "half")
    assert not equal(full, half)
    size = {n: next(read_json_lines(tmp_path / n / "run" / "rounds.jsonl"))["bytes_by_group"] for n in ("full", "half")}
    assert all(2 * size["half"][group] == size["full"][group] for group in size["full"])
    for name, tensor in full.items():
        torch.testing.assert_close(half[name], tensor, rtol=0.1, atol=0.05, msg=name)


def test_int8_uploads_stay_close_at_a_quarter_of_the_bytes(tmp_path: Path, phantom_root: Path) -> None:
    more = [*TWO_SITES, "federation.rounds=3", "federation.select=last"]
    simulate(tmp_path / "full", phantom_root, *more)
    simulate(tmp_path / "int8", phantom_root, *more, "strategy.upload_codec=int8")
    lines = list(read_json_lines(tmp_path / "int8" / "run" / "rounds.jsonl"))
    for line in lines:
        sent, returned = (sum(line[key].values()) for key in ("bytes_by_group", "reply_bytes_by_group"))
        assert 0.25 < returned / sent < 0.28
    full, int8 = final(tmp_path / "full"), final(tmp_path / "int8")
    initial = build_model(compose(RunConfig, ["model=tiny"]).model, len(full["head.bias"]), 0).state_dict()
    for group in ("vision", "text", "fusion", "head"):
        names = [name for name in full if parameter_group(name) == group]
        moved = sum(float((full[name] - initial[name]).square().sum()) for name in names) ** 0.5
        apart = sum(float((int8[name] - full[name]).square().sum()) for name in names) ** 0.5
        assert apart < 0.2 * moved, (group, apart, moved)


def test_fedavg_moves_what_per_expert_leaves_alone(tmp_path: Path, phantom_root: Path) -> None:
    more = [*TWO_SITES, "federation.rounds=1", "federation.select=last"]
    simulate(tmp_path / "per_expert", phantom_root, *more)
    simulate(tmp_path / "fedavg", phantom_root, *more, "strategy=fedavg")
    ours, plain = final(tmp_path / "per_expert"), final(tmp_path / "fedavg")
    shared = [name for name in ours if parameter_group(name) in ("vision", "text", "fusion")]
    assert all(torch.equal(ours[name], plain[name]) for name in shared), "shared groups weigh by examples in both"
    assert not torch.equal(ours["head.weight"], plain["head.weight"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("federation.roundz=3", "federation.roundz"),
        ("model=giant", "giant"),
        ("strategy.codec=float8", "strategy.codec=float8"),
        ("federation.rounds=many", "rounds"),
        ("mode=sideways", "sideways"),
        ("data.root=/does/not/exist", "/does/not/exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    assert run(["simulate", *QUICK, f"data.root={phantom_root}", f"output.root={tmp_path}/runs", argument]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error.split("medvlmoe simulate:")[-1] and "Traceback" not in error
    assert not (tmp_path / "runs" / "federated-seed0").exists()


def test_a_finished_run_is_not_overwritten_unasked(
    tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [*TWO_SITES, "federation.rounds=1"]
    simulate(tmp_path, phantom_root, *more)
    before = (tmp_path / "run" / "summary.json").read_text()
    arguments = ["simulate", *QUICK, f"data.root={phantom_root}", f"output.root={tmp_path}", "output.name=run", *more]
    assert run(arguments) == 2
    assert "output.overwrite=true" in capsys.readouterr().err
    assert run([*arguments, "seed=5", "resume=true"]) == 2
    assert "seed=0, not 5" in capsys.readouterr().err
    assert (tmp_path / "run" / "summary.json").read_text() == before
    assert run([*arguments, "output.overwrite=true"]) == 0


def test_golden_numbers_of_a_small_run(tmp_path: Path, phantom_root: Path) -> None:
    """Losses of a whole run, so that an unnoticed change of model, data or training shows."""
    simulate(tmp_path, phantom_root, "federation.rounds=3", "federation.select=last")
    losses = [
        {name: round(site["train_loss"], 4) for name, site in line["sites"].items()}
        for line in read_json_lines(tmp_path / "run" / "rounds.jsonl")
    ]
    assert losses == [
        {name: pytest.approx(value, rel=0.005) for name, value in expected.items()} for expected in GOLDEN_LOSSES
    ]


GOLDEN_LOSSES = [
    {"chestxray14": 0.6775, "chexpert": 0.6842, "mimic_cxr": 0.6886, "pathmnist": 2.2134, "retinamnist": 1.6093},
    {"chestxray14": 0.6683, "chexpert": 0.6787, "mimic_cxr": 0.6823, "pathmnist": 2.2159, "retinamnist": 1.5862},
    {"chestxray14": 0.6597, "chexpert": 0.6710, "mimic_cxr": 0.6766, "pathmnist": 2.2064, "retinamnist": 1.5775},
]
