import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from client.config import read_site_config
from client.supernode import supernode_command
from server.provisioning.hospital_key import public_key_of_pair
from strategies import flower_app

Provision = Callable[..., str]


@pytest.fixture
def kits(provision: Provision, tmp_path: Path) -> Path:
    provision()
    return tmp_path / "kits"


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def secrets_in(folder: Path) -> set[str]:
    return {name for name, path in files(folder).items() if b"PRIVATE KEY" in path.read_bytes() or "secret" in name}


def test_every_secret_is_in_one_kit_only_and_its_owners_only(kits: Path) -> None:
    assert secrets_in(kits) == {
        "authority/ca.key",
        "server/superlink.key",
        "server/superexec.secret",
        "server/nginx/server.key",
        "hospitals/north/supernode.key",
        "hospitals/south/supernode.key",
    }
    for name, path in files(kits).items():
        mode = stat.S_IMODE(path.stat().st_mode)
        expected = 0o600 if name in secrets_in(kits) else 0o755 if path.read_bytes()[:2] == b"#!" else 0o644
        assert mode == expected, name
    assert stat.S_IMODE((kits / "authority").stat().st_mode) == 0o700


def test_the_servers_public_keys_are_those_of_the_hospitals(kits: Path) -> None:
    for name in ("north", "south"):
        private = load_ssh_private_key((kits / "hospitals" / name / "supernode.key").read_bytes(), None)
        public = load_ssh_public_key((kits / "server" / "hospitals" / f"{name}.pub").read_bytes())
        assert private.public_key() == public


def test_a_second_time_changes_nothing(kits: Path, provision: Provision) -> None:
    before = {name: path.read_bytes() for name, path in files(kits).items()}
    provision()
    assert {name: path.read_bytes() for name, path in files(kits).items()} == before


def test_a_new_hospital_and_one_that_leaves(kits: Path, provision: Provision, federation_file: Path) -> None:
    before = {name: files(kits)[name].read_bytes() for name in secrets_in(kits)}
    federation_file.write_text(federation_file.read_text().replace("{name: south}", "{name: west}"))
    printed = provision()
    assert {path.stem for path in (kits / "server" / "hospitals").iterdir()} == {"north", "west"}
    assert "south is no longer named" in printed
    assert {name: files(kits)[name].read_bytes() for name in before} == before
    assert "hospitals/west/supernode.key" in secrets_in(kits)


def test_a_hospital_may_keep_its_private_key(provision: Provision, federation_file: Path, tmp_path: Path) -> None:
    line = public_key_of_pair(tmp_path / "own.key")
    (tmp_path / "own.key.pub").write_text(f"{line} clerk@south\n")
    for given in ("own.key.pub", line):
        federation_file.write_text(
            federation_file.read_text().split("hospitals")[0]
            + f"hospitals: [{{name: north}}, {{name: south, public_key: {given}}}]\n"
        )
        provision()
        assert (tmp_path / "kits" / "server" / "hospitals" / "south.pub").read_text() == f"{line} south\n"
        assert secrets_in(tmp_path / "kits" / "hospitals" / "south") == set()
    other = public_key_of_pair(tmp_path / "new.key")
    assert "south has another key" in provision(f"hospitals=[{{name: south, public_key: {other}}}]")


