"""Which file goes into whose kit.

::

    kits/authority/          ca.key, ca.crt: keep it apart; only issuing a certificate needs it
    kits/server/             everything of the server, no private key of a hospital
    kits/hospitals/<name>/   everything of one hospital, its own private key included (unless it keeps that itself)
"""

import ipaddress
import secrets
from pathlib import Path
from typing import Any

import yaml

from medvlmoe.configuration import to_mapping
from medvlmoe.errors import ConfigError
from server.provisioning.authority import Authority, server_certificate
from server.provisioning.config import HospitalConfig, ProvisionConfig
from server.provisioning.files import write_if_changed, write_private_once
from server.provisioning.hospital_key import public_key_of_pair, read_public_key
from server.provisioning.templates import rendered
from strategies import flower_app

# The SuperLink's own certificate: nginx, SuperExec and `flwr` reach it on this machine only.
_LOOPBACK = ("localhost", "127.0.0.1")
_WRITTEN_ONCE = Path("site.yaml")


def write_kits(config: ProvisionConfig) -> list[str]:
    """Write or bring up to date the kits of a federation.

    Private keys that are there stay; a hospital that is new gets its kit; one that is no longer named loses its
    place in the server's kit, while its own kit is left alone.

    Returns:
        What a person should know, line by line.

    Raises:
        ConfigError: a key or certificate is missing or wrong, or two hospitals have one key.
        CheckpointError: a file cannot be written.
    """
    output = Path(config.output)
    public_keys = {hospital.name: _public_key(output, hospital) for hospital in config.hospitals}
    _refuse_shared_keys(public_keys)
    authority = Authority.open(output / "authority", config.name, config.authority_days)
    notes = [*_write_server_kit(config, output / "server", authority, public_keys)]
    for hospital in config.hospitals:
        notes += _write_hospital_kit(config, output / "hospitals" / hospital.name, authority, hospital)
    return [note for note in notes if note]


def _write_server_kit(
    config: ProvisionConfig, kit: Path, authority: Authority, public_keys: dict[str, str]
) -> list[str]:
    notes = [
        server_certificate(authority, kit, "superlink", _LOOPBACK, config.days, config.renew),
        server_certificate(authority, kit / "nginx", "server", config.hosts, config.days, config.renew),
    ]
    if not (kit / "superexec.secret").exists():
        write_private_once(kit / "superexec.secret", secrets.token_bytes(32))
    _write_templates("server", kit, {**to_mapping(config), **_derived(config)})
    _copy_public(authority.folder / "ca.crt", kit / "ca.crt")
    _copy_public(flower_app.FOLDER / "pyproject.toml", kit / "app" / "pyproject.toml")
    for name, line in public_keys.items():
        path = kit / "hospitals" / f"{name}.pub"
        known = path.exists()
        if write_if_changed(path, f"{line} {name}\n") and known:
            notes.append(f"{name} has another key: copy server/ anew and run register.sh there")
    for path in (kit / "hospitals").glob("*.pub"):
        if path.stem not in public_keys:
            path.unlink()
            notes.append(f"{path.stem} is no longer named: copy server/ anew and run register.sh there")
    return notes


def _write_hospital_kit(
    config: ProvisionConfig, kit: Path, authority: Authority, hospital: HospitalConfig
) -> list[str]:
    values = {**to_mapping(config), **_derived(config), "hospital": to_mapping(hospital)}
    _write_templates("hospital", kit, values)
    _copy_public(authority.folder / "ca.crt", kit / "ca.crt")
    written = yaml.safe_load((kit / _WRITTEN_ONCE).read_text(encoding="utf-8"))
    address = (written.get("server") or {}).get("address") if isinstance(written, dict) else None
    if address != config.public_address:
        return [f"{kit / _WRITTEN_ONCE} is kept as it is: its server.address is {address}, not {config.public_address}"]
    return []


def _write_templates(name: str, kit: Path, values: dict[str, Any]) -> None:
    for path, text in rendered(name, values):
        if path != _WRITTEN_ONCE or not (kit / path).exists():
            write_if_changed(kit / path, text, executable=text.startswith("#!"))


def _public_key(output: Path, hospital: HospitalConfig) -> str:
    if hospital.public_key is not None:
        return read_public_key(hospital.public_key)
    path = output / "hospitals" / hospital.name / "supernode.key"
    line = public_key_of_pair(path)
    write_if_changed(path.with_name("supernode.key.pub"), f"{line} {hospital.name}\n")
    return line


def _refuse_shared_keys(public_keys: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    for name, line in public_keys.items():
        if line in owners:
            raise ConfigError(f"hospitals {owners[line]} and {name} have the same public key; each needs its own")
        owners[line] = name


def _derived(config: ProvisionConfig) -> dict[str, Any]:
    return {
        "public_address": config.public_address,
        "nginx_port": config.nginx_port,
        "listen": _listen(config.nginx.address, config.nginx_port),
    }


def _listen(address: str | None, port: int) -> str:
    if address is None:
        return str(port)
    if ipaddress.ip_address(address).version == 6:
        return f"[{address}]:{port}" + (" ipv6only=off" if address == "::" else "")
    return f"{address}:{port}"


def _copy_public(source: Path, target: Path) -> None:
    write_if_changed(target, source.read_text(encoding="utf-8"))
