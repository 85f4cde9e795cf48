from pathlib import Path

import pytest

from client.config import read_site_config
from medvlmoe.errors import ConfigError

SITE = """\
name: north
dataset: {kind: manifest, root: images}
server: {address: "superlink.example.org:443", root_certificates: ca.crt, key: ~/north.key}
"""


def written(folder: Path, text: str = SITE) -> Path:
    (folder / "site.yaml").write_text(text)
    return folder / "site.yaml"


def test_files_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    site = read_site_config(written(tmp_path))
    assert site.folder == str(tmp_path / "site")
    assert site.server is not None and site.server.root_certificates == str(tmp_path / "ca.crt")
    assert site.server.key == str(Path.home() / "north.key")
    assert (site.server.host, site.server.port) == ("superlink.example.org", 443)


def test_a_sites_own_copies_of_the_weights_lie_beside_the_file(tmp_path: Path) -> None:
    site = read_site_config(written(tmp_path, SITE + "vision_weights: clip\ntext_weights: /elsewhere/biogpt\n"))
    assert (site.vision_weights, site.text_weights) == (str(tmp_path / "clip"), "/elsewhere/biogpt")
    assert site.own_model_files == ["model.vision.weights", "model.text.weights"]
    assert read_site_config(written(tmp_path)).own_model_files == []


def test_a_site_of_a_simulation_has_no_server(tmp_path: Path) -> None:
    assert read_site_config(written(tmp_path, SITE.rpartition("server")[0])).server is None


@pytest.mark.parametrize("address", ["https://superlink.example.org:443", "superlink", "superlink:", ":443", "a:70000"])
def test_an_address_is_a_host_and_a_port(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.address=.* host:port"):
        read_site_config(written(tmp_path, SITE.replace("superlink.example.org:443", address)))


def test_an_address_may_be_ipv6(tmp_path: Path) -> None:
    site = read_site_config(written(tmp_path, SITE.replace("superlink.example.org:443", "[::1]:9000")))
    assert site.server is not None and (site.server.host, site.server.port) == ("::1", 9000)


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.adress"):
        read_site_config(written(tmp_path, SITE.replace("address:", "adress:")))