def test_keys_that_will_not_do(provision: Provision, tmp_path: Path) -> None:
    line = public_key_of_pair(tmp_path / "own.key")
    shared = f"hospitals=[{{name: a, public_key: {line}}}, {{name: b, public_key: {line}}}]"
    assert "same public key" in provision(shared, code=2)
    assert "ssh-keygen" in provision("hospitals=[{name: a, public_key: missing.pub}]", code=2)
    (tmp_path / "rsa.pub").write_text("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDE x\n")
    assert "ssh-keygen" in provision("hospitals=[{name: a, public_key: rsa.pub}]", code=2)
    assert not (tmp_path / "kits").exists(), "a mistake leaves nothing behind"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_a_pair_of_ssh_keygen(provision: Provision, tmp_path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", tmp_path / "supernode.key"]
    subprocess.run(command, check=True)
    provision("hospitals=[{name: north, public_key: supernode.key.pub}]")
    smaller = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", tmp_path / "small"]
    subprocess.run(smaller, check=True)
    assert "not a P-384 key" in provision("hospitals=[{name: north, public_key: small.pub}]", code=2)


def test_the_site_file_of_a_kit_is_read_as_it_is_and_never_overwritten(kits: Path, provision: Provision) -> None:
    path = kits / "hospitals" / "north" / "site.yaml"
    site = read_site_config(path)
    command = supernode_command(site, path)
    assert command[command.index("--superlink") + 1] == "fl.example.org:443"
    assert command[command.index("--root-certificates") + 1] == str(path.parent / "ca.crt")
    path.write_text(path.read_text().replace("/path/to/your/data", "/data"))
    assert "is kept as it is" not in provision()
    assert "site.yaml is kept as it is: its server.address is fl.example.org:443" in provision("port=8443")
    assert yaml.safe_load(path.read_text())["data_root"] == "/data"
    assert "8443" in (kits / "server" / "nginx" / "nginx.conf").read_text()


def test_the_scripts_are_plain_sh(kits: Path) -> None:
    for path in files(kits).values():
        if path.suffix == ".sh":
            subprocess.run(["sh", "-n", path], check=True)


@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed")
@pytest.mark.parametrize("nginx", ["{}", "{address: '::', port: 8443, user: root}", "{address: 127.0.0.1}"])
def test_nginx_accepts_its_configuration(provision: Provision, tmp_path: Path, nginx: str) -> None:
    provision(f"nginx={nginx}")
    folder = tmp_path / "kits" / "server" / "nginx"
    for name in ("logs", "temp"):
        (folder / name).mkdir()
    command = [shutil.which("nginx", path="/usr/sbin:/usr/bin"), "-t", "-p", f"{folder}/", "-c", folder / "nginx.conf"]
    checked = subprocess.run(command, capture_output=True, text=True)
    # where there is no IPv6 or no right to port 443, everything else still has to be right
    assert "syntax is ok" in checked.stderr, checked.stderr


def test_units_are_filled_in(kits: Path, tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    for kit in (kits / "server", kits / "hospitals" / "north"):
        subprocess.run([kit / "install-units.sh", "fl", units], check=True, capture_output=True)
    texts = {path.name: path.read_text() for path in units.iterdir()}
    assert set(texts) == {f"medvlmoe-{part}.service" for part in ("superlink", "superexec", "nginx", "supernode")}
    for text in texts.values():
        assert "@" not in text and "{{" not in text
        script = next(line for line in text.splitlines() if line.startswith("ExecStart=")).partition("=")[2]
        assert os.access(script, os.X_OK)
    moved = kits.rename(tmp_path / "a folder with blanks")
    refused = subprocess.run([moved / "server" / "install-units.sh", "fl", units], capture_output=True, text=True)
    assert refused.returncode == 2 and "without blanks" in refused.stderr


def test_the_app_of_the_kit_is_the_one_the_package_expects(kits: Path) -> None:
    assert (kits / "server" / "app" / "pyproject.toml").read_text() == (
        flower_app.FOLDER / "pyproject.toml"
    ).read_text()


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("database", "true", "--database superlink.db"),
        ("health_port", "9999", "--health-server-address 127.0.0.1:9999"),
    ],
)
def test_settings_of_the_superlink(kits: Path, provision: Provision, key: str, value: str, line: str) -> None:
    script = kits / "server" / "start-superlink.sh"
    assert line not in script.read_text()
    provision(f"superlink={{{key}: {value}}}")
    assert line in script.read_text()


def test_the_example_of_the_manual(federation_file: Path, provision: Provision, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text(encoding="utf-8")
    example = re.search(r"`federation\.yaml`:\n\n((?:    .*\n)+)", text)
    assert example is not None
    federation_file.write_text(re.sub(r"^    ", "", example[1], flags=re.MULTILINE))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "south.pub").write_text(public_key_of_pair(tmp_path / "own.key"))
    assert "for the server, fl.example.org:443" in provision()
    assert secrets_in(tmp_path / "kits" / "hospitals") == {"north/supernode.key"}
