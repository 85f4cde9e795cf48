"""Compose a typed configuration from the packaged Hydra files and command-line overrides."""

import dataclasses
import difflib
import logging
import re
from collections.abc import Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medvlmoe.errors import ConfigError
from medvlmoe.overrides import prepare

Schema = TypeVar("Schema")


def compose(schema: type[Schema], overrides: Sequence[str] = (), config_name: str = "config") -> Schema:
    """Compose ``configs/<config_name>.yaml`` with Hydra overrides into a dataclass.

    Args:
        schema: dataclass that lists every key there is; a key that it lacks is an error.
        overrides: Hydra overrides, for example ``["experiment=quickstart", "federation.rounds=5"]``; what may be
            written beyond Hydra's own grammar is in :mod:`medvlmoe.overrides`.
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
            plain = hydra_compose(config_name, overrides=prepare(overrides))
        return _typed(schema, OmegaConf.to_container(plain))  # as plain values: `+key` may have added to a struct
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises ValueError for some overrides
        raise ConfigError(_one_line(error, schema)) from error


def from_mapping(schema: type[Schema], values: Any) -> Schema:
    """Turn a plain mapping (JSON, YAML) into a dataclass; unknown keys and wrong types are errors.

    Raises:
        ConfigError: as for :func:`compose`.
    """
    try:
        return _typed(schema, OmegaConf.create(values))
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error, schema)) from error


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


def _one_line(error: Exception, schema: type[Any]) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        offered = ", ".join(option for option in error.options or [] if option != "own_file")
        return f"no {group} '{name}'" + (f"; there are {offered}" if offered else "; see the groups in configs/")
    cause = error.__cause__ if isinstance(error, HydraException) else None
    # Hydra only tells which override failed; what is wrong with it is in its cause.
    text = str(cause if isinstance(cause, OmegaConfBaseException) else error)
    unknown = re.search(r"Key '([^']+)' (?:is )?not in (?:struct|'(\w+)')", text)
    full_key = re.search(r"full_key: (\S+)", text)
    if unknown:
        key = full_key.group(1) if full_key else unknown.group(1)
        return f"unknown configuration key '{key}'{_nearest(schema, key)}"
    if full_key and "missing mandatory value" in text:
        return f"the configuration key '{full_key.group(1)}' is needed and not set"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key", "object_type", "reference_type", "Set the env"))]
    message = " ".join(kept[:3])
    return f"configuration: {message}" + (f" (key '{full_key.group(1)}')" if full_key else "")


def _nearest(schema: Any, key: str) -> str:
    """A hint at the key of the same dataclass that was probably meant; empty if none is alike."""
    *parents, last = key.split(".")
    for name in parents:
        if dataclasses.is_dataclass(schema):
            schema = get_type_hints(schema).get(name)
        else:
            schema = next(iter(get_args(schema)[1:]), None)  # the values of a mapping
    if not dataclasses.is_dataclass(schema):
        return f"; to add it, write +{key}={{…}}" if get_args(schema) else ""
    alike = difflib.get_close_matches(last, [entry.name for entry in dataclasses.fields(schema)], n=1)
    return f"; did you mean '{'.'.join([*parents, alike[0]])}'?" if alike else ""
