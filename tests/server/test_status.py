"""The live state of a run, as hospitals' operators see it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medvlmoe.errors import QuorumError
from medvlmoe.files import read_json
from server.status import RunStatus
from server.status_command import status


@pytest.fixture
def run(tmp_path: Path) -> RunStatus:
    found = RunStatus(tmp_path / "status.json", rounds=5)
    found.phase("training", server_round=2, quorum=2)
    found.site("north", "training")
    found.site("south", "uploading")
    return found


def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = status([f"run={tmp_path}"])
    return code, capsys.readouterr().out


def test_the_table_names_every_hospital_and_its_state(
    run: RunStatus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.merged("south", 2)
    code, text = shown(tmp_path, capsys)
    assert code == 0
    assert "round 2 of 5, quorum 2: training" in text
    assert any("north" in line and "training" in line for line in text.splitlines())
    assert any("south" in line and "merged" in line and "2" in line for line in text.splitlines())


def test_a_change_is_written_at_once_and_its_time_is_kept(run: RunStatus, tmp_path: Path) -> None:
    first = read_json(tmp_path / "status.json")["sites"]["north"]
    run.site("north", "training")
    assert read_json(tmp_path / "status.json")["sites"]["north"] == first
    run.site("north", "late")
    assert read_json(tmp_path / "status.json")["sites"]["north"]["state"] == "late"


def test_a_run_without_quorum_ends_with_its_own_exit_code(
    run: RunStatus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.failed(QuorumError("round 2 did not reach its quorum of 2 sites (south: late)"))
    code, text = shown(tmp_path, capsys)
    assert code == 3
    assert "south: late" in " ".join(text.split())
    run.failed(ValueError("holds a patient's name"))
    code, text = shown(tmp_path, capsys)
    assert code == 2
    assert "patient" not in text
    run.phase("finished")
    assert shown(tmp_path, capsys)[0] == 0


def test_a_killed_server_is_noticed(run: RunStatus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    state = read_json(tmp_path / "status.json")
    assert state["process"] == {"host": socket.gethostname(), "pid": os.getpid()}
    (tmp_path / "status.json").write_text(json.dumps({**state, "process": {**state["process"], "pid": process.pid}}))
    code, text = shown(tmp_path, capsys)
    assert code == 2
    assert "resume=true" in text
