"""The same apps through Flower's own engines give the same bits as the in-process grid."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medvlmoe.files import load_tensors

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
RUN = [
    "model=tiny", "training.precision=float32", "training.bootstrap_resamples=10", "federation.rounds=1",
    "~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist",
]  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local-in-memory:"\n'
    )
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39191",
        "OMP_NUM_THREADS": "1",  # as Ray sets it for its workers
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
    }


def overrides(phantom_root: Path, tmp_path: Path, name: str) -> list[str]:
    return [*RUN, f"data.root={phantom_root}", f"output.root={tmp_path}/runs", f"output.name={name}"]


def simulate(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "medvlmoe", "simulate", *arguments], env=environment, check=True, timeout=300)


def final(tmp_path: Path, name: str) -> dict[str, torch.Tensor]:
    return load_tensors(tmp_path / "runs" / name / "checkpoints" / "final.safetensors")[0]


def assert_same_bits(tmp_path: Path, first: str, second: str) -> None:
    a, b = final(tmp_path, first), final(tmp_path, second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.long
@pytest.mark.alone
def test_ray(tmp_path: Path, phantom_root: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("ray", reason="extra `ray` is not installed")
    simulate(environment, *overrides(phantom_root, tmp_path, "plain"))
    simulate(environment, *overrides(phantom_root, tmp_path, "ray"), "simulation.engine=ray")
    assert_same_bits(tmp_path, "plain", "ray")


@pytest.mark.long
@pytest.mark.alone
def test_flwr_run(tmp_path: Path, phantom_root: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("ray", reason="extra `ray` is not installed")
    simulate(environment, *overrides(phantom_root, tmp_path, "plain"))
    given = " ".join(overrides(phantom_root, tmp_path, "flwr"))
    command = [
        str(SCRIPTS / "flwr"), "run", str(ROOT), "local", "--stream",
        "--federation-config", "num-supernodes=2 client-resources-num-cpus=1",
        "--run-config", f'overrides="{given}"',
    ]  # fmt: skip
    started = _processes()
    try:
        subprocess.run(command, env=environment, check=True, timeout=300)
        summary = tmp_path / "runs" / "flwr" / "summary.json"
        deadline = time.monotonic() + 120  # the log stream may end before the run does
        while not summary.exists() and time.monotonic() < deadline:
            time.sleep(1)
        assert set(json.loads(summary.read_text())["sites"]) == {"chestxray14", "retinamnist"}
    finally:
        _end_local_superlink(started)
    assert_same_bits(tmp_path, "plain", "flwr")


def _processes() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def _end_local_superlink(before: set[int]) -> None:
    """``flwr run`` leaves its SuperLink running; end the one that this test started, found by its port."""
    for pid in _processes() - before:
        try:
            command = (Path("/proc") / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        if b"flower-superlink" in command and b"39191" in command:
            os.kill(pid, 15)
