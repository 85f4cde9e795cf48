"""Compose a typed configuration from the packaged Hydra files and command-line overrides."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medvlmoe.errors import ConfigError

Schema = TypeVar("Schema")


def compose(schema: type[Schema], overrides: Sequence[str] = (), config_name: str = "config") -> Schema:
    """Compose ``configs/<config_name>.yaml`` with Hydra overrides into a dataclass.

    Args:
        schema: dataclass that lists every key there is; a key that it lacks is an error.
        overrides: Hydra overrides, for example ``["experiment=quickstart", "federation.rounds=5"]``.
        config_name: primary file in the ``configs`` package.

    Raises:
        ConfigError: an unknown key or group, a value of the wrong type, or a malformed override.
    """
    logging.getLogger("hydra").setLevel(logging.WARNING)
    GlobalHydra.instance().clear()
    # First in the defaults list of the primary file: gives every key its type and its default.
    ConfigStore.instance().store(name="schema", node=schema)
    try:
        with initialize_config_module("configs", version_base="1.3"):
            plain = hydra_compose(config_name, overrides=list(overrides))
        return _typed(schema, OmegaConf.to_container(plain))  # as plain values: `+key` may have added to a struct
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises ValueError for some overrides
        raise ConfigError(_one_line(error)) from error


def from_mapping(schema: type[Schema], values: Any) -> Schema:
    """Turn a plain mapping (JSON, YAML) into a dataclass; unknown keys and wrong types are errors.

    Raises:
        ConfigError: as for :func:`compose`.
    """
    try:
        return _typed(schema, OmegaConf.create(values))
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as plain dicts, lists and scalars (for YAML and JSON)."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """The dataclass as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.create(to_mapping(config)))


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two plain mappings, with both values (``None`` where absent)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in {**old, **new}:
            found.update(differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {} if old == new else {prefix: (old, new)}


def _typed(schema: type[Schema], values: Any) -> Schema:
    typed = OmegaConf.merge(OmegaConf.structured(schema), values)
    assert isinstance(typed, DictConfig)
    return OmegaConf.to_object(typed)  # type: ignore[return-value]


def _one_line(error: Exception) -> str:
    text = str(error)
    unknown = re.search(r"Key '([^']+)' (?:is )?not in (?:struct|'(\w+)')", text)
    full_key = re.search(r"full_key: (\S+)", text)
    if unknown:
        return f"unknown configuration key '{full_key.group(1) if full_key else unknown.group(1)}'"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "reference_type", "Set the env"))]
    message = " ".join(kept[:3])
    return f"configuration: {message}" + (f" (key '{full_key.group(1)}')" if full_key else "")
