"""Files that are either whole or not there: temporary file, fsync, rename."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from medvlmoe.errors import CheckpointError

OUTPUT_ROOT = "output.root"
"""The key that says where the files of a run go."""


def write_atomically(path: Path, write: Callable[[Path], object], *, key: str | None = OUTPUT_ROOT) -> None:
    """Call ``write`` with a temporary path beside ``path``, flush it to disk, then rename it into place.

    A reader sees the old file or the new one, never half of one; after an error the old file is still there.

    Args:
        path: the file.
        write: writes it under another name.
        key: the command's key that says where the file goes, for the error; ``None`` if no key does.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:
        if isinstance(error, OSError) or "No space left" in str(error) or "I/O error" in str(error):
            raise cannot_write(path, error, key) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # it may not be there, nor its folder
            temporary.unlink()


def cannot_write(path: Path, error: Exception, key: str | None = OUTPUT_ROOT) -> CheckpointError:
    """The error of a file or folder that cannot be written; ``key`` as for :func:`write_atomically`."""
    mend = "free space, or let this user write there" if key is None else f"free space or choose another {key}"
    return CheckpointError(f"cannot write {path}: {error}; {mend}")


def move_file(source: Path, path: Path) -> None:
    """Rename a file, atomically and for good.

    Raises:
        CheckpointError: it is not there, or the folder cannot be written.
    """
    try:
        os.replace(source, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error, None) from error


def write_text(path: Path, text: str, *, key: str | None = OUTPUT_ROOT) -> None:
    """Write a UTF-8 text file atomically; ``key`` as for :func:`write_atomically`."""
    write_atomically(path, lambda temporary: _write_whole(temporary, text.encode()), key=key)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file atomically."""
    write_atomically(path, lambda temporary: shutil.copyfile(source, temporary))


def write_json(path: Path, value: Any, *, key: str | None = OUTPUT_ROOT) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is not JSON and is refused.

    ``key`` as for :func:`write_atomically`.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", key=key)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def append_json_line(path: Path, value: Any, *, key: str | None = OUTPUT_ROOT) -> None:
    """Append one line to a JSON-lines file and flush it to disk; ``key`` as for :func:`write_atomically`.

    A line torn by a crash is cut off before the next one is written, so every line that a reader sees is whole.
    """
    line = (json.dumps(value, allow_nan=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with open(path, "ab+") as file:
            _cut_torn_line(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync_folder(path.parent)  # else the power could take the file with its first line
    except OSError as error:
        raise cannot_write(path, error, key) from error


def read_json_lines(path: Path) -> Iterator[Any]:
    """The whole lines of a JSON-lines file, in order; none if the file does not exist.

    Raises:
        CheckpointError: a whole line is not JSON.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith("\n"):
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise CheckpointError(f"{path} line {number} is damaged ({error}); delete that line") from error
                yield value


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, atomically.

    Each is asked for twice and let go of, so that a mapping of tensors on disk is never in memory as a whole
    (safetensors' own writer wants all of them at once, and a copy).
    """
    write_atomically(path, lambda temporary: _write_safetensors(temporary, tensors, metadata or {}))


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises:
        CheckpointError: the file is missing, truncated or not a safetensors file.
    """
    with _reading(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


class TensorFile(Mapping[str, torch.Tensor]):
    """The tensors of a safetensors file, each read when it is asked for: a large model is never in memory as a whole.

    The file stays open: replacing or deleting it on disk changes nothing here.

    Args:
        path: the file.
        names: the tensors to show; ``None`` for all.

    Raises:
        CheckpointError: the file is missing, damaged or lacks one of the names.
    """

    def __init__(self, path: Path, names: Iterable[str] | None = None) -> None:
        with _reading(path):
            # Not through a memory map: its pages would count as memory of this process for as long as the file is open.
            self._file = safe_open(path, framework="pt", backend="pread")
            there = list(self._file.keys())
        self._names = dict.fromkeys(there if names is None else names)
        self._path = path
        missing = sorted(set(self._names).difference(there))
        if missing:
            raise CheckpointError(f"{path} has no tensor '{missing[0]}'; it is of another model")

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        with _reading(self._path):
            return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:  # a mapping's own way is to read the tensor
        return name in self._names

    def shape_of(self, name: str) -> torch.Size:
        """Shape of a tensor, from the file's header."""
        with _reading(self._path):
            return torch.Size(self._file.get_slice(name).get_shape())

    def metadata(self) -> dict[str, str]:
        """What the writer noted beside the tensors."""
        with _reading(self._path):
            return dict(self._file.metadata() or {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class RenamedTensors(Mapping[str, torch.Tensor]):
    """Some tensors of a mapping under other names, each looked up when it is asked for.

    Args:
        tensors: the mapping.
        prefix: only names that begin so are shown, without it.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix
        self._names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class LayeredTensors(Mapping[str, torch.Tensor]):
    """The tensors of several mappings, each looked up when it is asked for.

    Args:
        layers: of one name, the tensor of the last mapping that has it is shown.
    """

    def __init__(self, *layers: Mapping[str, torch.Tensor]) -> None:
        self._layers = layers

    def __getitem__(self, name: str) -> torch.Tensor:
        for layer in reversed(self._layers):
            if name in layer:
                return layer[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(name in layer for layer in self._layers)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for layer in self._layers for name in layer))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except Exception as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _write_whole(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


_SAFETENSORS_TYPES = {  # in the order in which safetensors' own writer lays them out, so that all are aligned
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def _write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """The format: https://github.com/huggingface/safetensors#format. The bytes are those of safetensors' own writer."""
    described = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    types = list(_SAFETENSORS_TYPES)
    order = sorted(described, key=lambda name: (types.index(described[name][0]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape = described[name]
        begin, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS_TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    described_in = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    described_in += b" " * (-len(described_in) % 8)
    with open(path, "wb") as file:
        file.write(len(described_in).to_bytes(8, "little"))
        file.write(described_in)
        for name in order:
            tensor = tensors[name].detach().cpu().contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _cut_torn_line(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(0, os.SEEK_END)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
