"""The command ``medvlmoe data``: look at a site's data before anything is trained on them."""

from collections.abc import Callable

from medvlmoe.data.audit.command import audit
from medvlmoe.data.check.command import check
from medvlmoe.errors import ConfigError

_COMMANDS: dict[str, Callable[[list[str]], int]] = {"check": check, "audit": audit}


def data(arguments: list[str]) -> int:
    """``medvlmoe data check|audit data=…``: dispatch to the function of the first word.

    Raises:
        ConfigError: there is no such word.
    """
    word, *rest = arguments or [""]
    if word not in _COMMANDS:
        raise ConfigError("say what to do: medvlmoe data check data=benchmarks data.root=/data, or data audit likewise")
    return _COMMANDS[word](rest)
