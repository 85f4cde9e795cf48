from pathlib import Path

import pytest

from client.config import read_site_config
from client.supernode import supernode, supernode_command
from medvlmoe.errors import ConfigError

SITE = """\
name: north
dataset: {kind: manifest, root: images}
server: {address: "fl.example.org:443", root_certificates: ca.crt, key: north.key, runtime_port: 9100}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "north's site.yaml"
    path.write_text(SITE)
    (tmp_path / "ca.crt").write_text("certificate")
    (tmp_path / "north.key").touch(mode=0o600)
    return path


def test_the_command_says_what_the_site_says(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supernode.cli.flower_supernode import _parse_supernode_lifespan_config

    command = supernode_command(read_site_config(site), site)
    assert "--health-server-address" not in command
    site.write_text(SITE.replace("runtime_port", "health_address: '127.0.0.1:9101', runtime_port"))
    command = supernode_command(read_site_config(site), site)
    assert command[command.index("--health-server-address") + 1] == "127.0.0.1:9101"

    # as Flower itself reads it
    place = command.index("--auth-supernode-private-key")
    monkeypatch.setattr("sys.argv", command[3:place] + command[place + 2 :])
    read = _parse_supernode_lifespan_config()
    assert read.server_address == "fl.example.org:443" and read.port == 9100
    assert not read.insecure and read.root_certificates == b"certificate"
    assert read.node_config == {"site-config": site.name}


def test_a_key_that_others_may_read_is_refused(site: Path) -> None:
    (site.parent / "north.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        supernode([str(site)])


@pytest.mark.parametrize("name", ["ca.crt", "north.key"])
def test_a_file_that_is_missing_is_named(site: Path, name: str) -> None:
    (site.parent / name).unlink()
    with pytest.raises(ConfigError, match=name):
        supernode([str(site)])


def test_a_site_of_a_simulation_cannot_connect(site: Path) -> None:
    site.write_text(SITE.rpartition("server")[0])
    with pytest.raises(ConfigError, match=r"server\.address"):
        supernode([str(site)])
