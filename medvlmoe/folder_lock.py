"""One process at a time writes to a folder. A killed process leaves no lock behind."""

import fcntl
import os
import time
from pathlib import Path
from weakref import WeakValueDictionary

from medvlmoe.errors import ConfigError

_POLL_SECONDS = 0.5
_held: "WeakValueDictionary[tuple[int, int], FolderLock]" = WeakValueDictionary()


class FolderLock:
    """The folder is this process's until the object is gone; get one by :func:`lock_folder`.

    Args:
        descriptor: of the open folder.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


def lock_folder(folder: Path, seconds: float) -> FolderLock:
    """Lock a folder for this process, which may lock it several times. Where files cannot be locked, nothing happens.

    Args:
        folder: it must exist.
        seconds: how long to wait for another process that has it.

    Raises:
        ConfigError: another process has it for longer.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    status = os.fstat(descriptor)
    identity = (status.st_dev, status.st_ino)
    mine = _held.get(identity)
    if mine is not None:
        os.close(descriptor)
        return mine
    lock = FolderLock(descriptor)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"another process is writing to {folder}; wait for it or stop it, or choose another output.name"
                ) from None
            time.sleep(_POLL_SECONDS)
            continue
        except OSError:
            pass  # a file system without locks
        _held[identity] = lock
        return lock
