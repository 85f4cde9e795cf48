"""The app that ``flwr run`` sends to a federation: one ``pyproject.toml`` that names the installed apps.

Flower unpacks the app (a FAB) at every hospital and puts it in front of the import path, so a module in it would take
the place of the installed one. This one has no module. The same version of the package makes the same FAB, byte for
byte, wherever it is built: a hospital can tell from its own installation which FAB to expect.
"""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent


def fab_hash() -> str:
    """SHA-256 of the FAB, as Flower names it to the hospitals (hexadecimal)."""
    from flwr.cli.build import build_fab_from_disk  # takes half a second

    return hashlib.sha256(build_fab_from_disk(FOLDER)).hexdigest()
