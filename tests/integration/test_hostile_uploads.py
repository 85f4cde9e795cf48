"""Uploads over a real SuperLink that are far larger than asked for: given up by name, and the round goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvlmoe.files import read_json, read_json_lines
from simulation.local_federation import free_ports

pytestmark = pytest.mark.long

APP = Path(__file__).parent / "hostile_app"


@pytest.mark.parametrize("kind", ["large array", "many arrays", "large metrics"])
def test_a_reply_with_far_too_many_bytes(tmp_path: Path, kind: str) -> None:
    port, *node_ports = free_ports(3)
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
        for name, answers, node_port in (("a", kind, node_ports[0]), ("b", "honest", node_ports[1])):
            start("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(node_port),
                  "--node-config", f'site="{name}" kind="{answers}"')  # fmt: skip
        run = tmp_path / "runs" / "run"
        overrides = ["model=tiny", "data=none", "federation.rounds=1", "federation.sites=2", "federation.quorum=1",
                     f"output.root={tmp_path}/runs", "output.name=run"]  # fmt: skip
        command = ["flwr", "run", str(APP), "lab", "--run-config", f'overrides="{" ".join(overrides)}"']
        deadline = time.monotonic() + 300
        while subprocess.run(command, env=environment, stdout=log, stderr=log).returncode != 0:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(1)
        while not (run / "summary.json").exists():
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.5)
    (line,) = read_json_lines(run / "rounds.jsonl")
    assert line["sites"]["b"]["outcome"] == "merged"
    refused = line["sites"]["a"]
    assert refused["outcome"] in ("no reply", "rejected") and (
        "more than" in refused["reason"] or "pieces" in refused["reason"]
    )
    assert read_json(run / "status.json")["phase"] == "finished"
    assert not list((run / "incoming").iterdir())
