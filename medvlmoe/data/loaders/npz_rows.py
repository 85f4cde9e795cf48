"""Rows of one array inside an ``.npz`` file, without the array in memory.

PathMNIST at 224 pixels has 13.5 GB of training images in one member of a compressed zip. Such a member can only be read
from its start, so rows are handed out from a short window that moves forward; whoever asks in rising order reads the
file once. A member that is stored uncompressed is memory-mapped.
"""

import threading
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from medvlmoe.data.decoding import usable_cores

# Threads ask for neighbouring rows, not for exactly the next one: each works on a block of its own, some blocks ahead.
_WINDOW_BYTES = 64 << 20
_ROWS_PER_CORE = 64
_LOCAL_HEADER = 30  # bytes of a zip member's local header before its name


class NpzRows:
    """Rows of the array ``name``; safe to ask from several threads, and sent to another process without its window.

    Args:
        path: the ``.npz`` file.
        name: the array.

    Raises:
        OSError, ValueError, zipfile.BadZipFile, zlib.error: the file is damaged; also when a row is asked for.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._lock = threading.Lock()
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                self.shape, self.dtype = _read_header(file)
                offset = file.tell()
        self._mapped: npt.NDArray[Any] | None = None
        if member.compress_type == zipfile.ZIP_STORED:
            start = _data_start(path, member.header_offset) + offset
            self._mapped = np.memmap(path, dtype=self.dtype, mode="r", offset=start, shape=self.shape)
        self._file: IO[bytes] | None = None
        self._first = 0  # row that the window begins with
        self._window: list[npt.NDArray[Any]] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return NpzRows, (self.path, self.name)

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        """One row. Asking for a row before the window starts the file anew."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} rows")
        if self._mapped is not None:
            return self._mapped[row]
        with self._lock:
            if self._file is None or row < self._first:
                self._restart()
            while row >= self._first + len(self._window):
                self._advance()
            return self._window[row - self._first]

    def _restart(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = zipfile.ZipFile(self.path).open(f"{self.name}.npy")  # noqa: SIM115 (stays open between rows)
        _read_header(self._file)
        self._first, self._window = 0, []

    def _advance(self) -> None:
        assert self._file is not None
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        content = self._file.read(size)
        if len(content) < size:
            raise ValueError(f"{self.name} ends in row {self._first + len(self._window)}")
        self._window.append(np.frombuffer(content, dtype=self.dtype).reshape(self.shape[1:]))
        if len(self._window) > max(_WINDOW_BYTES // max(1, size), _ROWS_PER_CORE * usable_cores()):
            del self._window[0]
            self._first += 1


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if fortran_order or dtype.hasobject or not shape:
        raise ValueError("its rows do not lie one after the other")
    return shape, dtype


def _data_start(path: Path, header_offset: int) -> int:
    """Where a stored member's bytes begin: its name and extra field may be longer here than in the directory."""
    with open(path, "rb") as file:
        file.seek(header_offset)
        header = file.read(_LOCAL_HEADER)
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return header_offset + _LOCAL_HEADER + name + extra
