"""A large file that takes long to write: one process writes it, and what a killed one has written is not lost.

The content goes to a hidden file beside the final one, which is also the lock: the system frees it when its owner
dies, however it dies. A note beside it says how far the content is safely on disk, so that the next process goes on
from there. Where the file system knows no locks, two processes may write the same file at once: its content is a
function of its name, so both write the same bytes to the same places.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import uuid
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class PartialFile:
    """The content of ``path`` as it grows; a context manager that waits until no other process writes it.

    Leaving it keeps the content if :meth:`note` was ever called and deletes it otherwise, unless :meth:`finish` or
    :meth:`discard` was called.

    Attributes:
        file: open for reading and writing, at its start.
    """

    file: IO[bytes]

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.with_name(f".{path.name}.partial")
        self._note = path.with_name(f".{path.name}.progress")

    def __enter__(self) -> "PartialFile":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(os.open(self._content, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                _wait_for_lock(file, self._path)
                if _is_at(file, self._content):  # else its owner has finished or deleted it meanwhile
                    self.file = file
                    return self
            except BaseException:
                file.close()
                raise
            file.close()

    def __exit__(self, *_: object) -> None:
        if not self._note.exists():
            self.discard()
        with contextlib.suppress(OSError):  # what a full disk could not take was told by the write itself
            self.file.close()

    def noted(self) -> Any:
        """What :meth:`note` was last told, by this process or one before; ``None`` if never."""
        try:
            return json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def note(self, progress: Any) -> None:
        """Flush the content to disk, then write down how far it is (JSON)."""
        self.file.flush()
        os.fsync(self.file.fileno())
        write_small(self._note, json.dumps(progress))

    def finish(self) -> None:
        """Flush the content to disk and give it its final name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if _is_at(self.file, self._content) or not self._path.exists():  # without locks another may have finished it
            os.replace(self._content, self._path)
        self.forget()

    def forget(self) -> None:
        """Delete the note, and one that a killed process had only half written."""
        for path in self._path.parent.glob(f"{self._note.name}*"):
            with contextlib.suppress(OSError):
                path.unlink()

    def discard(self) -> None:
        """Delete the content and its note."""
        self.forget()
        with contextlib.suppress(OSError):
            if _is_at(self.file, self._content):
                self._content.unlink()


def write_small(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    temporary = path.with_name(f".{path.name.removeprefix('.')}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _wait_for_lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        logger.info("waiting for another process that writes %s", path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        there, ours = path.stat(), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
