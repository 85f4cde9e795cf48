"""The command ``medvlmoe phantom``."""

import dataclasses
import sys

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from medvlmoe.data.phantom.config import PhantomConfig
from medvlmoe.data.phantom.generator import generate_phantoms
from medvlmoe.errors import ConfigError

_USAGE = """medvlmoe phantom [key=value ...]
Write small synthetic stand-ins of the five benchmarks in their official layouts, or with benchmarks=[volumes]
three hospitals with synthetic chest CT.
Keys and defaults:"""


def phantom(arguments: list[str]) -> int:
    """Write phantoms as ``key=value`` arguments say, and print how many; returns the exit code.

    Example: ``medvlmoe phantom root=phantom images_per_site=400 'benchmarks=[chestxray14]'``.

    Raises:
        ConfigError: an unknown key, a malformed argument or a value out of range.
    """
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        sys.stdout.write(f"{_USAGE}\n{OmegaConf.to_yaml(OmegaConf.structured(PhantomConfig))}")
        return 0
    config = parse(arguments)
    counts = generate_phantoms(config)
    width = max(map(len, counts))
    lines = [f"{name:<{width}}  {count:>6} images" for name, count in counts.items()]
    sys.stdout.write("\n".join([f"synthetic images below {config.root}/", *lines]) + "\n")
    return 0


def parse(arguments: list[str]) -> PhantomConfig:
    """The configuration that ``key=value`` arguments describe.

    Raises:
        ConfigError: as for :func:`phantom`.
    """
    keys = [entry.name for entry in dataclasses.fields(PhantomConfig)]
    merged = OmegaConf.structured(PhantomConfig)
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not equals:
            raise ConfigError(f"'{argument}' is not key=value; keys are {', '.join(keys)}")
        if name not in keys:
            raise ConfigError(f"unknown key '{name}'; keys are {', '.join(keys)}")
        try:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([argument]))
        except (OmegaConfBaseException, YAMLError) as error:
            raise ConfigError(f"cannot read '{argument}': {str(error).strip().splitlines()[0]}") from error
    config = OmegaConf.to_object(merged)
    assert isinstance(config, PhantomConfig)
    return config
