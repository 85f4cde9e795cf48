"""Command-line arguments made ready for Hydra: plain paths as values, a user's own files, and new sites."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from medvlmoe.errors import ConfigError

_OWN_FILE = re.compile(r"(\w+)=(.+\.ya?ml)")
_SITES = re.compile(r"data\.sites=(\{.*\})", re.DOTALL)
_VISION_CHOICE = re.compile(r"model\.vision=(\w+)")
_DEEP_ADDITION = re.compile(r"(\+{1,2})(\w+\.\w+)\.([^=]+)=(.*)", re.DOTALL)


def prepare(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra overrides.

    Four things are taken off the user's hands:

    - A value that Hydra's grammar does not know (``data.root=/Klinik Süd/a=b``) is quoted.
    - ``data=my_sites.yaml`` chooses a file of one's own where ``data=real`` chooses a packaged one; the same holds for
      every group (``model=…``, ``training=…``, ``experiment=…``).
    - ``+data.sites.north={kind: manifest, …}`` adds a site, and ``data.sites={north: {…}, south: {…}}`` several.
      Hydra itself can only do so one level higher up.
    - ``model.vision=vit3d`` chooses a packaged image encoder (``configs/model/vision``), whatever the rest of the
      model; Hydra writes it ``model/vision=vit3d``.

    Raises:
        ConfigError: an argument is not ``key=value``, or an own file is missing or is not a YAML mapping.
    """
    chosen = [_VISION_CHOICE.sub(r"model/vision=\1", argument) for argument in arguments]
    return [_nested(_readable(_with_own_file(argument))) for argument in chosen]


def _with_own_file(argument: str) -> str:
    found = _OWN_FILE.fullmatch(argument)
    if found is None:
        return argument
    group, path = found[1], Path(found[2]).expanduser()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{argument}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{argument}: not a mapping of keys, like the files in configs/{group}")
    package = "_global_" if group == "experiment" else group
    ConfigStore.instance().store(group=group, name="own_file", node=values, package=package, provider=str(path))
    return f"{group}=own_file"


def _readable(argument: str) -> str:
    """The argument, with quotes around its value if Hydra's grammar can read it only so."""
    for candidate in (argument, _quoted(argument)):
        try:
            if not OverridesParser.create().parse_override(candidate).is_sweep_override():
                return candidate
        except HydraException:
            pass
    mend = "write key=value"
    if "{" in argument or "[" in argument:
        mend += ", with single quotes around texts inside {…} or […] that hold more than letters, digits, . / _ -"
    raise ConfigError(f"cannot read the argument '{argument}': {mend}")


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals or value.startswith(("{", "[", "'", '"')):
        return argument
    # In Hydra's quotes a backslash is itself unless it stands before a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + (r"\'" if end[2] else ""), value)
    return f"{key}='{escaped}'"


def _nested(argument: str) -> str:
    sites = _SITES.fullmatch(argument)
    if sites is not None:
        return f"++data={{sites:{sites[1]}}}"
    found = _DEEP_ADDITION.fullmatch(argument)
    if found is None:
        return argument
    plus, top, rest, value = found.groups()
    for name in reversed(rest.split(".")):
        value = f"{{{name}:{value}}}"
    return f"{plus}{top}={value}"
