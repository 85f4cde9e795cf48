"""The list of hospitals of a real SuperLink: each key under its hospital's name."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.proto.control_pb2 import RegisterNodeRequest

from medvlmoe.command_line import run
from server.provisioning.hospital_key import public_key_of_pair
from server.provisioning.registration import _client, _key_bytes, _nodes
from simulation.local_federation import free_ports


@pytest.fixture
def hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Public keys of north and south, and a SuperLink with a connection to it."""
    (port,) = free_ports(1)
    for name, value in {"FLWR_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config.toml").write_text(
        f'[superlink]\ndefault = "lungs"\n[superlink.lungs]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    folder = tmp_path / "hospitals"
    folder.mkdir()
    for name in ("north", "south"):
        (folder / f"{name}.pub").write_text(public_key_of_pair(tmp_path / f"{name}.key") + "\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["flower-superlink", "--insecure", "--port", str(port)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": path}, stdout=log, stderr=log, start_new_session=True
        )
        yield folder
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Our lines; Flower says which connection it uses."""
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Using SuperLink")]


def registered() -> dict[bytes, str]:
    client = _client("lungs")
    try:
        return {node.public_key: node.name for node in _nodes(client, 60) if node.status != "unregistered"}
    finally:
        client.close()


def register_by_hand(key: bytes, **name: str) -> None:
    client = _client("lungs")
    try:
        _nodes(client, 60)
        client.RegisterNode(RegisterNodeRequest(public_key=key, **name))
    finally:
        client.close()


def test_each_key_is_registered_under_its_hospitals_name(hospitals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["register", "lungs", str(hospitals)]) == 0
    assert told(capsys) == ["north: registered", "south: registered"]
    names = {_key_bytes(hospitals / f"{name}.pub"): name for name in ("north", "south")}
    assert registered() == names
    assert run(["register", "lungs", str(hospitals)]) == 0
    assert told(capsys) == ["north: registered already", "south: registered already"]
    assert registered() == names


def test_a_key_with_no_name_or_another_is_told_and_left_alone(
    hospitals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    north, south = (_key_bytes(hospitals / f"{name}.pub") for name in ("north", "south"))
    register_by_hand(north)
    register_by_hand(south, name="east")
    capsys.readouterr()
    assert run(["register", "lungs", str(hospitals)]) == 0
    first, second = told(capsys)
    assert first.startswith("north: registered already, but without a name")
    assert second.startswith("south: registered already, but under another name, 'east'")
    assert "restart the SuperLink" in first and "restart the SuperLink" in second
    assert registered() == {north: "", south: "east"}


def test_one_key_for_two_hospitals_is_a_mistake(hospitals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hospitals / "south.pub").write_text((hospitals / "north.pub").read_text())
    assert run(["register", "lungs", str(hospitals)]) == 2
    assert "north.pub and south.pub are one key" in capsys.readouterr().err
