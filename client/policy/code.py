"""Whose code does the work: the package that the hospital installed and reviewed, or a copy that came with the run."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from flwr.common.constant import APP_DIR
from flwr.supercore.utils import get_flwr_home

from client.policy.config import INSTALLED_BUNDLE, SitePolicy
from client.policy.refusal import PolicyRefusalError
from strategies import error_codes, flower_app

_PACKAGES = ("client", "medvlmoe", "strategies")


def check_code(policy: SitePolicy, fab_hash: str | None) -> None:
    """What runs here, and the bundle (FAB) that the run came with.

    This guards against a run whose bundle holds a copy of the package, which Flower puts before the installed one. A
    bundle made to do harm runs before this line: only ``medvlmoe supernode``, which runs no bundle's code, stops it.

    Args:
        policy: the site's policy.
        fab_hash: SHA-256 of the bundle; ``None`` if the site's own launcher did not start this process.

    Raises:
        PolicyRefusalError: code that the site has not reviewed.
    """
    if policy.installed_code_only:
        for name in _PACKAGES:
            _refuse_copy(name)
    if policy.fab_hashes is None:
        return
    if fab_hash is None:
        raise PolicyRefusalError(
            error_codes.CODE_NOT_REVIEWED,
            "policy.fab_hashes is set, and the bundle's hash is only known under medvlmoe supernode: start that",
        )
    known = [flower_app.fab_hash() if known == INSTALLED_BUNDLE else known for known in policy.fab_hashes]
    if fab_hash not in known:
        raise PolicyRefusalError(error_codes.CODE_NOT_REVIEWED, f"bundle {fab_hash} is not in policy.fab_hashes")


def _refuse_copy(name: str) -> None:
    imported = Path(str(sys.modules[name].__file__)).resolve()
    if imported.is_relative_to((get_flwr_home() / APP_DIR).resolve()):
        raise PolicyRefusalError(
            error_codes.CODE_NOT_REVIEWED,
            f"package '{name}' comes from the bundle of the run, {imported.parent}; start medvlmoe supernode instead",
        )
    recorded = _recorded_file(f"{name}/__init__.py")
    if recorded is not None and recorded != imported:
        raise PolicyRefusalError(
            error_codes.CODE_NOT_REVIEWED, f"package '{name}' is {imported}, but {recorded} is installed"
        )


def _recorded_file(name: str) -> Path | None:
    """Where the installed distribution keeps a file; ``None`` if it does not say (an editable installation)."""
    try:
        files = distribution("medvlmoe").files or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if str(file) == name), None)
