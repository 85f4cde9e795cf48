"""Files of a kit: private ones are written once and for their owner only, the others are brought up to date."""

import os
from pathlib import Path

from medvlmoe.errors import CheckpointError
from medvlmoe.files import write_text


def write_private_once(path: Path, content: bytes) -> None:
    """Write a secret with mode 0600 from the first byte on. A file that is there is an error, never overwritten.

    Raises:
        CheckpointError: the file is there already, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; choose another output folder") from error


def write_if_changed(path: Path, text: str, *, executable: bool = False) -> bool:
    """Bring a file that holds no secret up to date; whether it changed."""
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    if changed:
        write_text(path, text, key="output")
    path.chmod(0o755 if executable else 0o644)
    return changed
