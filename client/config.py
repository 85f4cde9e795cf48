"""What a hospital decides for itself. The server cannot set any of it."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from medvlmoe.configuration import from_mapping
from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import ConfigError


@dataclass(kw_only=True)
class SiteConfig:
    """One hospital site (``site.yaml``).

    Attributes:
        name: the hospital's name in the federation.
        dataset: its data.
        data_root: folder that a relative ``dataset.root`` starts from.
        folder: the site's own folder: optimizer state, log, decoded images.
        cache: folder of decoded images; ``None``: ``<folder>/cache``.
        decode_workers: threads that decode images into the cache; ``None``: every core.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        devices: how many GPUs share each batch, or ``all``; on a CPU, how many processes.
        precision: overrides the server's ``training.precision``; ``None`` leaves it.
        workers: overrides ``training.workers``.
        accumulate: micro-batches a step, for a GPU too small for the batch; ``None`` leaves the server's choice.
    """

    name: str
    dataset: DatasetConfig
    data_root: str | None = None
    folder: str = "site"
    cache: str | None = None
    decode_workers: int | None = None
    device: str = "auto"
    devices: int | str = 1
    precision: str | None = None
    workers: int | None = None
    accumulate: int | None = None


def read_site_config(path: Path) -> SiteConfig:
    """Read ``site.yaml``; relative folders start from the file's own folder.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    config = from_mapping(SiteConfig, values or {})
    for name in ("folder", "cache", "data_root"):
        value = getattr(config, name)
        if value is not None:
            setattr(config, name, str(path.parent / value))
    return config
