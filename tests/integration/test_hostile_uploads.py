"""Replies over a real SuperLink that are too large, or no answer: refused by name, and the round goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medvlmoe.errors import CheckpointError
from medvlmoe.files import read_json, read_json_lines
from simulation.local_federation import free_ports

pytestmark = [pytest.mark.long, pytest.mark.alone]

APP = Path(__file__).parent / "hostile_app"


@pytest.mark.parametrize("kind", ["large array", "many arrays", "large metrics"])
def test_a_reply_with_far_too_many_bytes(tmp_path: Path, kind: str) -> None:
    refused = refused_sites(tmp_path, [kind])[kind]
    assert refused["outcome"] in ("no reply", "rejected") and (
        "more than" in refused["reason"] or "pieces" in refused["reason"]
    )


def test_replies_that_are_no_answer(tmp_path: Path) -> None:
    reasons = {
        "another shape": "head.bias",
        "not a number": "'head.bias' holds NaN",
        "another round": "answers round",
        "text": "no MetricRecord 'metrics'",
    }
    for kind, refused in refused_sites(tmp_path, list(reasons)).items():
        assert refused["outcome"] == "rejected" and reasons[kind] in refused["reason"], refused


def phase_of(run: Path) -> str:
    with contextlib.suppress(CheckpointError):
        return str(read_json(run / "status.json")["phase"])
    return ""


def refused_sites(tmp_path: Path, kinds: list[str]) -> dict[str, Any]:
    """One round with an honest site and one of each kind: what became of each of these; the honest one was merged."""
    port, *node_ports = free_ports(2 + len(kinds))
    (tmp_path / "config.toml").write_text(
        f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with contextlib.ExitStack() as stack, open(tmp_path / "log", "ab") as log:

        def start(*command: str) -> None:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            stack.callback(lambda: (os.killpg(process.pid, signal.SIGKILL), process.wait()))

        start("flower-superlink", "--insecure", "--port", str(port))
        for name, node_port in zip(["honest", *kinds], node_ports, strict=True):
            start("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(node_port),
                  "--node-config", f'site="{name}" kind="{name}"')  # fmt: skip
        run = tmp_path / "runs" / "run"
        overrides = ["model=tiny", "data=none", "federation.rounds=1", f"federation.sites={1 + len(kinds)}",
                     "federation.quorum=1", f"output.root={tmp_path}/runs", "output.name=run"]  # fmt: skip
        command = ["flwr", "run", str(APP), "lab", "--run-config", f'overrides="{" ".join(overrides)}"']
        deadline = time.monotonic() + 900
        while subprocess.run(command, env=environment, stdout=log, stderr=log).returncode != 0:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(1)
        while phase_of(run) != "finished":
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.5)
    (line,) = read_json_lines(run / "rounds.jsonl")
    assert line["sites"]["honest"]["outcome"] == "merged"
    assert not list((run / "incoming").iterdir())
    return {kind: line["sites"][kind] for kind in kinds}
