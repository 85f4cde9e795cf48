from pathlib import Path

import pytest

from medvlmoe.errors import ConfigError
from server.provisioning.config import read_provision_config


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("port=0", "port=0"),
        ("hosts=[]", "at least one host"),
        ("hosts=['fl.example.org:443']", "without port"),
        ("hosts=['https://fl.example.org']", "neither a host name nor an IP address"),
        ("days=0", "days=0"),
        ("name=a b", "name 'a b'"),
        ("hospitals=[{name: ../north}]", "name '../north'"),
        ("hospitals=[{name: north}, {name: North}]", "two are called 'north'"),
        ("superlink={port: 443}", "must differ"),
        ("nginx={user: 'a; b'}", "nginx.user"),
        ("nginx={address: fl.example.org}", "nginx.address"),
        ("nginx={adress: '::'}", "nginx.adress"),
        ("renew", "not key=value"),
    ],
)
def test_a_mistake_is_named(federation_file: Path, argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_provision_config(federation_file, [argument])


def test_paths_start_from_the_folder_of_the_file(federation_file: Path) -> None:
    config = read_provision_config(federation_file, ["hospitals=[{name: north, public_key: keys/north.pub}]"])
    assert config.output == str(federation_file.parent / "kits")
    assert config.hospitals[0].public_key == str(federation_file.parent / "keys" / "north.pub")


def test_the_first_host_is_the_public_address(federation_file: Path) -> None:
    assert read_provision_config(federation_file, []).public_address == "fl.example.org:443"
    assert read_provision_config(federation_file, ["hosts=['2001:db8::1']"]).public_address == "[2001:db8::1]:443"
    assert read_provision_config(federation_file, ["nginx={port: 8443}"]).nginx_port == 8443
