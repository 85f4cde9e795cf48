"""``federation.yaml``: who takes part, and where the server is."""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from medvlmoe.configuration import from_mapping
from medvlmoe.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


@dataclass(kw_only=True)
class HospitalConfig:
    """One hospital.

    Attributes:
        name: its name in the federation; also a folder and the ``name`` of its ``site.yaml``.
        public_key: the hospital's own P-384 public key in OpenSSH format (the file, or its one line). Its private key
            then never leaves it. ``None``: a pair is made, and the private key is in that hospital's kit only.
    """

    name: str
    public_key: str | None = None

    def __post_init__(self) -> None:
        _refuse_odd_name("hospitals: name", self.name)


@dataclass(kw_only=True)
class SuperLinkConfig:
    """Flower's server process. It listens on the server's loopback address only.

    Attributes:
        port: its port.
        database: keep messages and registrations in a SQLite file, so that a run outlives a restart of the SuperLink.
            For models up to about 500 MB on the wire; with 2.6 GB Flower fails with "database is locked".
        health_port: loopback port of its gRPC health check; ``None``: it has none.
    """

    port: int = 8000
    database: bool = False
    health_port: int | None = None

    def __post_init__(self) -> None:
        _refuse_odd_port("superlink.port", self.port)
        if self.health_port is not None:
            _refuse_odd_port("superlink.health_port", self.health_port)


@dataclass(kw_only=True)
class NginxConfig:
    """The public door.

    Attributes:
        port: port that nginx listens on; ``None``: the public ``port``. Another one where a firewall forwards it.
        address: address that it listens on; ``None``: all of them.
        user: account of its worker processes when it is started by root; ``None``: nginx's own default.
    """

    port: int | None = None
    address: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        if self.port is not None:
            _refuse_odd_port("nginx.port", self.port)
        if self.address is not None:
            _refuse_unless_address("nginx.address", self.address)
        if self.user is not None:
            _refuse_odd_name("nginx.user", self.user)


@dataclass(kw_only=True)
class ProvisionConfig:
    """``federation.yaml``, or the same keys on the command line of ``medvlmoe provision``.

    Attributes:
        name: name of the federation, and of the connection that ``flwr run`` uses.
        hosts: DNS names and IP addresses under which hospitals reach the server; the first goes into their kits.
        port: port under which they reach it.
        days: validity of the server's certificates.
        authority_days: validity of the certificate authority. When it ends, every hospital needs a new ``ca.crt``.
        hospitals: who takes part.
        superlink: Flower's server process.
        nginx: the public door.
        output: folder of the kits; a relative one starts from the folder of ``federation.yaml``.
        renew: issue the server's certificates anew (same keys), for example before they expire.
    """

    name: str
    hosts: list[str]
    hospitals: list[HospitalConfig]
    port: int = 443
    days: int = 365
    authority_days: int = 3650
    superlink: SuperLinkConfig = field(default_factory=SuperLinkConfig)
    nginx: NginxConfig = field(default_factory=NginxConfig)
    output: str = "kits"
    renew: bool = False

    def __post_init__(self) -> None:
        _refuse_odd_name("name", self.name)
        _refuse_odd_port("port", self.port)
        if not self.hosts:
            raise ConfigError("hosts: name at least one host name or IP address of the server")
        for host in self.hosts:
            if not _HOST_NAME.fullmatch(host):
                _refuse_unless_address("hosts", host)
        for key in ("days", "authority_days"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least 1")
        names = [hospital.name.lower() for hospital in self.hospitals]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"hospitals: two are called '{twice}'; folders may not differ in capitals only")
        if len({self.superlink.port, self.superlink.health_port, self.nginx_port}) < 3:
            raise ConfigError("superlink.port, superlink.health_port and the port of nginx must differ")

    @property
    def nginx_port(self) -> int:
        """The port that nginx listens on."""
        return self.nginx.port or self.port

    @property
    def public_address(self) -> str:
        """``host:port`` that a hospital connects to."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def read_provision_config(path: Path, more: list[str]) -> ProvisionConfig:
    """Read ``federation.yaml``; relative paths in it start from its own folder.

    Args:
        path: the file.
        more: ``key=value`` arguments that win over the file, such as ``renew=true``.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for argument in more:
            key, equals, value = argument.partition("=")
            if not equals:
                raise ConfigError(f"'{argument}' is not key=value")
            values[key] = yaml.safe_load(value)
    except (OSError, UnicodeError, yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    config = from_mapping(ProvisionConfig, values)
    config.output = str(path.parent / Path(config.output).expanduser())
    for hospital in config.hospitals:
        if hospital.public_key is not None and not hospital.public_key.startswith("ecdsa-"):
            hospital.public_key = str(path.parent / Path(hospital.public_key).expanduser())
    return config


def _refuse_odd_name(key: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{key} '{name}': use 1 to 32 letters, digits, '-' and '_', the first a letter or digit")


def _refuse_odd_port(key: str, port: int) -> None:
    if not 0 < port < 65536:
        raise ConfigError(f"{key}={port}: a port is from 1 to 65535")


def _refuse_unless_address(key: str, host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(f"{key} '{host}' is neither a host name nor an IP address (write it without port)") from error
