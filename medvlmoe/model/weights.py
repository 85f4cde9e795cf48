"""Weights on disk: found, read without running any code from them, checked, and loaded whole or not at all."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvlmoe.errors import CheckpointError
from medvlmoe.files import TensorFile, read_json
from medvlmoe.model.memory import finish_filling, shortened

_SAFE_SUFFIX = ".safetensors"
_SUFFIXES = (_SAFE_SUFFIX, ".bin", ".pt", ".pth")
_INDEX_SUFFIX = ".index.json"
# The names that transformers, timm and open_clip give to the weights in a directory, best first.
_USUAL_NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
# Training programs put the weights under one of these, beside the optimizer's state.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def is_local(weights: str) -> bool:
    """Whether a ``weights`` key names a file or directory here rather than a tag or a hub id."""
    return weights.endswith((*_SUFFIXES, _INDEX_SUFFIX)) or weights[:1] in "/.~" or Path(weights).exists()


def find_weights(path: Path, key: str) -> Path:
    """The weights file that ``path`` stands for: itself, or the one in a directory (its index, if cut in pieces).

    Args:
        path: a file or a directory.
        key: the configuration key that named it, for messages.

    Raises:
        CheckpointError: there is none, or more than one and none has a usual name.
    """
    if not path.exists():
        raise CheckpointError(f"{key}={path}: there is no such file or directory; check the path")
    if path.is_file():
        if not path.name.endswith((*_SUFFIXES, _INDEX_SUFFIX)):
            raise CheckpointError(f"{key}={path} is no weights file; name one that ends in {', '.join(_SUFFIXES)}")
        return path
    for name in _USUAL_NAMES:
        for candidate in (path / name, path / f"{name}{_INDEX_SUFFIX}"):
            if candidate.exists():
                return candidate
    others = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
    if len(others) == 1:
        return others[0]
    listed = f"several weights files ({shortened([file.name for file in others])})" if others else "no weights file"
    raise CheckpointError(f"{key}={path} holds {listed}; name the file itself")


def read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a file that :func:`find_weights` gave, by name.

    Torch files are read with ``weights_only=True``: nothing in them can run. Wrapping (``state_dict``, ``module.``)
    is taken off. Safetensors are read into memory of their own, not mapped.

    Raises:
        CheckpointError: damaged, incomplete, or a pickle that holds more than tensors.
    """
    if file.name.endswith(_INDEX_SUFFIX):
        return _read_pieces(file)
    return _read_file(file)


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Make ``tensors`` the state of ``module``; names and shapes must agree exactly. They become its parameters.

    Args:
        module: receives the weights; its parameters need no memory yet.
        tensors: its whole state. Other number formats are converted.
        path: where they come from, for the message.
        what: names the module in the message, for example ``vision backbone resnet18``.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape, or holds NaN or infinity.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [name for name in expected if name in tensors and tensors[name].shape != expected[name].shape]
    problems = [
        f"{len(names)} {kind} ({shortened(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the {what}: tensors {'; '.join(problems)}; choose its own weights")
    damaged = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if damaged:
        raise CheckpointError(
            f"{path}: {len(damaged)} tensors hold NaN or infinity ({shortened(damaged)}); get it again"
        )
    own = {name: _own(tensor, expected[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(own, assign=True)
    finish_filling(module)


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.name.endswith(_SAFE_SUFFIX):
        return _unwrapped(dict(TensorFile(file)), file)
    try:
        with warnings.catch_warnings(action="ignore"):  # about TorchScript, which is refused just below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own text recommends weights_only=False, which would run what the file holds.
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise CheckpointError(
                f"{file} holds more than tensors and was not opened, because it could run code; "
                f"save its tensors as {_SAFE_SUFFIX}"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} is not a whole weights file: {reason}") from error
    return _unwrapped(content, file)


def _read_pieces(index: Path) -> dict[str, Tensor]:
    """The tensors of a model cut into several files, as ``*.index.json`` lists them."""
    try:
        place: dict[str, str] = dict(read_json(index)["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{index} is not an index of weights (no weight_map); get it again") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(place.values())):
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names '{name}', which is no file beside it; get all files again")
        tensors |= _read_file(index.parent / name)
    lost = sorted(place.keys() - tensors.keys())
    if lost:
        raise CheckpointError(
            f"{index} lists {len(lost)} tensors that its files lack ({shortened(lost)}); get it again"
        )
    return tensors


def _unwrapped(content: Any, file: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{file} is not a mapping of names to tensors; save the model's state_dict()")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()}


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())  # no copy of the tensor, unlike isfinite on it


def _own(tensor: Tensor, kind: torch.dtype) -> Tensor:
    """The tensor as a parameter can hold it: dense, in this number format, its memory shared with no other."""
    tensor = tensor.to(kind).contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
