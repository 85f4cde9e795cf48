"""Packages that import their parts when they are asked for: a server that only merges needs no encoder libraries."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562) whose names are looked up in its modules when they are first used.

    Args:
        package: the package's ``__name__``.
        module_of: the module, relative to the package, that defines each name.
    """

    def look_up(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return look_up
