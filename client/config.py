"""What a hospital decides for itself. The server cannot set any of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from client.policy import SitePolicy
from medvlmoe.configuration import from_mapping, to_mapping
from medvlmoe.data.audit.config import LeakAuditConfig
from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import ConfigError


@dataclass(kw_only=True)
class ConnectionConfig:
    """How the site reaches the federation (``server:`` in ``site.yaml``).

    Attributes:
        address: ``host:port`` of the SuperLink's public door, without ``https://``.
        root_certificates: PEM file of the authority that signed the server's certificate.
        key: the site's own private key (P-384, as ``ssh-keygen -t ecdsa -b 384`` writes it); mode 0600.
        runtime_port: port on this machine where the SuperNode serves its ClientApp; one for each SuperNode.
        health_address: ``host:port`` where the SuperNode answers gRPC health checks; ``None``: it answers none.
    """

    address: str
    root_certificates: str
    key: str
    runtime_port: int = 9094
    health_address: str | None = None

    def __post_init__(self) -> None:
        for name in ("address", "health_address"):
            value = getattr(self, name)
            if value is not None:
                _refuse_other_than_host_and_port(f"server.{name}", value)

    @property
    def host(self) -> str:
        """The server's host, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.address.rpartition(":")[2])


@dataclass(kw_only=True)
class SiteConfig:
    """One hospital site (``site.yaml``).

    Attributes:
        name: the hospital's name in the federation.
        dataset: its data.
        leak_audit: when its text counts as leaking the labels, and what happens then (docs/text.md).
        data_root: folder that a relative ``dataset.root`` starts from.
        folder: the site's own folder: optimizer state, log, decoded images.
        cache: folder of decoded images; ``None``: ``<folder>/cache``.
        decode_workers: threads that decode images into the cache; ``None``: every core.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        devices: how many GPUs share each batch, or ``all``; on a CPU, how many processes.
        precision: overrides the server's ``training.precision``; ``None`` leaves it.
        workers: overrides ``training.workers``.
        accumulate: micro-batches a step, for a GPU too small for the batch; ``None`` leaves the server's choice.
        vision_weights: the site's own copy of the server's ``model.vision.weights``; needed where the server's path is
            not there and part of the image encoder is frozen.
        text_weights: likewise of ``model.text.weights``.
        keep_reply: keep the last training reply on disk, as large as the upload, to send it again to the same request.
        server: the way to the federation; ``None`` in a simulation.
        policy: what may be asked and what may leave.
        predictions: folder for the scores of the test split as last evaluated, with the patients' identifiers: a
            simulation makes its model cards from them. They never leave the site; ``None`` keeps none.
        simulated: set by a simulation, never in the file: nothing leaves the machine, and no receipts are kept.
    """

    name: str
    dataset: DatasetConfig
    leak_audit: LeakAuditConfig = field(default_factory=LeakAuditConfig)
    data_root: str | None = None
    folder: str = "site"
    cache: str | None = None
    decode_workers: int | None = None
    device: str = "auto"
    devices: int | str = 1
    precision: str | None = None
    workers: int | None = None
    accumulate: int | None = None
    vision_weights: str | None = None
    text_weights: str | None = None
    keep_reply: bool = True
    server: ConnectionConfig | None = None
    policy: SitePolicy = field(default_factory=SitePolicy)
    predictions: str | None = None
    simulated: bool = False

    @property
    def own_model_files(self) -> list[str]:
        """Keys of the model for which the site names files of its own."""
        named = {"model.vision.weights": self.vision_weights, "model.text.weights": self.text_weights}
        return [key for key, path in named.items() if path is not None]

    @property
    def receipts_file(self) -> Path:
        """The receipts of everything that left this site."""
        return Path(self.folder) / "receipts.jsonl"


def read_site_config(path: Path) -> SiteConfig:
    """Read ``site.yaml``; relative folders and files start from the file's own folder.

    ``policy`` may be the name of a YAML file that holds it, so that somebody else can own that file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key.
    """
    values = _read_yaml(path)
    if isinstance(values.get("policy"), str):
        policy_file = path.parent / Path(values["policy"]).expanduser()
        values["policy"] = to_mapping(read_policy(policy_file))
    if "simulated" in values:
        raise ConfigError(f"{path}: 'simulated' is not for a site's file; delete it")
    config = from_mapping(SiteConfig, values)
    for holder, names in (
        (config, ("folder", "cache", "data_root", "vision_weights", "text_weights", "predictions")),
        (config.server, ("root_certificates", "key")),
    ):
        for name in names if holder is not None else ():
            value = getattr(holder, name)
            if value is not None:
                setattr(holder, name, str(path.parent / Path(value).expanduser()))
    return config


def read_policy(path: Path) -> SitePolicy:
    """Read a policy from a file of its own.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key.
    """
    return from_mapping(SitePolicy, _read_yaml(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} holds no keys; write name: value lines")
    return values or {}


def _refuse_other_than_host_and_port(key: str, value: str) -> None:
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536) or "/" in host:
        raise ConfigError(f"{key}={value}: write host:port without https://, such as superlink.example.org:443")
