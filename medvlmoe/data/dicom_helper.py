"""Compressed DICOM pixels, decoded in helper processes of our own.

GDCM and OpenJPEG are written in C. A damaged file can make them crash, and a crash would end a hospital's whole run
instead of one file; so they run in processes that may die. And they keep Python's lock while they work, so that threads
of one process would decode one file at a time. A helper serves one thread at a time and ends after a silent minute.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvlmoe.data import dicom_pixels

_LONGEST_SECONDS = 120.0  # a picture takes a fraction of a second


class DecoderCrashError(ValueError):
    """A helper died, or did not answer in time."""


class _Helper:
    """One process that decodes one file at a time."""

    def __init__(self, elements: Sequence[str]) -> None:
        self._connection: Connection
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", dicom_pixels.__file__, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._connection.send_bytes(json.dumps(list(elements)).encode())

    def decode(self, path: Path) -> tuple[npt.NDArray[Any], str]:
        try:
            self._connection.send_bytes(os.fsencode(path))
            if not self._connection.poll(_LONGEST_SECONDS):
                raise DecoderCrashError(f"its decoder did not end within {_LONGEST_SECONDS:.0f} s")
            header = json.loads(self._connection.recv_bytes())
            if "error" in header:
                raise ValueError(header["error"])
            content = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            self.end()
            code = self._process.returncode
            how = f"crashed (signal {-code}): the file is damaged" if code < 0 else f"ended with code {code}"
            raise DecoderCrashError(f"its decoder {how}") from error
        pixels = np.frombuffer(content, dtype=header["dtype"]).reshape(header["shape"])
        return pixels, str(header["interpretation"])

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


class _Pool:
    """Idle helpers of this process; a forked process starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Helper] = []
        self._owner = os.getpid()

    def decode(self, path: Path, elements: Sequence[str]) -> tuple[npt.NDArray[Any], str]:
        helper = self._take() or _Helper(elements)
        try:
            outcome = helper.decode(path)
        except DecoderCrashError:
            helper.end()
            raise
        except ValueError:  # the file's fault, told by a helper in good health
            self._give_back(helper)
            raise
        self._give_back(helper)
        return outcome

    def end(self) -> None:
        with self._lock:
            while self._idle and self._owner == os.getpid():
                self._idle.pop().end()

    def _take(self) -> _Helper | None:
        with self._lock:
            if self._owner != os.getpid():
                self._idle, self._owner = [], os.getpid()
            while self._idle:
                helper = self._idle.pop()
                if not helper.ended:
                    return helper
                helper.end()
        return None

    def _give_back(self, helper: _Helper) -> None:
        with self._lock:
            self._idle.append(helper)


_POOL = _Pool()
atexit.register(_POOL.end)


def decoded_apart(path: Path, elements: Sequence[str]) -> tuple[npt.NDArray[Any], str]:
    """:func:`medvlmoe.data.dicom_pixels.decoded_pixels` of a file, in another process.

    Args:
        path: the file.
        elements: keywords that the helper reads of it.

    Raises:
        ValueError: they cannot be decoded.
    """
    try:
        return _POOL.decode(path, elements)
    except DecoderCrashError:
        # An idle helper may have ended just before it was asked; a file that is at fault fails again.
        return _POOL.decode(path, elements)
